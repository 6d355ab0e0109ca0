"""The default X-ray augmentation against the MONAI composition it equals: ratios measured in one run.

OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 python benchmarks/augment_speed.py    (processor time of one thread)
"""

from __future__ import annotations

import statistics
import time
import warnings

import cv2
import numpy as np
import torch

from medvit.augment.chain import compose
from medvit.augment.fused import Fused

IMAGES, ROUNDS = 32, 5


def bare(transforms: list, images: np.ndarray) -> None:
    """MONAI as its users run it: Compose on float tensors, nothing of ours around it."""
    from monai.transforms import Compose

    chain = Compose(transforms)
    for image in images:
        chain({"image": torch.from_numpy(image.astype(np.float32) / 255)})


def measure(name: str, fused: Fused, size: int) -> None:
    from monai.data import set_track_meta

    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 1, size, size), dtype=np.uint8)
    images = np.stack([cv2.GaussianBlur(image[0], (0, 0), 3)[None] for image in images])
    position, member = np.arange(IMAGES), np.zeros(IMAGES, np.int64)
    wrapped = compose(fused)
    transforms = compose(fused).transforms

    def without_meta() -> None:
        set_track_meta(False)
        bare(transforms, images)
        set_track_meta(True)

    runs = {
        "medvit fused": lambda epoch: fused(images, 0, epoch, position, member),
        "MONAI Compose": lambda _: bare(transforms, images),
        "MONAI Compose, track_meta off": lambda _: without_meta(),
        "MONAI through medvit (seeded)": lambda epoch: wrapped(images, 0, epoch, position, member),
    }
    seconds: dict[str, list[float]] = {run: [] for run in runs}
    for epoch in range(ROUNDS + 1):
        for run, call in runs.items():
            start = time.process_time()
            call(epoch)
            if epoch:
                seconds[run].append(time.process_time() - start)
    middle = {run: statistics.median(values) for run, values in seconds.items()}
    print(f"\n{name}, {size} px: {'ms per image':>30}{'x slower than fused':>22}")
    for run, value in middle.items():
        print(f"{run:34}{value / IMAGES * 1e3:12.3f}{value / middle['medvit fused']:22.1f}")


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for size in (224, 512):
        measure("xray", Fused(), size)
    mri = Fused(bias=0.15, gamma=(0.7, 1.5), noise=0.05, chance={"bias": 0.5, "noise": 0.3})
    measure("mri", mri, 224)


if __name__ == "__main__":
    main()
