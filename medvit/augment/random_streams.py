"""Random numbers that follow from (seed, epoch, position) alone, for many samples at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)


def splitmix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the SplitMix64 scramble of each number (Steele, Lea and Flood 2014, doi:10.1145/2714064.2660195)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def stream_keys(seed: int, epoch: int, position: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return one unrelated 64-bit number per position [n]."""
    with np.errstate(over="ignore"):
        state = splitmix(np.array([seed % 2**64], np.uint64) + _STEP)
        state = splitmix((state ^ np.uint64(epoch)) + _STEP)
        return splitmix((state ^ position.astype(np.uint64)) + _STEP)


def uniform(stream: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """Return `count` uniform numbers in [0, 1) for each stream, [n count]."""
    with np.errstate(over="ignore"):
        steps = stream[:, None] + _STEP * np.arange(1, count + 1, dtype=np.uint64)
        return (splitmix(steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53
