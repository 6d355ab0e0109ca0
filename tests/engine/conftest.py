"""A small generated data set, and fits on it without a tracker."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medvit.config import conf_dir

SMALL = [
    *("model.image_size=[32,32]", "model.patch_size=[8,8]", "model.depth=2", "trainer.epochs=3"),
    "trainer.batch_size=8",
    *("trainer.progress_bar=false", "trainer.precision=32-true", "trainer.accelerator=cpu", "trainer.overlay_every=0"),
]


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set folder of generated films, indexed and split."""
    from medvit.index import index
    from medvit.phantom.films import write_films
    from medvit.split import split

    place = tmp_path_factory.mktemp("films")
    write_films(place / "raw", patients=30, seed=3)
    index(
        place / "raw" / "dicom",
        place / "data",
        {"csv": str(place / "raw" / "labels.csv"), "on": "AccessionNumber", "target": ["finding"], "keep": []},
        workers=1,
    )
    split(place / "data")
    return place / "data"


@pytest.fixture
def fitted(films: Path, tmp_path: Path) -> Callable[..., Any]:
    """Fit with some settings and return what `fit` returns, the numbers of every epoch, and the run's folder."""
    shutil.rmtree(films / "features", ignore_errors=True)

    def run(*settings: str, name: str = "run", resume: Path | None = None) -> Any:
        from medvit.engine.fit import fit

        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", [*SMALL, f"data.folder={films}", *settings])
        numbers: list[dict[str, float]] = []
        found = fit(
            OmegaConf.to_container(config, resolve=True), tmp_path / name, lambda n, _: numbers.append(n), resume
        )
        return found, numbers, tmp_path / name

    return run
