"""The whole path on generated chest films: needs no data, no GPU and a few minutes.

python pipelines/synthetic.py
"""

from __future__ import annotations

import shlex
import subprocess
import sys


def medvit(command: str, *settings: str) -> None:
    """Run one command of medvit as a user would."""
    print(f"\n$ python -m medvit.{command} {shlex.join(settings)}", flush=True)
    subprocess.run([sys.executable, "-m", f"medvit.{command}", *settings], check=True)


medvit("train")  # generates, indexes and splits the films on its first run
medvit("evaluate", "run=latest", "split=test")
medvit("register", "run=latest", "name=phantom_opacity", "alias=candidate")
medvit("export", "run=latest", "out=work/phantom_bundle")
medvit("predict", "bundle=work/phantom_bundle", "input=work/phantom_cxr/raw/dicom", "out=work/phantom_predictions")
