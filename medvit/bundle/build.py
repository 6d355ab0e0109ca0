"""Export a trained network as a bundle: write the parts, pass the parity gate, move the folder to its place."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.bundle import contents as bundles
from medvit.bundle import golden
from medvit.bundle.acceptance import envelope
from medvit.bundle.atomic_folder import atomic_folder
from medvit.bundle.card.chai import chai_xml
from medvit.bundle.card.facts import Facts
from medvit.bundle.card.markdown import LICENCE, card
from medvit.bundle.decision import activation, from_frozen
from medvit.bundle.onnx import write_onnx
from medvit.bundle.ood import distance_limits
from medvit.bundle.parity import Parity, Trained, gate
from medvit.bundle.runtime import Source
from medvit.bundle.variants import Wanted, add
from medvit.errors import BundleError, ConfigError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
_SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"


@dataclass(frozen=True)
class Exported:
    """Where the bundle stands, the digest of its content, and how far it lies from training."""

    folder: Path
    digest: str
    parity: Parity


def export(
    trained: Trained,
    contents: bundles.Contents,
    samples: Sequence[Source],
    out: Path,
    draft: bool = False,
    variants: Wanted | None = None,
) -> Exported:
    """Write a bundle to `out`, which must not be there yet, and compare it with training on `samples`.

    `variants` are measured on validation units and recorded; see `medvit.bundle.variants`.

    Raises:
        BundleError: parts are missing (and `draft` is False), `out` is taken or cannot be written, torch cannot write
            the network, or the exported path does not agree with the training path. Nothing is left behind.
    """
    with atomic_folder(out, BundleError) as part:
        digest = _write_all(part, trained, contents, draft, variants)
        parity = gate(part, trained.network, trained.preprocess, trained.probabilities, samples)
    logger.info(
        "exported; over %d images the bundle and training differ by at most %.1g (allowed 1e-5), %d refused by both",
        parity.images,
        parity.probability,
        parity.rejected,
    )
    return Exported(out, digest, parity)


def write_draft(trained: Trained, contents: bundles.Contents, out: Path) -> Path:
    """Write a bundle marked DRAFT without the gate: what a run keeps as its MLflow model before it is evaluated."""
    with atomic_folder(out, BundleError) as part:
        _write_all(part, trained, replace(contents, thresholds={}, calibration={}), draft=True)
    return out


def _write_all(
    part: Path, trained: Trained, contents: bundles.Contents, draft: bool, variants: Wanted | None = None
) -> str:
    """Write everything of a bundle into `part`, seal it and return its digest."""
    backbone: Any = trained.network.backbone
    bundles.write_parts(part, contents, draft, tuple(int(side) for side in backbone.grid))
    _write_models(part, trained, contents)
    golden.write(part, trained, contents.labels["names"], trained.golden)
    if variants is not None and variants.names:
        bundles.write_variants(part, add(part / "models", contents, variants))
    bundles.write_metadata(part, _monai_metadata(trained, contents))
    return bundles.seal(part)


def _write_models(part: Path, trained: Trained, contents: bundles.Contents) -> None:
    """Write the weights twice: safetensors, the truth, and ONNX, what runs."""
    from safetensors.torch import save_file

    network = trained.network.eval().float().cpu()
    models = part / "models"
    models.mkdir()
    state = {name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}
    # one entry alone: safetensors writes several in random order, and one run would have two hashes
    save_file(state, str(models / "model.safetensors"), metadata={"format": "pt"})
    properties = {
        "medvit.preprocess": contents.preprocess,
        "medvit.labels": contents.labels,
        "medvit.thresholds": contents.thresholds,
        "medvit.calibration": contents.calibration,
        "medvit.use": "Research only. NOT FOR DIAGNOSTIC USE.",
    }
    write_onnx(network, tuple(trained.preprocess.shape), models / "model.onnx", properties, trained.onnx)


def _monai_metadata(trained: Trained, contents: bundles.Contents) -> dict[str, Any]:
    """Return MONAI's bundle metadata; keys as its schema of 2024-07-25 wants them."""
    channels, *space = trained.preprocess.shape
    labels = list(contents.labels["names"])
    low, high = (
        trained.preprocess.shift,
        trained.preprocess.levels * trained.preprocess.scale + trained.preprocess.shift,
    )
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": ", ".join(contents.acceptance.get("modality", [])) or "n/a",
        "num_channels": channels,
        "spatial_shape": space,
        "dtype": "float32",
        "value_range": [low, high],
        "is_patch_data": False,
        "channel_def": {"0": "grey, 0 black to 1 white, normalised"},
    }
    logits = {
        "type": "probabilities",
        "format": "classes",
        "num_channels": len(labels),
        "spatial_shape": [1],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {str(index): f"logit of {name}" for index, name in enumerate(labels)},
    }
    return {
        "schema": _SCHEMA,
        "version": metadata.version("medvit"),
        "changelog": {metadata.version("medvit"): "exported by medvit"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": metadata.version("torch").split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {
            name: metadata.version(name)
            for name in ("onnxruntime", "pydicom", "imagecodecs", "opencv-python-headless")
            + (("monai", "torch") if trained.preprocess.steps else ())
        },
        "task": f"{contents.labels['activation']['name']} classification: {', '.join(labels)}",
        "description": f"{contents.name}: {_kind(trained.network)} fine-tuned with medvit. Not for diagnostic use.",
        "authors": "see docs/README.md",
        "copyright": "see LICENSE",
        "intended_use": "Research only; not for diagnostic use.",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": logits}},
    }


