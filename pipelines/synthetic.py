"""The whole path on generated chest films: needs no data, no GPU and a few minutes.

python pipelines/synthetic.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def medvit(command: str, *settings: str) -> None:
    """Run one command of medvit as a user would."""
    print(f"\n$ python -m medvit.{command} {' '.join(settings)}", flush=True)
    subprocess.run([sys.executable, "-m", f"medvit.{command}", *settings], check=True)


medvit("train")  # generates, indexes and splits the films on its first run
run = (Path("runs") / "latest").read_text(encoding="utf-8").strip()
medvit("evaluate", f"run={run}", "split=test")
medvit("register", f"run={run}", "name=phantom_opacity", "alias=candidate")
medvit("export", f"run={run}", "out=work/phantom_bundle")
medvit("predict", "bundle=work/phantom_bundle", "input=work/phantom_cxr/dicom", "out=work/phantom_predictions")
