"""The tiny network and its bundle of tests/bundle, and what an independent validator says of an object."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from bundle.conftest import bundle, contents, facts, films, trained  # noqa: F401


def errors_of(file: Path) -> list[str]:
    """Return the errors dciodvfy finds, nothing where dicom3tools is not installed (a test of its own says so)."""
    if not shutil.which("dciodvfy"):
        return []
    told = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    return [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")]


def volume_bundle(contents: Any, out: Path, bag: bool) -> tuple[Any, Path]:  # noqa: F811
    """Return a tiny network on volumes, or on bags of slices, and its bundle."""
    import torch

    from medvit.bundle import golden
    from medvit.bundle.build import write_draft
    from medvit.bundle.decision import Decider
    from medvit.bundle.parity import Trained
    from medvit.model.bag import StudyBag
    from medvit.model.network import Network
    from medvit.model.pool import MeanPool
    from medvit.model.vit import ViT
    from medvit.preprocess import VolumePreprocess

    torch.manual_seed(0)
    if bag:
        backbone = ViT(image_size=(16, 24), patch_size=(8, 8), in_channels=1, width=24, depth=1, heads=2)
        preprocess = VolumePreprocess(size=(5, 16, 24), mode="slices")
        network = Network(backbone, MeanPool(), outputs=1, bag=StudyBag()).eval()
    else:
        backbone = ViT(image_size=(8, 16, 16), patch_size=(4, 8, 8), in_channels=1, width=24, depth=1, heads=2)
        preprocess = VolumePreprocess(size=(8, 16, 16))
        network = Network(backbone, MeanPool(), outputs=1).eval()
    with torch.no_grad():
        network.head.weight.mul_(40)
    probabilities = Decider(("opacity",), {"name": "sigmoid"}, {}, {}).probabilities
    made = Trained(network, preprocess, probabilities, golden.generated_series())
    its = replace(contents, preprocess=preprocess.to_json(), acceptance={"modality": ["MR"]})
    return made, write_draft(made, its, out)