def _kind(network: Any) -> str:
    from medvit.model.vit import ViT

    inner = getattr(network.backbone, "network", network.backbone)  # of a network made elsewhere
    return "a Vision Transformer" if isinstance(network.backbone, ViT) else f"a network ({type(inner).__name__})"


def labels_of(task: Mapping[str, Any], definitions: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the `labels` part for a task's `to_json()`; `definitions` says per name what it means (text, code).

    Raises:
        ConfigError: a definition of a name the task does not have, or of another shape.
    """
    wrong = [
        f"definitions.{name}: expected one of {', '.join(task['names'])} with text and code: [VALUE, SCHEME, MEANING]"
        for name, meaning in (definitions or {}).items()
        if name not in task["names"] or not _defined(meaning)
    ]
    if wrong:
        raise ConfigError("; ".join(wrong))
    means = {name: dict((definitions or {}).get(name, {"text": name})) for name in task["names"]}
    return {"task": task["kind"], "names": list(task["names"]), "activation": activation(task), "definitions": means}


def _defined(meaning: Any) -> bool:
    code = meaning.get("code") if isinstance(meaning, Mapping) else ()
    good = code is None or (isinstance(code, list) and len(code) == 3 and all(isinstance(part, str) for part in code))
    return good and set(meaning) <= {"text", "code"}


def draft_contents(
    name: str,
    preprocess: Mapping[str, Any],
    task: Mapping[str, Any],
    facts: pd.DataFrame,
    provenance: Mapping[str, Any],
    definitions: Mapping[str, Any] | None = None,
    unlike: Mapping[str, Any] | None = None,
) -> bundles.Contents:
    """Return what a bundle says of a network that is trained and not yet evaluated.

    `preprocess` and `task` are their `to_json()`; `facts` are the manifest's rows of the training images (they set the
    acceptance limits); `provenance` holds run_id, hashes, code and environment; `unlike` is from `unlike.fitted`.
    """
    labels = labels_of(task, definitions)
    accepted = {**envelope(facts), **({"unlike": distance_limits(unlike)} if unlike else {})}
    return with_card(bundles.Contents(name, preprocess, labels, {}, {}, accepted, provenance, "", LICENCE, unlike))


def evaluated_contents(draft: bundles.Contents, frozen: Mapping[str, Any]) -> bundles.Contents:
    """Return `draft` with what evaluation added: thresholds.json as it was frozen on validation."""
    thresholds, calibration = from_frozen(frozen)
    provenance = {**draft.provenance, "thresholds": frozen.get("hash", "")}
    return replace(draft, thresholds=thresholds, calibration=calibration, provenance=provenance)


def with_card(
    contents: bundles.Contents,
    metrics: Mapping[str, float] | None = None,
    report: Mapping[str, Any] | None = None,
    author: Mapping[str, str] | None = None,
) -> bundles.Contents:
    """Return `contents` with the cards of what they hold now, of the sealed test report and of the authors' texts."""
    known = (contents.name, contents.labels, contents.provenance, metrics or {}, report or {}, contents.acceptance)
    facts = Facts(*known, author or {})
    return replace(contents, card=card(facts), chai=chai_xml(facts))
