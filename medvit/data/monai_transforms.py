"""medvit's preprocessing for any Compose of MONAI: as one transform, the tensor the same bit for bit, or step by step.

The steps are those of `conf/preprocess` that MONAI has not; training computes them all in one pass.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.transform import MapTransform, Transform
from numpy.typing import NDArray

from medvit.config_targets import made
from medvit.data.cache_layout import Preprocess
from medvit.data.monai_reader import MedvitReader
from medvit.preprocess import FilmPreprocess, Placement, VolumePreprocess
from medvit.preprocess.chain import fused_nodes
from medvit.preprocess.film import black_border
from medvit.preprocess.placement import overlap
from medvit.preprocess.resize import resize_exact
from medvit.preprocess.steps import WHOLE, to_ras, transform_of
from medvit.preprocess.volume import orientation_of
from medvit.types import Facts, Film

Keys = Hashable | Sequence[Hashable]


class Preprocessed(Transform):
    """Turn a file, its bytes, a list of files (a series), a Film or a Volume into the model's input [C *S], float32.

    In mode "slices" a volume becomes [I 1 H W]. Raises DicomRefusal for what cannot be read.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, data: Any) -> torch.Tensor:
        """Return the tensor."""
        source: Any = Path(data) if isinstance(data, str) else data
        if isinstance(source, list | tuple):
            source = [Path(part) if isinstance(part, str) else part for part in source]
            source = source[0] if isinstance(self.preprocess, FilmPreprocess) and len(source) == 1 else source
        return torch.from_numpy(self.preprocess(source))


class _EachImage(MapTransform):
    """A transform that does the same with the image under each of its keys."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of `data` whose `keys` are changed."""
        found = dict(data)
        for key in self.key_iterator(found):
            found[key] = self.changed(found[key])
        return found

    def changed(self, image: Any) -> Any:
        """Return what takes the image's place."""
        raise NotImplementedError


