"""Chest radiographs, from a DICOM folder and a label table to predictions of an exported model: seven commands.

    python pipelines/chest_xray.py ../shared/data/labelled/cxr_pneumonia_dicom

The films are 2,296 paediatric chest radiographs of 1,219 patients (Kermany 2018, CC BY 4.0) with made-up headers.
Every line below can be typed by hand; docs/reference/results.md holds what they printed.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

DATA = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/labelled/cxr_pneumonia_dicom")
WORK = Path("work/cxr")


def medvit(command: str, *settings: str) -> None:
    """Run one command of medvit as a user would."""
    print(f"\n$ python -m medvit.{command} {shlex.join(settings)}", flush=True)
    subprocess.run([sys.executable, "-m", f"medvit.{command}", *settings], check=True)


table = [f"labels.csv={DATA}/labels.csv", "labels.on=AccessionNumber", "labels.target=[finding]", "labels.keep=[cause]"]
medvit("index", f"data.root={DATA}/dicom", f"data.folder={WORK}", *table)
medvit("split", f"data.folder={WORK}")
medvit("train", "experiment=cxr_from_scratch", f"data.folder={WORK}", "labels.values={normal: 0, pneumonia: 1}")
medvit("evaluate", "run=latest", "split=test", "subgroups=[sex,photometric,transfer_syntax]")
medvit("register", "run=latest", "name=cxr_pneumonia", "alias=candidate")
medvit("export", "run=latest", "out=work/cxr_bundle")
medvit("predict", "bundle=work/cxr_bundle", f"input={DATA}/dicom", "out=work/cxr_predictions")
