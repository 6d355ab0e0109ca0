"""Generated brain MR series: a bag of slices through a 2-D encoder, and a native 3-D ViT beside it.

python pipelines/brain_mri.py
"""

from __future__ import annotations

import shlex
import subprocess
import sys


def medvit(command: str, *settings: str) -> None:
    """Run one command of medvit as a user would."""
    print(f"\n$ python -m medvit.{command} {shlex.join(settings)}", flush=True)
    subprocess.run([sys.executable, "-m", f"medvit.{command}", *settings], check=True)


for recipe in ("mri_slice_bag_demo", "mri_3d_demo"):
    medvit("train", f"experiment={recipe}")
    medvit("evaluate", "run=latest", "split=test")