class Preprocessedd(_EachImage):
    """`Preprocessed` on the entries `keys` of a dictionary."""

    def __init__(self, keys: Keys, preprocess: Preprocess, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = Preprocessed(preprocess)

    def changed(self, image: Any) -> Any:
        """Return the image as a tensor."""
        return self.transform(image)


class CropBorderd(_EachImage):
    """Trim the black border (collimation) of films [1 H W] whose values are 0 black to 1 white; border: none, black."""

    def __init__(self, keys: Keys, border: str = "black", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.border = border

    def changed(self, image: Any) -> Any:
        """Return the image trimmed."""
        if self.border == "black":
            top, left, rows, columns = black_border(Film(_plane(image), 1.0, 0.0, Facts()))
            cut = image[:, top : top + rows, left : left + columns]
            return _like(_plane(cut), image, moved=(top, left)) if isinstance(image, MetaTensor) else cut
        return image


class AreaResized(_EachImage):
    """Resize films [1 H W] by area means into `spatial_size` (H, W), float32.

    fit: "pad" keeps their shape in millimetres, by the spacing of their affine, and fills one side; "stretch" both.
    MONAI's Resized knows no millimetres, and shrinks with other weights.
    """

    def __init__(
        self, keys: Keys, spatial_size: Sequence[int], fit: str = "pad", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.preprocess = FilmPreprocess(size=spatial_size, fit=fit)

    def changed(self, image: Any) -> Any:
        """Return the image resized."""
        plane, (row, column, _) = _plane(image), _steps(image)
        film = Film(plane, 1.0, 0.0, Facts(rows=len(plane), columns=plane.shape[1], spacing_mm=(row, column)))
        rows, columns = self.preprocess.place(film).inner
        return _like(resize_exact(plane, (rows, columns)), image)


class ScaleForegroundd(_EachImage):
    """Bring volumes [1 D H W] to 0 black and 1 white by their foreground, not clipped.

    `intensity` and `limits` are those of `VolumePreprocess`: percentiles or deviations of what lies above a tenth of
    the 99th percentile, which MONAI's ScaleIntensityRangePercentilesd does not look for.
    """

    def __init__(
        self,
        keys: Keys,
        intensity: str = "percentile",
        limits: Sequence[float] = (0.5, 99.5),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.preprocess = VolumePreprocess(intensity=intensity, limits=limits)

    def changed(self, image: Any) -> Any:
        """Return the image scaled."""
        low, high = self.preprocess.display_range(_plane(image))
        return (image - low) / (high - low)


class AcquiredOrientationd(_EachImage):
    """Turn volumes [1 D H W] so that the scanner's slice axis stays first: `VolumePreprocess`, "acquired"."""

    def changed(self, image: Any) -> Any:
        """Return the image turned, with its affine."""
        values, affine = _plane(image), np.asarray(image.affine, np.float64)
        axes, flip = orientation_of(to_ras(affine), "acquired")
        turned = np.flip(values.transpose(axes), tuple(axis for axis, back in enumerate(flip) if back))
        whole = turned.shape
        placement = Placement(values.shape, (0, 0, 0), whole, whole, (0, 0, 0), whole, axes, flip)
        return _tensor(np.ascontiguousarray(turned), placement.affine(affine))


class AreaSpacingd(_EachImage):
    """Resample volumes [1 D H W] to `pixdim` mm by area means where they shrink and linearly where they grow.

    pixdim, spatial_size (D, H, W) and mode are spacing_mm, size and mode of `VolumePreprocess`: without a pixdim the
    field of view is fitted into `spatial_size`; in mode "slices" evenly spread slices are kept. MONAI's Spacingd takes
    single voxels where it shrinks, and so aliases.
    """

    def __init__(
        self,
        keys: Keys,
        spatial_size: Sequence[int],
        pixdim: float | Sequence[float | None] | None = None,
        mode: str = "volume",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.preprocess = VolumePreprocess(size=spatial_size, spacing_mm=pixdim, mode=mode)

    def changed(self, image: Any) -> Any:
        """Return the image resampled."""
        values = self.preprocess.resampled(_plane(image), _steps(image))
        return _like(values, image)


class CropOrPadd(_EachImage):
    """Crop and pad volumes [1 D H W] around their middle to `spatial_size`; in mode "slices" D stays.

    Where an odd number of voxels is left over, MONAI's ResizeWithPadOrCropd crops one voxel further down.
    """

    def __init__(
        self, keys: Keys, spatial_size: Sequence[int], mode: str = "volume", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_size, self.mode = tuple(spatial_size), mode

    def changed(self, image: Any) -> Any:
        """Return the image with the size."""
        values = _plane(image)
        size = (len(values), *self.spatial_size[1:]) if self.mode == "slices" else self.spatial_size
        offset = tuple((side - length) // 2 for side, length in zip(size, values.shape, strict=True))
        canvas = np.zeros(size, np.float32)
        on_canvas, on_inner = overlap(offset, values.shape, size)
        canvas[on_canvas] = values[on_inner]
        return _like(canvas, image, moved=tuple(-place for place in offset))


class RoundToLevelsd(_EachImage):
    """Clip to 0 black, 1 white, and round to the levels of `dtype` (uint8 or uint16), as the cache keeps them."""

    def __init__(self, keys: Keys, dtype: str = "uint8", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.levels = FilmPreprocess(dtype=dtype).levels

    def changed(self, image: Any) -> Any:
        """Return the image rounded."""
        return (image * self.levels + 0.5).clip(0, self.levels).floor() / self.levels


def compose(preprocess: Preprocess, volume_key: str = "") -> Compose:
    """Return the chain of a preprocessing for plain MONAI: {"image": file or files} in, the model's input out.

    It gives what the fused code gives, to the rounding of one level, and takes many times as long
    (docs/explanation/pipeline.md). In mode "slices" the slices of a volume are [1 I H W].
    """
    policy: Any = preprocess.policy if isinstance(preprocess, FilmPreprocess) else None
    bits = getattr(preprocess, "picture_bits", None) or "declared"
    series = dict(getattr(preprocess, "series", {}))
    reader = MedvitReader(preprocess.kind, volume_key, policy, series, picture_bits=bits)
    found: list[Any] = [LoadImaged("image", reader=reader, ensure_channel_first=True)]
    fused = fused_nodes(preprocess)
    for node in [WHOLE, *fused[-2:]] if WHOLE in preprocess.steps else fused[1:]:
        if isinstance(node, str):
            found += [transform_of(step) for step in preprocess.steps.get(node, ())]
        elif node.get("axcodes") == "acquired":
            found.append(AcquiredOrientationd("image"))
        elif node.get("axcodes") == "axial":
            found.append(made({**node, "keys": "image", "axcodes": "SPL"}))
        else:
            found.append(made({**node, "keys": "image"}))
    return Compose(found)


def _plane(image: Any) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.asarray(image, np.float32)[0]
    return values


def _steps(image: Any) -> NDArray[np.float64]:
    """Return the millimetres of each axis, by the affine."""
    found: NDArray[np.float64] = np.linalg.norm(np.asarray(image.affine, np.float64)[:3, :3], axis=0)
    return found


def _like(values: NDArray[np.float32], image: Any, moved: Sequence[int] | None = None) -> MetaTensor:
    """Return values [*S] with the affine of their voxels: they cover what `image` covers.

    moved: they are voxels of `image` instead, the first of them that of this index, which may lie outside.
    """
    old, new = np.array(image.shape[1:]), np.array(values.shape)
    turned, count = np.eye(4), len(new)
    if moved is None:
        turned[:count, :count] = np.diag(old / new)
    turned[:count, 3] = (old / new - 1) / 2 if moved is None else moved
    return _tensor(values, np.asarray(image.affine, np.float64) @ turned)


def _tensor(values: NDArray[np.float32], affine: NDArray[np.float64]) -> MetaTensor:
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(values[None], np.float32)), torch.from_numpy(affine))
