"""A tiny network on generated films, and a bundle of it, made once for all tests of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

NAMES = ("opacity",)
TASK = {"kind": "binary", "names": list(NAMES), "settings": {}, "fitted": {}}


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight generated chest films, both photometric interpretations among them."""
    from medvit.phantom.films import write_films

    folder = tmp_path_factory.mktemp("films")
    write_films(folder, patients=5, seed=1)
    return sorted((folder / "dicom").rglob("IM*"))[:8]


@pytest.fixture(scope="session")
def facts(films: list[Path]) -> pd.DataFrame:
    from medvit.dataset.manifest import fact_columns
    from medvit.dicom.read import read_film

    return pd.DataFrame([fact_columns(read_film(file).facts) for file in films])


@pytest.fixture(scope="session")
def trained(films: list[Path]) -> Any:
    import torch

    from medvit.bundle.decision import Decider
    from medvit.bundle.parity import Trained
    from medvit.model.network import Network
    from medvit.model.pool import ClsPool
    from medvit.model.vit import ViT
    from medvit.preprocess import FilmPreprocess

    torch.manual_seed(0)
    backbone = ViT(image_size=(48, 48), patch_size=(16, 16), in_channels=1, width=32, depth=2, heads=2)
    network = Network(backbone, ClsPool(), outputs=1).eval()
    with torch.no_grad():  # a head that tells films apart, so that a wrong path shows in the probabilities
        network.head.weight.mul_(40)
        network.head.bias.fill_(3.3)  # about one half for these films, where a probability moves most
    probabilities = Decider(NAMES, {"name": "sigmoid"}, {}, {}).probabilities
    cases = [[film.read_bytes()] for film in films[:2]]
    return Trained(network, FilmPreprocess(size=(48, 48)), probabilities, cases)


@pytest.fixture(scope="session")
def contents(trained: Any, facts: pd.DataFrame) -> Any:
    from medvit.bundle.acceptance import envelope
    from medvit.bundle.build import labels_of
    from medvit.bundle.card.facts import Facts
    from medvit.bundle.card.markdown import LICENCE, card
    from medvit.bundle.contents import Contents

    labels = labels_of(TASK, {"opacity": {"text": "A focal opacity in a lung"}})
    provenance = {"run_id": "0" * 32, "hashes": {"manifest": "ab" * 32}, "code": {"commit": "", "dirty": None}}
    return Contents(
        name="test opacity",
        preprocess=trained.preprocess.to_json(),
        labels=labels,
        thresholds={"opacity": {"threshold": 0.5, "score": "calibrated", "rule": "youden"}},
        calibration={"opacity": {"slope": 0.8, "intercept": -0.1}},
        acceptance=envelope(facts),
        provenance=provenance,
        card=card(Facts("test opacity", labels, provenance, {"test/auroc": 0.91})),
        licence=LICENCE,
    )


@pytest.fixture(scope="session")
def bundle(trained: Any, contents: Any, films: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medvit.bundle.build import export

    out = tmp_path_factory.mktemp("bundle") / "opacity-1"
    parity = export(trained, contents, films, out).parity
    assert parity.images == len(films)
    assert np.isfinite(parity.probability)
    return out
