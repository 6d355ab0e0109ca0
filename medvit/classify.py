"""`python -m medvit.classify WEIGHTS IMAGE...`: use a checkpoint's own classifier, as it is, on DICOM, PNG or JPEG."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from medvit.errors import MedvitError


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the most probable classes of every image; return 0 or the exit code of the error."""
    parser = argparse.ArgumentParser(prog="python -m medvit.classify", description=__doc__)
    parser.add_argument("weights", help="directory with config.json and model.safetensors, or a hub id that is here")
    parser.add_argument("image", type=Path, nargs="+", help="DICOM, PNG or JPEG; colour becomes grey")
    parser.add_argument("--top", type=int, default=5, help="classes to show per image")
    asked = parser.parse_args(arguments)
    try:
        for position, found in enumerate(classify(asked.weights, asked.image), start=1):
            ranked = sorted(found.items(), key=lambda item: -item[1])[: asked.top]
            text = ", ".join(f"{name} {share:.4f}" for name, share in ranked)
            sys.stdout.write(f"file {position} of {len(asked.image)}: {text}\n")
    except MedvitError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    return 0


def classify(weights: str, images: Sequence[Path]) -> list[dict[str, float]]:
    """Return for each image the probability in [0, 1] of every class of the checkpoint.

    The image is read as a film (grey, 0 black to 1 white), stretched to the checkpoint's size and normalised with its
    statistics; a three-channel encoder is folded to one channel, which is exact for grey images. Raises WeightsError
    for a checkpoint without a classifier, DicomRefusal or DataError for a file that is no readable image.
    """
    import torch

    from medvit.model.pretrained.load import load
    from medvit.preprocess.film import FilmPreprocess

    loaded = load(weights, in_channels=1)
    vit = loaded.backbone.eval()
    rows, columns = (n * d for n, d in zip(vit.grid, vit.divisor, strict=True))
    preprocess = FilmPreprocess(size=(rows, columns), fit="stretch", dtype="uint16", mean=vit.mean[0], std=vit.std[0])
    names = loaded.head.labels
    results = []
    for image in images:
        with torch.inference_mode():
            shares = loaded.head.probabilities(vit(torch.from_numpy(preprocess(image))[None]))[0].tolist()
        results.append({names[i] if i < len(names) else str(i): share for i, share in enumerate(shares)})
    return results


if __name__ == "__main__":
    sys.exit(main())
