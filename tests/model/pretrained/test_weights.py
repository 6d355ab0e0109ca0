"""What the loader does beside parity: folding, inflation, resizing, its report, and everything it refuses."""

from __future__ import annotations

import argparse
import importlib.util
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from medvit.errors import WeightsError
from medvit.model.backbone import vit
from medvit.model.design import TrainingOptions
from medvit.model.pretrained import adapt, canonical, convert, families, fetch, local_store, store
from medvit.model.pretrained.load import load
from medvit.weights import main

HERE = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("golden", HERE / "golden.py")
assert _spec is not None
assert _spec.loader is not None
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)
CHECKPOINTS: dict[str, Any] = json.loads((HERE / "golden" / "checkpoints.json").read_text())


def write(folder: Path, name: str = "hf vit logits", **config: Any) -> Path:
    row = CHECKPOINTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(golden.fill(row["shapes"], row["names"]), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**row["config"], **config}))
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path / "checkpoint")


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDVIT_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("name", [name for name in CHECKPOINTS if name != "versions"])
def test_a_file_without_config_json_is_of_its_own_family_or_refused_or_says_what_is_assumed(name: str) -> None:
    """A Hugging Face DINOv2 file alone was taken for a ViT: mean 0.5 and epsilon 1e-12, not ImageNet's and 1e-6."""
    row = CHECKPOINTS[name]
    right = families.detect(row["shapes"], canonical._flatten(row["config"]))
    try:
        found = families.detect(row["shapes"], {})
    except WeightsError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "medvit_family in config.json" in refusal
        return
    told = {field: getattr(found, field) for field in ("act", "eps", "rope", "theta", "offset", "reference")}
    assert told == {field: getattr(right, field) for field in told}
    assert found.assumed or (found.mean, found.std, found.pool) == (right.mean, right.std, right.pool)


def test_a_dinov2_file_alone_gives_the_tokens_it_gives_beside_its_config(tmp_path: Path) -> None:
    beside, alone = write(tmp_path / "beside", "hf dinov2"), write(tmp_path / "alone", "hf dinov2")
    (alone / "config.json").unlink()
    one, other = (load(str(folder), wanted={"heads": 3}).backbone.eval() for folder in (beside, alone))
    assert (other.mean, other.std, other.design.eps) == (one.mean, one.std, 1e-6)
    assert other.mean == (0.485, 0.456, 0.406)
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(other(image).prefix, one(image).prefix, rtol=0, atol=0)


def test_names_that_say_nothing_of_the_normalisation_are_loaded_with_a_word(tmp_path: Path) -> None:
    folder = write(tmp_path / "vit", "hf vit")
    (folder / "config.json").unlink()
    assert "mean 0.5, std 0.5 and epsilon 1e-12 assumed" in load(str(folder)).report


@pytest.mark.parametrize("name", ["hf vit", "hf dinov2", "hf clip", "timm clip", "hf siglip"])
def test_a_grey_image_gives_the_tokens_of_its_rgb_copy_normalised_as_the_checkpoint_wants(
    name: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "rgb", name)
    colour, grey = load(str(folder)).backbone.eval(), load(str(folder), in_channels=1).backbone.eval()
    pixels = torch.rand(2, 1, 32, 32)
    rgb = (pixels - torch.tensor(colour.mean)[:, None, None]) / torch.tensor(colour.std)[:, None, None]
    one = (pixels - grey.mean[0]) / grey.std[0]
    torch.testing.assert_close(grey(one).patches, colour(rgb).patches, rtol=1e-4, atol=2e-5)


def test_n_equal_channels_give_what_one_grey_channel_gives(checkpoint: Path) -> None:
    one = load(str(checkpoint), in_channels=1).backbone.eval()
    four = load(str(checkpoint), in_channels=4).backbone.eval()
    pixels = torch.randn(1, 1, 32, 32)
    assert len(four.mean) == 4
    torch.testing.assert_close(four(pixels.expand(-1, 4, -1, -1)).patches, one(pixels).patches, rtol=1e-4, atol=1e-5)


