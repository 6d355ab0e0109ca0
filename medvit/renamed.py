"""What had another name in earlier versions, so that runs, bundles and MLflow models made then are still read."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

TARGETS = {
    "medvit.augment.fused.Fused": "medvit.augment.chain.FusedChain",
    "medvit.data.augment.Fused": "medvit.augment.chain.FusedChain",
    "medvit.data.augment.nothing": "medvit.augment.fused.no_augmentation",
    "medvit.data.augment_monai.Monai": "medvit.augment.monai_random.Monai",
    "medvit.dicom.phantom.write_films": "medvit.phantom.films.write_films",
    "medvit.dicom.phantom_mr.write_volumes": "medvit.phantom.mr_series.write_volumes",
    "medvit.model.baseline.densenet121": "medvit.model.cnn.densenet121",
    "medvit.model.baseline.segresnet": "medvit.model.cnn.segresnet",
    "medvit.preprocess.film.FilmPreprocess": "medvit.preprocess.chain.FilmChain",
    "medvit.preprocess.volume.VolumePreprocess": "medvit.preprocess.chain.VolumeChain",
    "medvit.model.study.StudyBag": "medvit.model.bag.StudyBag",
}
"""`_target_` of configs that a run's folder or a user's own conf may hold."""

_CODE_OF_MLFLOW_MODELS = {  # what the code stored in an MLflow model imports
    "medvit.export.golden": "medvit.bundle.golden",
    "medvit.export.results": "medvit.clinical.units",
    "medvit.export.runtime": "medvit.bundle.runtime",
}


class _Moved(ModuleType):
    """A module under its earlier name; the present one is imported when something is taken from it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(_CODE_OF_MLFLOW_MODELS[self.__name__]), name)


def answer_earlier_imports() -> None:
    """Let the code of MLflow models that were logged by medvit 0.1 find its three modules."""
    for name in _CODE_OF_MLFLOW_MODELS:
        sys.modules.setdefault(name, _Moved(name))


def with_present_targets(node: Any) -> Any:
    """Return a config in which every earlier `_target_` has its present name; what is given is not changed."""
    if isinstance(node, dict):
        renamed = {key: with_present_targets(value) for key, value in node.items()}
        if isinstance(renamed.get("_target_"), str):
            renamed["_target_"] = TARGETS.get(renamed["_target_"], renamed["_target_"])
        return renamed
    return [with_present_targets(one) for one in node] if isinstance(node, list) else node
