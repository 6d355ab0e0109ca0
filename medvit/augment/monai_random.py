"""Any random transforms of MONAI as an augmentation, drawn per sample from (seed, epoch, position)."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medvit.augment.random_streams import stream_keys
from medvit.config_targets import imported, made
from medvit.errors import ConfigError
from medvit.preprocess.chain import Planned
from medvit.preprocess.steps import made_by

_MIRRORS = ("Flip", "AxisFlip", "Rotate90", "Rotate180")
_log = logging.getLogger(__name__)


class Monai:
    """Apply `transforms` (array transforms, or dictionary transforms with the key "image") to display values in [0, 1].

    They may be nodes of a config, in which the key may be left out. Each thread works on its own copy, so that draws
    depend on nothing but the sample. Values are clipped to [0, 1] and rounded back to integers. in_plane: each plane of
    a volume is changed alike, as a channel of an image. A flip or quarter turn is warned of: it changes what is left
    and right. where, before: the name of the list in errors, and how many steps stand before these there. Raises
    ConfigError for an empty list and for transforms that cannot be built, change the shape or mix images.
    """

    AS_WRITTEN: ClassVar[tuple[str, ...]] = ("transforms",)

    def __init__(
        self, transforms: Sequence[Any], in_plane: bool = False, where: str = "augment.transforms", before: int = 0
    ) -> None:
        if not transforms:
            raise ConfigError("augment.transforms is empty; name MONAI transforms or choose augment=none")
        self.in_plane, self.where, self.before = in_plane, where, before
        self.transforms = _all_made(transforms, where, before)
        if wrong := list(_no_augmentation(self.transforms)):
            raise ConfigError("augment: " + "; ".join(wrong))
        self.mirrors = [name for name in _names(self.transforms) if _is_mirror(name)]
        if self.mirrors:
            _log.warning(
                "W-LATERALITY %s changes what is left and right (side markers, dextrocardia, labels with a side)",
                ", ".join(self.mirrors),
            )
        self._local = threading.local()

    def __call__(
        self, images: NDArray[Any], seed: int, epoch: int, position: NDArray[np.int64], member: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Return augmented integers [n C *S]; images of one position (a bag) share all draws."""
        del member
        top = np.iinfo(images.dtype).max
        out = np.empty_like(images)
        for n, stream in enumerate(stream_keys(seed, epoch, position)):
            image = images[n].reshape(-1, *images.shape[-2:]) if self.in_plane else images[n]
            value = self._one(image.astype(np.float32) / np.float32(top), int(stream)).reshape(images[n].shape)
            out[n] = np.clip(value * np.float32(top) + np.float32(0.5), 0, top).astype(images.dtype)
        return out

    def _one(self, image: NDArray[np.float32], stream: int) -> NDArray[Any]:
        if not hasattr(self._local, "transforms"):
            self._local.transforms = copy.deepcopy(self.transforms)
        import torch

        value: Any = torch.from_numpy(image)
        changed = ""
        for number, transform in enumerate(self._local.transforms):
            value = applied(transform, number, value, stream)
            if not changed and tuple(value.shape) != image.shape:
                changed = f"{type(transform).__name__}, {self.where}, step {self.before + number + 1}, "
        found = np.asarray(value)
        if found.shape != image.shape:
            raise ConfigError(
                f"augment: {changed}changed the shape from {list(image.shape)}, and at the end of the list it is "
                f"{list(found.shape)}; expected the same"
            )
        return found

    @property
    def in_monai(self) -> list[Monai]:
        """What runs in MONAI: all of it."""
        return [self]

    @property
    def plan(self) -> list[Planned]:
        """Every step, all run by MONAI."""
        return [Planned(name, "augment", made_by(name)) for name in map(_full_name, self.transforms)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _local=threading.local())


