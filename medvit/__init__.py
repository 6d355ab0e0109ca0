"""medvit fine-tunes Vision Transformers on radiology images: from DICOM files to a tested, exportable model.

`medvit.train(...)`, `medvit.read_film(...)` and the others of `medvit.api` are loaded when they are first used.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from medvit.renamed import answer_earlier_imports

if TYPE_CHECKING:
    from medvit.api import compare as compare
    from medvit.api import crossval as crossval
    from medvit.api import curve as curve
    from medvit.api import decathlon as decathlon
    from medvit.api import embed as embed
    from medvit.api import evaluate as evaluate
    from medvit.api import export as export
    from medvit.api import index as index
    from medvit.api import load_bundle as load_bundle
    from medvit.api import predict as predict
    from medvit.api import pretrain as pretrain
    from medvit.api import read_film as read_film
    from medvit.api import read_volume as read_volume
    from medvit.api import register as register
    from medvit.api import search as search
    from medvit.api import split as split
    from medvit.api import train as train
    from medvit.api import vit as vit

# onnxruntime, MLflow and the Hugging Face hub send usage events unless told not to before their first import. Every
# process of medvit (commands, children, the code in an MLflow model) imports this file first.
TELEMETRY_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
os.environ.update(TELEMETRY_OFF)
# OpenVINO reports its import, and no variable stops it; it does without this package of its own.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__version__ = "0.1.0"
_READERS = ("decathlon", "load_bundle", "read_film", "read_volume", "vit")
_COMMANDS = (
    *("index", "split", "embed", "pretrain", "train", "search", "crossval", "curve", "evaluate", "compare", "register"),
    *("export", "predict"),
)

answer_earlier_imports()


class _Command(ModuleType):
    """The module of a command, which is also the function of the same name in `medvit.api`."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return self._function(*arguments, **settings)

    @property
    def _function(self) -> Any:
        return getattr(importlib.import_module("medvit.api"), self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> Any:
        import inspect

        return inspect.signature(self._function)


class _Package(ModuleType):
    """`medvit` itself: importing `medvit.train` in whatever way leaves a `medvit.train` that can be called."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _COMMANDS and isinstance(value, ModuleType):
            value.__class__ = _Command
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _COMMANDS:
        return importlib.import_module(f"medvit.{name}")
    if name not in _READERS:
        raise AttributeError(f"module 'medvit' has no attribute {name!r}")
    return getattr(importlib.import_module("medvit.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_COMMANDS, *_READERS])
