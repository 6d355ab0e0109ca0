"""Deterministic transforms of MONAI, or of the user's own, at the three places of a preprocessing. Imports MONAI late.

A step is a plain mapping: `_target_`, arguments, and `made_by`, the version of MONAI or the hash of the user's file,
so that the digest of a preprocessing, and with it the cache, knows what made the pixels.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.config import conf_dir
from medvit.config_targets import imported, made, needs_trust, refusals, targets
from medvit.errors import ConfigError, DicomRefusal

PLACES = ("after_reading", "after_resampling", "before_normalisation")
"""Where transforms of MONAI or the user's own stand between the fused ones."""
WHOLE = "whole"
"""The place of a list that is another chain: everything between reading and rounding."""
Node = Mapping[str, Any]
_GROUPS = ("preprocess", "augment")  # of conf/, whose classes need no trust here
MADE_BY = "made_by"
_OF_ONE_IMAGE = (ValueError, RuntimeError, TypeError, IndexError, KeyError, ArithmeticError, AssertionError)
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # MONAI's patient axes from DICOM's
_built = threading.local()
_log = logging.getLogger(__name__)


def recorded(steps: Mapping[str, Sequence[Node]]) -> dict[str, list[dict[str, Any]]]:
    """Return the steps by place, each with what made it; empty places are left out. Imports nothing heavy.

    Raises:
        ConfigError: all that can be wrong with them as they are written; a step that was recorded with code of the
            user's own which is another now.
    """
    places = (*PLACES, WHOLE)
    wrong = [f"steps.{place}: expected {', '.join(places)}" for place in steps if place not in places]
    found: dict[str, list[dict[str, Any]]] = {}
    for place, number, node in numbered({place: steps[place] for place in places if steps.get(place)}):
        said = _wrong(node)
        if not said:
            plain = json.loads(json.dumps(dict(node)))
            said = _other_code(plain)
            found.setdefault(place, []).append({**plain, MADE_BY: plain.get(MADE_BY) or made_by(plain["_target_"])})
        wrong += [f"{place}, step {number}: {each}" for each in said]
    if wrong:
        raise ConfigError("preprocess: " + "; ".join(wrong))
    return found


def numbered(steps: Mapping[str, Sequence[Node]]) -> Iterator[tuple[str, int, Node]]:
    """Yield every step with its place and its number there, from 1."""
    return ((place, number, node) for place, nodes in steps.items() for number, node in enumerate(nodes, 1))


def _wrong(node: Any) -> list[str]:
    """Return what can be said against a step before its class is looked at."""
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        return [f"{node!r}: expected {{_target_: monai.transforms.NAME, argument: value}}"]
    name, keys = short(node), node.get("keys", "image")
    found = refusals(targets(dict(node)), conf_dir(), _GROUPS)  # arguments may be nodes, and would be made
    found += [] if keys in ("image", ["image"]) else [f"{name} has keys={keys}: there is one, image"]
    return found + ([f"{name}: {RANDOM}"] if name.startswith("Rand") else [])


def _other_code(node: Mapping[str, Any]) -> list[str]:
    """Say where a recorded step was made by other code than what is here now: that of MONAI is told only."""
    then, now = node.get(MADE_BY), made_by(node["_target_"])
    if then is None or then == now:
        return []
    if now.startswith("monai "):
        _log.warning("W-STEP %s was made by %s, here is %s; its result may differ", short(node), then, now)
        return []
    return [f"the file of {node['_target_']} is another than when this was trained: put it back, or train again"]


def made_by(target: str) -> str:
    """Return the version of the package, or the SHA-256 of the file of a class of the user's own."""
    module = target.rpartition(".")[0]
    package = module.partition(".")[0]
    if package in ("monai", "medvit"):
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            return package
    try:
        origin = getattr(importlib.util.find_spec(module), "origin", None)
    except (ImportError, ValueError):
        origin = None
    if not origin or not Path(origin).is_file():
        raise ConfigError(f"_target_ {target} does not exist: no file of the module {module} is found")
    return hashlib.sha256(Path(origin).read_bytes()).hexdigest()


def short(node: Node) -> str:
    """Return the name of a step's class."""
    return str(node["_target_"]).rpartition(".")[2]


def names(steps: Mapping[str, Sequence[Node]]) -> str:
    """Return the classes of all steps, such as "MedianSmoothd, HistogramNormalized"."""
    return ", ".join(short(node) for _, _, node in numbered(steps))


