"""Every preset of conf/preprocess against plain MONAI: the same list, step by step, over real films and series."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from preset_nodes import MODELS, node

from medvit.config import build
from medvit.errors import DicomRefusal

FILMS, SERIES = 24, 12


def films(root: Path) -> list[Path]:
    """Return films of every compression of the labelled set, and those of the zoo that are read."""
    found = sorted((root / "labelled/cxr_pneumonia_dicom").rglob("*"))
    files = [file for file in found if file.is_file() and file.suffix not in {".csv", ".md"}]
    zoo = sorted(file for file in (root / "zoo").rglob("*.dcm"))
    return [*files[:: max(1, len(files) // FILMS)][:FILMS], *zoo]


def series(root: Path) -> list[list[Path]]:
    found = []
    for folder in sorted(path for path in (root / "mri_series").iterdir() if path.is_dir()):
        files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix.lower() in {".dcm", ".ima", ""}]
        if files and len(files) <= 60:
            found.append(files)
    return found


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("preset", MODELS)
def test_the_fused_code_gives_what_monai_gives_step_by_step(preset, real_data, capsys):
    from medvit.data.monai_transforms import compose

    pre = build(node(preset))
    plain = compose(pre)
    worst, apart, compared, values, refused = 0.0, 0, 0, 0, 0
    for source in films(real_data) if preset == "film" else series(real_data):
        if compared == (FILMS if preset == "film" else SERIES) * 2:
            break
        try:
            ours = pre(source)
        except DicomRefusal:
            refused += 1
            with pytest.raises((DicomRefusal, RuntimeError)):
                plain({"image": source if preset == "film" else [str(file) for file in source]})
            continue
        theirs = plain({"image": str(source) if preset == "film" else [str(file) for file in source]})["image"].numpy()
        theirs = theirs[0][:, None] if preset == "slices" else theirs
        levels = np.abs(ours - theirs) / pre.scale
        worst, apart = max(worst, float(levels.max())), apart + int((levels > 0.5).sum())
        compared, values = compared + 1, values + levels.size
    told = (
        f"{preset:8} {compared} images, {refused} refused by both, at most {worst:.3f} of {pre.levels} levels apart, "
    )
    with capsys.disabled():
        sys.stdout.write(f"\n{told}{apart} of {values} values differ by a level ({100 * apart / values:.3f} %)\n")
    assert compared >= 8
    assert worst < 1.01
    assert apart < 1e-3 * values or pre.levels == 65535
