"""An augmentation as `conf/augment` writes it: a list of MONAI's random transforms that is compiled to the fused code.

The fused code draws from the same distribution as the seven transforms of `fused_nodes` in this order, on each plane of
an image. Others before or after them run in MONAI; with one in between, the whole list does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medvit.augment.fused import CHANCES, Fused, Geometry
from medvit.augment.monai_random import Monai, no_nodes
from medvit.errors import ConfigError
from medvit.preprocess.chain import Node, Planned, differences, flat
from medvit.preprocess.steps import made_by

_OURS = "medvit.augment.monai_transforms."
_MONAI = "monai.transforms."


def fused_nodes(fused: Fused) -> list[Node]:
    """Return the MONAI transforms whose composition has the distribution of the fused code, on images in [0, 1]."""
    chance, geometry = {**CHANCES, **fused.chance}, {**vars(Geometry()), **fused.geometry}
    blur = list(fused.blur)
    return [
        {"_target_": f"{_OURS}RandMoved", **geometry, "prob": chance["geometry"]},
        {"_target_": f"{_MONAI}RandGaussianSmoothd", "sigma_x": blur, "sigma_y": blur, "prob": chance["blur"]},
        {"_target_": f"{_OURS}RandEvenBiasFieldd", "coefficient": fused.bias, "prob": chance["bias"]},
        {"_target_": f"{_MONAI}RandAdjustContrastd", "gamma": list(fused.gamma), "prob": chance["gamma"]},
        {"_target_": f"{_MONAI}RandScaleIntensityd", "factors": fused.tone, "prob": chance["contrast"]},
        {"_target_": f"{_MONAI}RandShiftIntensityd", "offsets": fused.tone, "prob": chance["brightness"]},
        {"_target_": f"{_MONAI}RandGaussianNoised", "std": fused.noise, "prob": chance["noise"]},
    ]


def compose(fused: Fused) -> Monai:
    """Return the fused chain as plain MONAI runs it, plane by plane."""
    return Monai(fused_nodes(fused), in_plane=True)


@dataclass(frozen=True)
class FusedChain(Fused):
    """The fused augmentation as conf/ has it.

    transforms: the list, lists within it laid flat. more: further random transforms of MONAI or one's own, in order,
    which the list has at its end. Raises ConfigError as `Monai`.
    """

    AS_WRITTEN: ClassVar[tuple[str, ...]] = ("transforms", "more")
    transforms: Sequence[Any] = ()
    more: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        """Compile the list: what runs before the fused code and after it, or all of it in MONAI."""
        super().__post_init__()
        fused = fused_nodes(self)
        given = list(flat(self.transforms)) or [*fused, *self.more]
        if wrong := no_nodes(self.more, "augment.more") or no_nodes(given, "augment.transforms"):
            raise ConfigError("; ".join(wrong))
        nodes = [dict(node) for node in given]
        start = next((at for at in range(len(nodes)) if _same(nodes[at : at + len(fused)], fused)), None)
        whole = start is None
        at, end = (0, 0) if start is None else (start, start + len(fused))
        last = ("augment.more", 0) if nodes[end:] == [*map(dict, self.more)] else ("augment.transforms", end)
        before, after = _parts([(nodes[:at], "augment.transforms", 0), (nodes[end:], *last)], whole)
        plan = [Planned(node["_target_"], *([] if at <= n < end else _row(node))) for n, node in enumerate(nodes)]
        found = {"_before": before, "_after": after, "_whole": whole, "plan": plan}
        for name, value in {**found, "in_monai": [part for part in (before, after) if part is not None]}.items():
            object.__setattr__(self, name, value)

    plan: ClassVar[list[Planned]]
    in_monai: ClassVar[list[Monai]]
    _before: ClassVar[Monai | None]
    _after: ClassVar[Monai | None]
    _whole: ClassVar[bool]

    @property
    def fused_alone(self) -> Fused | None:
        """What is left without MONAI's transforms; None where all of the list is theirs."""
        own = {each.name: getattr(self, each.name) for each in fields(Fused)}
        return None if self._whole else Fused(**own)

    def __call__(
        self, images: NDArray[Any], seed: int, epoch: int, position: NDArray[np.int64], member: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Return augmented images; see `Fused` and `Monai`."""
        for part in (self._before, None if self._whole else super().__call__, self._after):
            images = images if part is None else part(images, seed, epoch, position, member)
        return images


def _parts(lists: Sequence[tuple[Sequence[Node], str, int]], in_plane: bool) -> list[Monai | None]:
    """Return what runs in MONAI of lists (nodes, name, how many stand before them); raises ConfigError for all."""
    found: list[Monai | None] = []
    wrong = []
    for nodes, where, before in lists:
        try:
            found.append(Monai(nodes, in_plane, where, before) if nodes else None)
        except ConfigError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigError("; ".join(wrong))
    return found


def _row(node: Node) -> tuple[str, str]:
    return "augment", made_by(node["_target_"])


def _same(nodes: Sequence[Node], fused: Sequence[Node]) -> bool:
    """Say whether these nodes are the fused chain, with its settings."""
    pairs = [*zip(nodes, fused, strict=False)]
    return len(nodes) == len(fused) and all(
        node.get("_target_") == wanted["_target_"] and not differences(node, wanted) for node, wanted in pairs
    )
