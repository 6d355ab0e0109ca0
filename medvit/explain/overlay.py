"""Upsample attribution maps, bring them to the original's pixels, or overlay them on the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medvit.preprocess.placement import Placement
from medvit.preprocess.resize import to_uint8

_HOT = np.array([255.0, 60.0, 0.0])  # RGB; one hue, so that grey stays the film's own
_COVER = 0.55  # of the film that the highest value hides


def upsample(maps: Float[Tensor, "B ..."], size: Sequence[int]) -> Float[Tensor, "B ..."]:
    """Return maps [B *grid] at the model's input size [B *S], linearly between the middles of the patches."""
    how = "bilinear" if len(size) == 2 else "trilinear"
    return functional.interpolate(maps.unsqueeze(1).float(), size=tuple(size), mode=how).squeeze(1)


def on_original(saliency: Float[Tensor, " *grid"], placement: Placement) -> NDArray[np.float32]:
    """Return one map [*grid] on the pixels (or voxels) of the original; what the model never saw is 0.

    Of a bag of slices the map is [I *grid], its values those within the unit (`of_bag`).
    """
    return placement.map_to_original(upsample(saliency.unsqueeze(0).cpu(), placement.size)[0].numpy())


def nifti(values: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
    """Return a map [slice row column] as NIfTI-1 (float32, axes RAS) that lies on its volume in every viewer.

    affine: (4, 4) from indices to LPS mm, as `medvit.types.Volume` has it.
    """
    import nibabel

    turned = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine[:, [2, 1, 0, 3]]
    return bytes(nibabel.Nifti1Image(np.asarray(values, np.float32).T, turned).to_bytes())


def overlay(image: NDArray[Any], saliency: Float[Tensor, "h w"]) -> NDArray[np.uint8]:
    """Return uint8 [H 2W 3] (RGB): the picture [H W] and the same under the map's positive parits peak reddest."""
    grey = to_uint8(image)
    heat = upsample(saliency.unsqueeze(0).cpu(), grey.shape)[0].clamp_min(0).numpy()
    share = _COVER * (heat / max(float(heat.max()), 1e-12))[..., None]
    plain = np.repeat(grey[..., None], 3, axis=2)
    hot = np.rint(plain * (1 - share) + _HOT * share).astype(np.uint8)
    return np.concatenate([plain, hot], axis=1)


def png(picture: NDArray[np.uint8]) -> bytes:
    """Return an RGB picture as PNG."""
    done, code = cv2.imencode(".png", picture[..., ::-1])
    assert done  # noqa: S101 (cannot fail for uint8)
    return bytes(code.tobytes())


def batches(count: int, tokens: int) -> list[slice]:
    """Return slices of images few enough that attention with its gradients stays below about a gigabyte."""
    step = max(1, min(16, 4_000_000 // max(1, tokens * tokens)))
    return [slice(first, first + step) for first in range(0, count, step)]
