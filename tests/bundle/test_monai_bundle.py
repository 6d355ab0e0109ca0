"""MONAI's own tools take a bundle: its metadata keep the schema's rules, and its weights load without a pickle."""

from __future__ import annotations

import json

import jsonschema
import pytest
import torch

WORDS = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors")
TENSOR = {
    "type": "object",
    "properties": {
        **{key: {"type": "string"} for key in ("type", "format", "dtype")},
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    },
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
}
SIDES = {side: {"type": "object", "additionalProperties": TENSOR} for side in ("inputs", "outputs")}
SCHEMA = {  # the rules of meta_schema_20240725.json for a network of tensors, which MONAI fetches from its site
    "type": "object",
    "properties": {
        **{key: {"type": "string"} for key in (*WORDS, "copyright", "intended_use")},
        **{key: {"type": "object"} for key in ("required_packages_version", "changelog")},
        "network_data_format": {"type": "object", "properties": SIDES, "required": [*SIDES]},
    },
    "required": [*WORDS, "copyright", "required_packages_version", "network_data_format"],
}


def test_the_metadata_keep_the_rules_of_the_schema_they_name(bundle) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["schema"].endswith("/meta_schema_20240725.json")
    jsonschema.Draft201909Validator(SCHEMA).validate(metadata)
    del metadata["network_data_format"]["inputs"]["image"]["value_range"]
    with pytest.raises(jsonschema.ValidationError):  # the schema does look
        jsonschema.Draft201909Validator(SCHEMA).validate(metadata)


@pytest.mark.filterwarnings("ignore:Cannot find the config file")
def test_monai_loads_the_weights_from_safetensors_with_every_unpickler_closed(bundle, trained, monkeypatch) -> None:
    import pickle

    from monai.bundle import load

    def closed(*_, **__):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(pickle, "load", closed)
    monkeypatch.setattr(pickle, "loads", closed)
    file = "models/model.safetensors"
    found = load(bundle.name, bundle_dir=bundle.parent, model_file=file, workflow_type="infer", device="cpu")
    expected = trained.network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    into = load(bundle.name, model=trained.network, bundle_dir=bundle.parent, model_file=file, device="cpu")
    assert into is trained.network