def run(nodes: Sequence[Node], image: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return `image` [*S] after the transforms, each given {"image": a MetaTensor [1 *S]} with the affine to RAS mm.

    Raises:
        ConfigError: a step that cannot be built, changes the shape, or moves the image.
        DicomRefusal: E-STEP: a step fails on this image, or gives values that are not finite.
    """
    found, _ = _run(nodes, image, affine, same_shape=True)
    return found


def run_whole(
    nodes: Sequence[Node], image: NDArray[np.float32], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Do as `run` for steps that may change the shape, and return the affine of the result too."""
    return _run(nodes, image, affine, same_shape=False)


def _run(
    nodes: Sequence[Node], image: NDArray[np.float32], affine: NDArray[np.float64], same_shape: bool
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    import torch
    from monai.data.meta_tensor import MetaTensor

    given = torch.from_numpy(np.array(image[None], np.float32))
    value: Any = MetaTensor(given, affine=torch.from_numpy(affine), meta={"original_channel_dim": 0})
    for node in nodes:
        name, before = short(node), getattr(value, "affine", affine)
        transform = _transform(node)
        try:
            answer = transform({"image": value})
        except ImportError as error:
            raise ConfigError(f"{name} {_NEEDS}: {error}") from error
        except _OF_ONE_IMAGE as error:
            said = f"{name} fails on this image ({type(error).__name__}: {' '.join(str(error).split())[:150]})"
            raise DicomRefusal("E-STEP", said, fix="mend the step, or leave the image out") from error
        shape = value.shape if same_shape else (1, *[None] * image.ndim)
        value = _image(name, answer, shape)
        if not isinstance(value, MetaTensor):  # a step that returns plain arrays has moved nothing
            value = MetaTensor(value, affine=before)
        if not torch.isfinite(value).all():
            found = f"{name} gives values that are not finite"
            raise DicomRefusal("E-STEP", found, fix="mend the step, or leave the image out")
        if same_shape and not np.allclose(value.affine, before, rtol=1e-5, atol=1e-4):
            raise ConfigError(f"{name} {MOVES}")
    plain = np.ascontiguousarray(value.detach().numpy()[0], np.float32)
    return plain, np.asarray(value.affine.detach().cpu().numpy(), np.float64)


def _image(name: str, answer: Any, shape: Sequence[int | None]) -> Any:
    """Return the tensor of an answer; raises ConfigError for several images, or for one of another shape.

    None in `shape` may be any length.
    """
    import torch

    if isinstance(answer, list | tuple):
        raise ConfigError(f"{name} makes {len(answer)} images of one: a step gives one image")
    value = answer["image"]
    value = value.detach().cpu() if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
    if len(value.shape) != len(shape) or any(
        want not in (None, is_) for want, is_ in zip(shape, value.shape, strict=True)
    ):
        first = 1 if value.shape[:1] == tuple(shape[:1]) else 0  # the channels are told where it is them
        raise ConfigError(
            f"{name} changes the shape from {list(shape[first:])} to {list(value.shape)[first:]}: labels, maps and the "
            "network need the same; sizes are set by preprocess.size and preprocess.spacing_mm"
        )
    return value.float()


def _transform(node: Node) -> Any:
    """Return the transform of a step, one for each thread."""
    here = _built.__dict__.setdefault("transforms", {})
    key = json.dumps(node, sort_keys=True)
    if key not in here:
        here[key] = transform_of(node)
    return here[key]


def forget() -> None:
    """Drop the transforms of this thread, with what an earlier image left in them."""
    _built.__dict__.clear()


def build_all(steps: Mapping[str, Sequence[Node]]) -> None:
    """Build every transform now, for this thread; raises ConfigError for one that cannot be built."""
    for _, _, node in numbered(steps):
        _transform(node)


def transform_of(node: Node) -> Any:
    """Return a new transform; raises ConfigError for one that is no deterministic MapTransform, or cannot be built."""
    name = short(node)
    arguments = {key: value for key, value in node.items() if key != MADE_BY}
    try:
        from monai.transforms.traits import MultiSampleTrait, RandomizableTrait
        from monai.transforms.transform import MapTransform

        kind = imported(node["_target_"])
        if not (isinstance(kind, type) and issubclass(kind, MapTransform)):
            raise ConfigError(
                f"{name} is no MapTransform: take the form for dictionaries ({name}d of MONAI, or your own)"
            )
        found = made({**arguments, "keys": ["image"]})
    except ConfigError:
        raise
    except ImportError as error:
        raise ConfigError(f"{name} {_NEEDS}: {error}") from error
    except _OF_ONE_IMAGE as error:
        raise ConfigError(f"{name} cannot be built: {' '.join(str(error).split())}") from error
    if isinstance(found, RandomizableTrait):
        raise ConfigError(f"{name}: {RANDOM}")
    if isinstance(found, MultiSampleTrait):
        raise ConfigError(f"{name} makes several images of one: a step gives one image of the same shape")
    return found


def not_exportable(steps: Mapping[str, Sequence[Node]]) -> list[str]:
    """Return the steps that no bundle can carry: code of the user's own, and what needs trust.

    MONAI's transforms of arrays are installed beside it.
    """
    found = []
    for place, _, node in numbered(steps):
        for target in targets(dict(node)):
            if not target.startswith(("monai.", "medvit.")):
                found.append(f"{target} ({place}) is code of your own, and a bundle carries none")
            elif needs_trust(target, conf_dir(), _GROUPS):
                found.append(f"{target} ({place}) needs trust, which no bundle can give")
    return found


def to_ras(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an affine to LPS millimetres as one to RAS, which MONAI's images have."""
    return np.asarray(_RAS @ affine)


RANDOM = "random steps belong to augment, which draws them anew for every epoch"
MOVES = (
    "moves the image: maps and boxes would point to other places than the network saw; turning and resampling are "
    "preprocess.orientation, size and spacing_mm, random moves belong to augment"
)
_NEEDS = "needs a package that is not installed"
