"""medvit's reading and preprocessing as MONAI transforms for any Compose; the tensor is the same, bit for bit."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.transforms.transform import MapTransform, Transform
from numpy.typing import NDArray

from medvit.data.cache import Preprocess
from medvit.preprocess import FilmPreprocess, VolumePreprocess
from medvit.types import Film, Volume

if TYPE_CHECKING:
    from torch import Tensor

_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Preprocessed(Transform):
    """Turn a file, its bytes, a list of files (a series), a Film or a Volume into the model's input [C *S], float32.

    In mode "slices" a volume becomes [I 1 H W]. Raises DicomRefusal for what cannot be read.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, data: Any) -> Tensor:
        """Return the tensor."""
        import torch

        source: Any = Path(data) if isinstance(data, str) else data
        if isinstance(source, list | tuple):
            source = [Path(part) if isinstance(part, str) else part for part in source]
            source = source[0] if isinstance(self.preprocess, FilmPreprocess) and len(source) == 1 else source
        return torch.from_numpy(self.preprocess(source))


class Preprocessedd(MapTransform):
    """`Preprocessed` on the entries `keys` of a dictionary."""

    def __init__(
        self, keys: Hashable | Sequence[Hashable], preprocess: Preprocess, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = Preprocessed(preprocess)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of `data` whose `keys` hold tensors."""
        found = dict(data)
        for key in self.key_iterator(found):
            found[key] = self.transform(found[key])
        return found


class MedvitReader(ImageReader):
    """A reader for MONAI's LoadImage: `LoadImage(reader=MedvitReader())`; display values of a film, values of a volume.

    MONAI's index order is (column, row[, slice]) with a RAS affine; a film without spacing gets 1 mm pixels there.
    """

    def __init__(self, film: FilmPreprocess | None = None, volume: VolumePreprocess | None = None) -> None:
        super().__init__()
        self.film, self.volume = film or FilmPreprocess(), volume or VolumePreprocess()

    def verify_suffix(self, filename: Any) -> bool:
        """Say yes to every file: the content decides."""
        del filename
        return True

    def read(self, data: Any, **options: Any) -> list[Film | Volume]:
        """Decode one file to a Film, or a list of files or a folder to a Volume."""
        del options
        if isinstance(data, list | tuple) and len(data) == 1:
            data = data[0]
        if isinstance(data, str | Path) and Path(data).is_dir():
            data = sorted(path for path in Path(data).iterdir() if path.is_file())
        if isinstance(data, list | tuple):
            return [self.volume.read([Path(part) for part in data])]
        path = Path(data)
        return [self.volume.read(path) if path.name.endswith((".nii", ".nii.gz")) else self.film.read(path)]

    def get_data(self, img: list[Film | Volume]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Return the array in MONAI's order and its metadata (affine, spatial_shape)."""
        image = img[0]
        if isinstance(image, Volume):
            array = np.ascontiguousarray(image.values.T)
            affine = _RAS @ image.affine[:, [2, 1, 0, 3]]
        else:
            array = np.ascontiguousarray(image.display().T)
            row_mm, column_mm = image.facts.spacing_mm or (1.0, 1.0)
            affine = _RAS @ np.diag([column_mm, row_mm, 1.0, 1.0])
        meta = {"affine": affine, "original_affine": affine, "spatial_shape": np.array(array.shape), "space": "RAS"}
        return array, {**meta, "original_channel_dim": float("nan")}
