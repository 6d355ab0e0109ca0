"""One small adapter per reader: how its own users would read a film or a folder with a series, and nothing more.

An adapter may raise whatever it likes (that is a refusal) and offers `film(path, policy)` and `series(folder)`. To add
a reader, write a class with these two methods and list it in `READERS`; a library that is missing leaves it out.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """A film as a reader gives it: (row, column), colour last, in any units; row and column spacing if it says."""

    values: Array
    spacing: tuple[float, float] | None = None
    warned: bool = False


@dataclass(frozen=True)
class Block:
    """A volume as a reader gives it: (slice, row, column), and its affine from these indices to LPS mm."""

    values: Array
    affine: Array
    warned: bool = False


class Medvit:
    """medvit; `policy` holds the settings that a case asks for."""

    needs = ("medvit",)

    def film(self, path: Path, policy: dict[str, Any]) -> Picture:
        """Read one file."""
        from medvit.dicom.policy import FilmPolicy
        from medvit.dicom.read import read_film

        film = read_film(path, FilmPolicy.of(policy))
        return Picture(film.display(), film.facts.spacing_mm, bool(film.warnings))

    def series(self, folder: Path) -> list[Block]:
        """Read one folder."""
        from medvit.series.read import read_series

        volumes = read_series(sorted(folder.iterdir()))
        return [Block(one.values, one.affine, bool(one.warnings)) for one in volumes]


class MonaiPydicom:
    """MONAI's LoadImage with the PydicomReader; it turns to its other readers where that one fails."""

    needs, reader = ("monai", "pydicom"), "PydicomReader"

    def _load(self, path: Path) -> tuple[Array, Array]:
        """Return the pixels in MONAI's order, (x, y, z) or (x, y, colour), and the affine to LPS."""
        from monai.transforms import LoadImage

        image = LoadImage(self.reader, affine_lps_to_ras=False)(path)
        return np.asarray(image), np.asarray(image.affine, float)

    def film(self, path: Path, _policy: dict[str, Any]) -> Picture:
        """Read one file."""
        values, affine = self._load(path)
        column, row = np.linalg.norm(affine[:3, :2], axis=0)
        values = values[:, :, 0] if values.ndim > 2 and values.shape[2] == 1 else values
        return Picture(values.swapaxes(0, 1) if values.shape[-1] in (3, 4) else values.T, (row, column))

    def series(self, folder: Path) -> list[Block]:
        """Read one folder."""
        values, affine = self._load(folder)
        return [Block(np.atleast_3d(values).transpose(2, 1, 0), affine[:, [2, 1, 0, 3]])]


class MonaiItk(MonaiPydicom):
    """MONAI's LoadImage with the ITKReader."""

    needs, reader = ("monai", "itk"), "ITKReader"


class SimpleItk:
    """SimpleITK: ReadImage for a file, ImageSeriesReader for every series of several files that GDCM finds."""

    needs = ("SimpleITK",)

    def film(self, path: Path, _policy: dict[str, Any]) -> Picture:
        """Read one file."""
        import SimpleITK as sitk

        image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
        values = sitk.GetArrayFromImage(image)
        return Picture(values[0] if values.shape[0] == 1 else values, image.GetSpacing()[1::-1])

    def series(self, folder: Path) -> list[Block]:
        """Read one folder."""
        import SimpleITK as sitk

        blocks = []
        for series in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
            files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series)
            image = sitk.ReadImage(files if len(files) > 1 else files[0])
            affine = np.eye(4)
            affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
            affine[:3, 3] = image.GetOrigin()
            blocks.append(Block(sitk.GetArrayFromImage(image), affine[:, [2, 1, 0, 3]]))
        if not blocks:
            raise ValueError("no series found")
        return blocks


class TorchXrayVision:
    """torchxrayvision's reader of DICOM films, loaded without the package's models (they need torchvision)."""

    needs = ("torchxrayvision",)

    def film(self, path: Path, _policy: dict[str, Any]) -> Picture:
        """Read one file."""
        package = importlib.util.find_spec("torchxrayvision")
        spec = importlib.util.spec_from_file_location("xrv_utils", Path(package.origin).with_name("utils.py"))
        utils = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(utils)
        return Picture(utils.read_xray_dcm(str(path)))


READERS: dict[str, type] = {
    "medvit": Medvit,
    "MONAI PydicomReader": MonaiPydicom,
    "MONAI ITKReader": MonaiItk,
    "SimpleITK": SimpleItk,
    "torchxrayvision": TorchXrayVision,
}


def available() -> list[str]:
    """Return the names of the readers whose libraries are installed."""
    return [name for name, one in READERS.items() if all(map(importlib.util.find_spec, one.needs))]
