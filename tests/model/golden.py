"""Values that any machine can make again from a tensor's name, so that golden checkpoints need not be stored.

Not a test. The n-th value of a tensor is a hash of its name and n, uniform in (-1, 1) before it is scaled.
"""

from __future__ import annotations

import math
import re
import zlib

import numpy as np
import torch
from torch import Tensor

GAIN = re.compile(r"(norm|layrnorm|ln_\w*|ffn_ln)\d?\.weight$|gamma|lambda")
DROPPED = re.compile(r"mask_token|^text|^token_embedding|^visual\.head|rope\.")
PLACE = re.compile(r"token|pos|probe|latent|class_embedding|relative")


def values(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor of that name: matrices of unit gain, gains around 1, everything else small."""
    index = np.arange(math.prod(shape), dtype=np.float64)
    wave = np.sin(index * 12.9898 + (zlib.crc32(name.encode()) % 100_003) * 0.618) * 43758.5453
    uniform = torch.from_numpy(2 * (wave - np.floor(wave)) - 1).float().reshape(shape)
    if GAIN.search(name):
        return 1 + 0.3 * uniform
    if PLACE.search(name) or len(shape) < 2:
        return 0.3 * uniform
    return uniform * math.sqrt(3 / math.prod(shape[1:]))


def fill(shapes: dict[str, tuple[int, ...]], names: dict[str, str] | None = None) -> dict[str, Tensor]:
    """Return a checkpoint of those names and shapes; `names` says under which name a renamed tensor was filled.

    Tensors of another encoder that medvit drops (`DROPPED`) are zeros.
    """
    return {
        key: torch.zeros(*shape) if DROPPED.search(key) else values((names or {}).get(key, key), tuple(shape))
        for key, shape in shapes.items()
    }
