"""Random transforms of `conf/augment` that MONAI has with other arguments: moves in degrees, a bias of both signs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.transforms.intensity.dictionary import RandBiasFieldd
from monai.transforms.spatial.array import RandAffine
from monai.transforms.transform import MapTransform, Randomizable

Keys = Hashable | Sequence[Hashable]


class RandMoved(Randomizable, MapTransform):
    """MONAI's RandAffined for images [C H W] of any size, zeros outside.

    rotate_deg in degrees, shift in shares of the side, zoom in shares, each uniform in plus or minus; zoom per axis.
    """

    def __init__(
        self,
        keys: Keys,
        rotate_deg: float = 10.0,
        shift: float = 0.1,
        zoom: float = 0.1,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.rotate_deg, self.shift, self.zoom, self.prob = rotate_deg, shift, zoom, prob
        self._moves: dict[tuple[int, ...], RandAffine] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of `data` whose `keys` are moved, all alike."""
        found = dict(data)
        first = True
        for key in self.key_iterator(found):
            move = self._move(tuple(found[key].shape[1:]))
            move.set_random_state(state=self.R)
            found[key] = move(found[key], randomize=first)
            first = False
        return found

    def _move(self, size: tuple[int, ...]) -> RandAffine:
        if size not in self._moves:
            self._moves[size] = RandAffine(
                prob=self.prob,
                rotate_range=[math.radians(self.rotate_deg)],
                translate_range=[self.shift * side for side in size],
                scale_range=[self.zoom, self.zoom],
                padding_mode="zeros",
                cache_grid=True,
                spatial_size=size,
            )
        return self._moves[size]


class RandEvenBiasFieldd(RandBiasFieldd):
    """MONAI's RandBiasFieldd with coefficients uniform in plus or minus `coefficient`."""

    def __init__(
        self,
        keys: Keys,
        coefficient: float = 0.1,
        degree: int = 3,
        prob: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, degree, (-coefficient, coefficient), np.float32, prob, allow_missing_keys)