def no_nodes(transforms: Sequence[Any], where: str) -> list[str]:
    """Return what of a list is no node, such as a name alone."""
    return [
        f"{where}, step {number}: {node!r} has no _target_; expected {{_target_: monai.transforms.NAME, "
        "argument: value}"
        for number, node in enumerate(transforms, 1)
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str)
    ]


def _all_made(transforms: Sequence[Any], where: str, before: int) -> list[Any]:
    """Return the transforms of nodes, or as they are; raises ConfigError with all that cannot be built."""
    found, wrong = list[Any](), list[str]()
    for number, one in enumerate(transforms, before + 1):
        name = str(one.get("_target_")) if isinstance(one, Mapping) else ""
        try:
            if isinstance(one, str | Mapping) and (lost := no_nodes([one], "")):
                raise ConfigError(lost[0].partition(": ")[2])
            found.append(made(_keyed(one)) if isinstance(one, Mapping) else one)
        except ConfigError as error:
            wrong.append(f"{where}, step {number}: {error}")
        except ImportError as error:
            wrong.append(f"{where}, step {number}: {name} needs a package that is not installed: {error}")
        except (TypeError, ValueError, KeyError, RuntimeError, AttributeError) as error:
            wrong.append(f"{where}, step {number}: {name} cannot be built: {' '.join(str(error).split())}")
    if wrong:
        raise ConfigError("; ".join(wrong))
    return found


def _keyed(node: Any) -> Any:
    """Return a node with the key "image" where none is named, also in what a OneOf or a Compose holds."""
    from monai.transforms.transform import MapTransform

    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        return node
    kind = imported(node["_target_"])
    key = {"keys": "image"} if isinstance(kind, type) and issubclass(kind, MapTransform) else {}
    held = node.get("transforms")
    within = {"transforms": [_keyed(one) for one in held]} if isinstance(held, list | tuple) else {}
    return {**key, **node, **within}


def applied(transform: Any, number: int, image: Any, stream: int) -> Any:
    """Return a tensor [C *S] after one transform, number `number` of its list, with the draws of `stream`."""
    from monai.transforms.transform import Randomizable

    if isinstance(transform, Randomizable):
        transform.set_random_state(seed=(stream + number * 0x9E3779B1) % 2**32)
    return transform({"image": image})["image"] if _of_mapping(transform) else transform(image)


def _of_mapping(transform: Any) -> bool:
    """Say whether a transform is given {"image": ...}; a OneOf, a Compose and the like are given what they hold is."""
    from monai.transforms.transform import MapTransform

    return isinstance(transform, MapTransform) or any(map(_of_mapping, getattr(transform, "transforms", ())))


def _names(transforms: Sequence[Any]) -> Iterator[str]:
    """Yield the class of every transform, also of those inside a Compose, a OneOf and the like."""
    for transform in transforms:
        yield type(transform).__name__
        yield from _names(getattr(transform, "transforms", ()))


def _full_name(transform: Any) -> str:
    """Return the class as a config names it: MONAI's by its short name."""
    kind = type(transform)
    module = "monai.transforms" if kind.__module__.startswith("monai.transforms.") else kind.__module__
    return f"{module}.{kind.__qualname__}"


def _no_augmentation(transforms: Sequence[Any]) -> Iterator[str]:
    """Yield what cannot change one image at a time."""
    from monai.transforms.regularization.array import Mixer
    from monai.transforms.traits import MultiSampleTrait

    for transform in transforms:
        name = type(transform).__name__
        if any(isinstance(part, Mixer) for part in (transform, *vars(transform).values())):
            yield f"{name} mixes the images of a batch, and labels would have to be mixed too: take RandCoarseDropoutd"
        elif isinstance(transform, MultiSampleTrait):
            yield f"{name} makes several images of one, and each has one label"
        elif not callable(transform):
            yield f"{name} is no transform"
        yield from _no_augmentation([*getattr(transform, "transforms", ())])


def _is_mirror(name: str) -> bool:
    return name.removeprefix("Rand").removesuffix("d") in _MIRRORS
