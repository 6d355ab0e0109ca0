"""How often text burned into a chest film is suspected, and how often a film without text is.

    MEDVIT_REAL_DATA=... python -m benchmarks.burned_text [films]

Made-up names with years are written in white at drawn places, as modalities do, on dark and on bright ground, in
letters of 10 to 40 pixels (SE-11), on real chest films enlarged to 1,024 rows. Films without text are judged at that
size and at their own; some hold a side marker.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from medvit.dicom.read import read_film
from medvit.quality.measures import text_suspected

HEIGHTS = (10, 14, 20, 28, 40)  # pixels of a capital letter
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_PLAIN)
NAMES = ("SMITH^ANNA 1950", "MUELLER HANS 12.03.1947", "O'NEILL P 1988", "GARCIA MARIA 1962-07-30", "LI WEI 2001")
ROWS = 1024


def written(film: NDArray[np.uint8], height: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the film with a name at a drawn place."""
    text, font = str(rng.choice(NAMES)), int(rng.choice(FONTS))
    (_, tall), _ = cv2.getTextSize("A", font, 1.0, 1)
    scale, thick = height / tall, max(1, round(height / 10))
    (width, _), _ = cv2.getTextSize(text, font, scale, thick)
    rows, columns = film.shape
    place = int(rng.integers(4, max(5, columns - width - 4))), int(rng.integers(height + 4, rows - 4))
    return np.asarray(cv2.putText(film.copy(), text, place, font, scale, 255, thick, cv2.LINE_AA), np.uint8)


def main() -> None:
    folder, count = Path(os.environ["MEDVIT_REAL_DATA"]), int(sys.argv[1]) if len(sys.argv) > 1 else 200
    paths = sorted(path for path in (folder / "labelled/cxr_pneumonia_dicom/dicom").rglob("*") if path.is_file())
    own = [np.round(read_film(path).display() * 255).astype(np.uint8) for path in paths[:: len(paths) // count]][:count]
    large = [cv2.resize(film, (round(film.shape[1] * ROWS / len(film)), ROWS), interpolation=2) for film in own]
    rng = np.random.default_rng(0)
    for height in HEIGHTS:
        found = sum(text_suspected(written(film, height, rng)) for film in large)
        print(f"letters of {height} pixels: {found} of {len(large)} suspected", flush=True)
    for name, films in (("enlarged", large), ("own size", own)):
        print(f"without text, {name}: {sum(map(text_suspected, films))} of {len(films)} suspected", flush=True)


if __name__ == "__main__":
    main()
