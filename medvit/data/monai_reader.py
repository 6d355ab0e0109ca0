"""A MONAI `ImageReader` that reads films and series as medvit does: `LoadImaged(keys, reader=MedvitReader())`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils.enums import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from medvit.dicom.header import read_header
from medvit.dicom.policy import FilmPolicy
from medvit.dicom.read import read_film
from medvit.errors import ConfigError, DicomRefusal
from medvit.preprocess.definition import as_bytes
from medvit.preprocess.film import film_affine
from medvit.preprocess.nifti import is_nifti, read_nifti
from medvit.preprocess.picture import is_picture, read_picture
from medvit.series.read import SeriesPolicy, holds_slices, one_volume, read_volume
from medvit.types import Film, Volume

PathLike = str | Path
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Request(NamedTuple):
    """What `read` hands to `get_data`: files still unread."""

    files: tuple[Path, ...]


class MedvitReader(ImageReader):
    """Reads a DICOM file, a picture, a NIfTI, the files of one series, or a folder, into one film or one volume.

    Arrays are float32 without a channel axis: a film (row, column) as displayed, 0 to 1; a volume (slice, row, column)
    after rescale. A volume's affine takes these indices to mm, in RAS like that of MONAI's own readers, or in LPS. A
    film has no patient axes: its affine is diagonal with the row and column spacing, 1 where `spacing_kind` is "none".

    MONAI tries its other readers when `read` fails, so a refused file would come back misread, or read by whatever
    happens to be installed. Therefore `read` opens nothing; `get_data` reads, and its refusals reach the user.
    """

    def __init__(
        self,
        kind: str = "auto",
        volume: str = "",
        film: FilmPolicy | dict[str, Any] | None = None,
        series: SeriesPolicy | dict[str, Any] | None = None,
        affine_lps_to_ras: bool = True,
        picture_bits: int | str = "declared",
    ) -> None:
        """Set what to read.

        `kind`: "film", "volume", or "auto": one file without slices of its own is a film. `volume`: the key of the
        volume to take where a series holds several ("echo=2"). `film`, `series`: policies, or their fields.
        `picture_bits`: white of 16-bit pictures (`medvit.preprocess.picture.read_picture`).
        """
        if kind not in ("auto", "film", "volume"):
            raise ConfigError(f"kind={kind!r} is not known: expected auto, film or volume")
        self.kind, self.volume, self.affine_lps_to_ras = kind, volume, affine_lps_to_ras
        self.film = FilmPolicy.of(film) if isinstance(film, dict) else film or FilmPolicy()
        self.picture_bits = picture_bits
        self.series = SeriesPolicy(**series) if isinstance(series, dict) else series or SeriesPolicy()

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Say whether all names are folders or hold the DICM mark (PS3.10 7.1); suffixes mean little in DICOM."""
        return all(path.is_dir() or _has_mark(path) for path in _paths(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **_kwargs: Any) -> Request:
        """Return the request for `get_data`; never fails, see the class."""
        return Request(_paths(data))

    def get_data(self, img: Request) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Return the array and MONAI's metadata; raises `DicomRefusal` for what medvit does not read."""
        files = [file for path in img.files for file in _expanded(path)]
        if self._is_film(files):
            film = self._film(files[0])
            return film.display(), self._meta(film, film.samples.shape, film_affine(film))
        if len(files) == 1 and is_nifti(as_bytes(files[0], 4096)):
            chosen = one_volume(read_nifti(files[0]), self.volume)
        else:
            chosen = read_volume(files, self.volume, self.series)
        meta = self._meta(chosen, chosen.values.shape, self._turned(chosen.affine))
        return chosen.values, {**meta, "volume_key": chosen.key}

    def _film(self, file: Path) -> Film:
        picture = is_picture(as_bytes(file, 4096))
        return read_picture(file, self.picture_bits) if picture else read_film(file, self.film)

    def _is_film(self, files: list[Path]) -> bool:
        if self.kind != "auto":
            if self.kind == "film" and len(files) != 1:
                raise DicomRefusal(
                    "E-FRAMES", f"{len(files)} files where a film is one", allowed="1", fix="kind=volume"
                )
            return self.kind == "film"
        head = as_bytes(files[0], 4096) if len(files) == 1 else b""
        if is_picture(head) or is_nifti(head):
            return is_picture(head)
        return len(files) == 1 and not holds_slices(read_header(files[0], force=self.film.force))

    def _turned(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        return _LPS_TO_RAS @ affine if self.affine_lps_to_ras else affine

    def _meta(self, image: Film | Volume, shape: tuple[int, ...], affine: NDArray[np.float64]) -> dict[str, Any]:
        facts = image.facts
        return {
            str(MetaKeys.AFFINE): affine,
            str(MetaKeys.ORIGINAL_AFFINE): affine.copy(),
            str(MetaKeys.SPATIAL_SHAPE): np.array(shape),
            str(MetaKeys.ORIGINAL_CHANNEL_DIM): float("nan"),  # MONAI's word for "no channel"
            str(MetaKeys.SPACE): str(SpaceKeys.RAS if self.affine_lps_to_ras else SpaceKeys.LPS),
            "modality": facts.modality,
            "spacing_kind": facts.spacing_kind,
            "steps": "; ".join(image.steps),
            "warnings": "; ".join(image.warnings),
        }


def _paths(data: Sequence[PathLike] | PathLike) -> tuple[Path, ...]:
    return (Path(data),) if isinstance(data, (str, Path)) else tuple(map(Path, data))


def _expanded(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _has_mark(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
