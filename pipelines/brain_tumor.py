"""Tumour types on real MR slices, from JPEG files and a label table with groups to the test report: four commands.

    python pipelines/brain_tumor.py ../shared/data/labelled/mri_brain_tumor_3class

1,512 contrast-enhanced T1 slices (Cheng, figshare 1512427). The patients are not known; `group_inferred` keeps
neighbouring slices together and stands for the patient in the split and in every interval. Results:
docs/reference/results.md.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

DATA = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/labelled/mri_brain_tumor_3class")
WORK = Path("work/brain_tumor")


def medvit(command: str, *settings: str) -> None:
    """Run one command of medvit as a user would."""
    print(f"\n$ python -m medvit.{command} {shlex.join(settings)}", flush=True)
    subprocess.run([sys.executable, "-m", f"medvit.{command}", *settings], check=True)


table = [f"labels.csv={DATA}/labels.csv", "labels.on=path", "labels.target=[label]", "labels.patient=group_inferred"]
medvit("index", f"data.root={DATA}", f"data.folder={WORK}", "data.kind=film", *table)
medvit("split", f"data.folder={WORK}")
medvit("train", "experiment=brain_tumor_from_scratch", f"data.folder={WORK}")
medvit("evaluate", "run=latest", "split=test")