def test_an_inflated_encoder_gives_a_volume_of_equal_slices_the_patch_tokens_of_the_film(checkpoint: Path) -> None:
    flat = load(str(checkpoint), in_channels=1).backbone.eval()
    deep = load(str(checkpoint), (16, 32, 32), 1).backbone.eval()
    film = torch.randn(1, 1, 32, 32)
    volume = film[:, :, None].expand(-1, -1, 16, -1, -1)
    assert deep.grid == (2, 4, 4)
    expected = flat.patch_embed(film).flatten(2)
    torch.testing.assert_close(deep.patch_embed(volume).flatten(2), expected.repeat(1, 1, 2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(deep.pos_embed.reshape(2, 16, -1)[1], flat.pos_embed)
    with pytest.raises(WeightsError, match="cannot be inflated"):
        load(str(write(checkpoint.parent / "rope", "hf dinov3")), (16, 32, 32), 1)


def test_a_resized_patch_answers_a_resized_image_as_the_old_patch_did_the_old_one(checkpoint: Path) -> None:
    small = load(str(checkpoint), (32, 32), 1).backbone.eval()
    large = load(str(checkpoint), (64, 64), 1, wanted={"patch_size": [16, 16]}).backbone.eval()
    assert large.grid == small.grid == (4, 4)
    patch = torch.randn(1, 1, 8, 8)
    bigger = torch.nn.functional.interpolate(patch, size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(large.patch_embed(bigger), small.patch_embed(patch), rtol=1e-3, atol=1e-4)


def test_the_report_is_one_line_that_says_what_was_done(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="medvit.model.pretrained.load")
    loaded = load(str(checkpoint), (48, 64), 1)
    assert "\n" not in loaded.report
    assert "family hf-vit, 56 of 56 tensors matched" in loaded.report
    assert "positions 4x4 -> 6x8" in loaded.report
    assert "channels 3 -> 1 folded" in loaded.report
    assert caplog.messages == [loaded.report]
    assert loaded.backbone.provenance["licence"].startswith("Apache-2.0")
    assert str(checkpoint) not in loaded.report


def test_a_number_of_heads_that_nothing_tells_is_told_as_assumed(checkpoint: Path) -> None:
    """A wrong one changes no shape: the tokens are then wrong and everything else looks right."""
    config = json.loads((checkpoint / "config.json").read_text())
    assert config.pop("num_attention_heads") == 3
    assert "assumed" not in load(str(checkpoint)).report
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert "1 heads assumed by the width" in load(str(checkpoint)).report
    assert "assumed" not in load(str(checkpoint), wanted={"heads": 3}).report


def test_a_config_may_repeat_the_checkpoint_but_not_contradict_it(checkpoint: Path) -> None:
    model = vit([32, 32], str(checkpoint), 1, [8, 8], 48, 3, 3, positions="sincos", drop_path=0.2, keep=0.5)
    assert model.regime == TrainingOptions(drop_path=0.2, keep=0.5)
    with pytest.raises(WeightsError, match=r"width: 64 asked, the checkpoint has 48; act: silu asked.*leave these out"):
        vit([32, 32], str(checkpoint), 1, width=64, act="silu")
    with pytest.raises(WeightsError, match="heads: 4 asked, the checkpoint has 3"):
        vit([32, 32], str(checkpoint), 1, heads=4)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("vit_base_14", "hf dinov2"),
        ("vit_base_16", "hf vit"),
        ("vit_base_16_3d", "monai 3d"),
        ("vit_base_16_dinov3", "hf dinov3"),
        ("vit_so400m_14", "hf siglip"),
        ("vit_tiny_16", "hf deit"),
    ],
)
def test_the_switches_a_config_states_are_those_of_the_checkpoints_it_is_written_for(
    config: str, name: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "c", name)
    node = yaml.safe_load((HERE.parents[1] / "conf" / "model" / f"{config}.yaml").read_text())
    numbers = dict.fromkeys(("width", "depth", "heads", "patch_size", "mlp"))  # the stand-in is smaller
    size = CHECKPOINTS[name]["sizes"][0]
    node.pop("_target_")
    model = vit(**{**node, **numbers, "image_size": size, "weights": str(folder)})
    assert model.in_channels == 1
    assert model.prefix == node.get("prefix", model.prefix)
    assert model.regime.drop_path == node["drop_path"]


def test_a_head_count_that_does_not_divide_names_the_nearest_that_does(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", num_attention_heads=5)
    with pytest.raises(WeightsError, match=r"heads: 5 does not divide the width 48; nearest that does: (4|6)"):
        load(str(folder))


def test_an_unknown_family_names_the_nearest_model_type(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    save_file({"layer.a.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "dinov2_with_register"}')
    with pytest.raises(WeightsError, match=r"no checkpoint family fits.*nearest: dinov2_with_registers"):
        load(str(folder))
    (folder / "config.json").write_text('{"medvit_family": "hf-vti"}')
    with pytest.raises(WeightsError, match=r"family 'hf-vti' is unknown; nearest: hf-vit"):
        load(str(folder))


@pytest.mark.parametrize("cut", [4, 100, 5000])
def test_a_truncated_file_is_refused_by_name(checkpoint: Path, cut: int) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(WeightsError, match=r"model.safetensors is truncated or no safetensors file"):
        load(str(checkpoint))


def test_missing_and_unexpected_tensors_are_all_named_with_the_nearest(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    tensors["vit.encoder.layer.1.layernorm_befor.weight"] = tensors.pop("vit.encoder.layer.1.layernorm_before.weight")
    tensors.pop("vit.layernorm.bias")
    save_file(tensors, file)
    with pytest.raises(WeightsError) as error:
        load(str(checkpoint))
    message = str(error.value)
    assert "missing blocks.1.norm1.weight" in message
    assert "missing norm.bias" in message
    assert "unexpected blocks.1.layernorm_befor.weight" in message


def test_a_tensor_of_another_shape_is_named(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    tensors["vit.encoder.layer.2.output.dense.bias"] = torch.zeros(47)
    save_file(tensors, file)
    with pytest.raises(WeightsError, match=r"blocks.2.mlp.fc2.bias is \(47,\), expected \(48,\)"):
        load(str(checkpoint))


def test_a_pickle_is_never_opened_and_the_message_says_how_to_convert(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    file = tmp_path / "weights.pth"
    torch.save({"model": Bomb()}, file)
    with pytest.raises(WeightsError, match=r"weights.pth is a pickle.*medvit.weights convert"):
        load(str(file))
    (tmp_path / "pytorch_model.bin").write_bytes(file.read_bytes())
    with pytest.raises(WeightsError, match=r"is a pickle"):
        load(str(tmp_path))
    with pytest.raises(WeightsError, match="could run code"):
        convert.convert(file, tmp_path / "out")
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "teacher", None])
def test_a_converted_pickle_gives_the_tokens_of_its_tensors(checkpoint: Path, tmp_path: Path, wrapper: str) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    content: dict[str, Any] = {wrapper: tensors} if wrapper else tensors
    if wrapper == "model":  # what MAE and nnU-Net put beside their tensors
        content |= {"args": argparse.Namespace(lr=1e-3), "epoch": np.float64(3), "scores": np.zeros(3, np.float32)}
    torch.save(content, tmp_path / "old.pth")
    assert (
        main(["convert", str(tmp_path / "old.pth"), str(tmp_path / "new"), "--family", "hf-vit", "--heads", "3"]) == 0
    )
    new, old = load(str(tmp_path / "new")).backbone.eval(), load(str(checkpoint)).backbone.eval()
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(new(image).patches, old(image).patches, rtol=0, atol=0)


def test_a_truncated_pickle_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100)}, tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:300])
    with pytest.raises(WeightsError, match=r"a\.pth is truncated"):
        convert.convert(tmp_path / "a.pth", tmp_path / "out")


def test_an_altered_checkpoint_no_longer_matches_its_checksums(checkpoint: Path) -> None:
    store.write_sums(checkpoint)
    load(str(checkpoint))
    file = checkpoint / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match=r"model.safetensors: sha256 is not the one in SHA256SUMS"):
        load(str(checkpoint))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("microsoft/rad-dinno", "nearest: microsoft/rad-dino"),
        ("google/medsiglip-448", "It is gated: accept its terms"),
        ("microsoft/rad-dino", r"fetch microsoft/rad-dino@REVISION"),
        ("./nowhere/at-all", "no file, directory or hub id"),
    ],
)
def test_an_id_that_is_not_here_says_how_to_get_it_without_touching_the_network(name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load(name)


def test_fetching_needs_a_pinned_revision() -> None:
    with pytest.raises(WeightsError, match="40 hex digits"):
        fetch.fetch("microsoft/rad-dino")


def test_a_packed_checkpoint_loads_elsewhere_by_its_hub_id(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    home = local_store.local("google/vit-base-patch16-224")
    home.parent.mkdir(parents=True)
    checkpoint.rename(home)
    assert main(["pack", "google/vit-base-patch16-224", str(tmp_path / "vit.zip")]) == 0
    for file in home.iterdir():
        file.unlink()
    home.rmdir()
    assert main(["unpack", str(tmp_path / "vit.zip")]) == 0
    assert "load it as google/vit-base-patch16-224" in capsys.readouterr().out
    assert load("google/vit-base-patch16-224").backbone.provenance["weights"] == "google/vit-base-patch16-224"


@pytest.mark.parametrize("member", ["../escape.safetensors", "run.py", "a/b.safetensors"])
def test_a_pack_with_a_foreign_name_in_it_is_refused_and_nothing_is_written(member: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("NAME", "a")
        archive.writestr("SHA256SUMS", "")
        archive.writestr(member, "x")
    with pytest.raises(WeightsError, match="no pack of medvit"):
        convert.unpack(tmp_path / "x.zip")
    assert not local_store.folder().exists()


def test_every_family_says_its_licence_and_source() -> None:
    assert all(family.licence and family.citation for family in families.table().families.values())


def test_the_list_names_gated_checkpoints(capsys: Any) -> None:
    assert main(["list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("google/medsiglip-448"))
    assert "gated" in line


def test_show_gives_the_exit_code_of_its_error(capsys: Any) -> None:
    assert main(["show", "microsoft/rad-dinno"]) == WeightsError.exit_code
    assert "nearest" in capsys.readouterr().err


def test_a_patch_of_other_axes_is_refused(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match="axes"):
        load(str(checkpoint), (32, 32), 1, wanted={"patch_size": [8, 8, 8]})
    with pytest.raises(WeightsError, match="axes"):
        load(str(write(checkpoint.parent / "deep", "monai 3d")), (32, 32), 1)


def test_the_checkpoint_is_left_as_it_was_when_it_is_adapted(checkpoint: Path) -> None:
    from medvit.model.pretrained import canonical

    native = canonical.read(*store.read(checkpoint)[:2])
    before = native.state["patch_embed.weight"].clone()
    adapt.channels(native, 1)
    adapt.grid(native, (8, 8))
    assert torch.equal(native.state["patch_embed.weight"], before)
    assert native.state["pos_embed"].shape[0] == 16


def test_an_old_pickle_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """It ended in a traceback."""
    (tmp_path / "weights.bin").write_bytes(pickle.dumps({"model": Path("x")}, 2))
    with pytest.raises(WeightsError, match=r"weights\.bin is no file of torch\.save that can be opened without"):
        convert.convert(tmp_path / "weights.bin", tmp_path / "out")
