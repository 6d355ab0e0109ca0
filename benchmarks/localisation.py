"""Do the maps point at the finding, and do they tell what the network used?

    python benchmarks/localisation.py phantom [films]        generated chest films, planted opacities with their boxes
    python benchmarks/localisation.py brain                  MEDVIT_REAL_DATA/labelled/mri_brain_tumor_3class, boxes
    python benchmarks/localisation.py masks                  MEDVIT_REAL_DATA/labelled/mri_tumor_slices_masks, masks

Trains a small ViT in this process, then prints one row per method on held-out patients (brain: on held-out groups of
like slices, since patients are unknown): localisation against box or mask, faithfulness and sanity, 95 % intervals by
patient bootstrap. "shuffled" is the same method on shuffled weights: it has to fall to what "even map" (chance) gives.
Label randomisation: rank correlation with the maps of the same network trained on permuted labels.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch

from medvit.dicom import phantom
from medvit.explain import attribution, faithfulness, localise
from medvit.explain.overlay import maps_of, upsample
from medvit.metric.ranking import auroc
from medvit.model.design import Design
from medvit.model.network import Network
from medvit.model.pool import AttentionPool
from medvit.model.vit import ViT

SIDE, PATCH, EXPLAINED = 96, 8, 60


class Data(NamedTuple):
    """Images [n 1 H W] uint8, classes [n], masks [n H W] (empty for none), patients [n], mm per pixel."""

    image: np.ndarray
    label: np.ndarray
    mask: np.ndarray
    patient: np.ndarray
    mm: float


def placed(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both at the network's size, the aspect kept by padding."""
    side = max(image.shape)
    pad = [((side - n) // 2, side - n - (side - n) // 2) for n in image.shape]
    small = cv2.resize(np.pad(image, pad), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return small, cv2.resize(np.pad(mask, pad).astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 0


def phantom_films(count: int) -> Data:
    """Expose films of `count` patients, every other one with an opacity."""
    rows = []
    for number in range(count):
        rng = np.random.default_rng([7, number])
        patient = phantom.Patient(number, float(rng.normal(1, 0.05)), float(rng.normal(1, 0.08)), 1.0, "F", 50, 0.5)
        detector = phantom.DETECTORS[number // 2 % 2]
        line, box = phantom.expose(patient, detector, "PA", opacity=bool(number % 2), rng=rng)
        mask = np.zeros(line.shape, bool)
        if box is not None:
            mask[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
        shown = np.rint(phantom.develop(line, detector, rng) * (255 / 4095)).astype(np.uint8)
        rows.append((*placed(shown, mask), number % 2, str(number)))
    image, mask, label, patient_id = (np.stack(part) for part in zip(*rows, strict=True))
    return Data(image[:, None], label, mask, patient_id, 288 * 1.4 / SIDE)


def brain(folder: Path) -> Data:
    """Read the three kinds of tumour with their boxes; groups of like slices stand for patients."""
    rows, names = [], ["glioma", "meningioma", "pituitary"]
    for row in pd.read_csv(folder / "labels.csv").itertuples():
        picture = cv2.imread(str(folder / row.path), cv2.IMREAD_GRAYSCALE)
        mask, (high, wide) = np.zeros(picture.shape, bool), picture.shape
        top, left = (row.bbox_cy - row.bbox_h / 2) * high, (row.bbox_cx - row.bbox_w / 2) * wide
        mask[
            max(0, int(top)) : int(top + row.bbox_h * high) + 1, max(0, int(left)) : int(left + row.bbox_w * wide) + 1
        ] = True
        rows.append(
            (*placed(picture, mask), next(k for k, n in enumerate(names) if n in row.label), row.group_inferred)
        )
    image, mask, label, patient = (np.stack(part) for part in zip(*rows, strict=True))
    return Data(image[:, None], label, mask, patient, 1.0)


def masks(folder: Path) -> Data:
    """Read slices with tumour masks; most of 7 patients train, so intervals are wide."""
    rows = []
    for row in pd.read_csv(folder / "labels.csv", dtype=str).itertuples():
        picture = cv2.imread(str(folder / row.path), cv2.IMREAD_GRAYSCALE)
        there = isinstance(row.mask, str)
        mask = cv2.imread(str(folder / row.mask), cv2.IMREAD_GRAYSCALE) > 0 if there else np.zeros(picture.shape, bool)
        rows.append((*placed(picture, mask), int(mask.any()), row.patient_id))
    image, mask, label, patient = (np.stack(part) for part in zip(*rows, strict=True))
    return Data(image[:, None], label, mask, patient, 1.0)


def train(data: Data, rows: np.ndarray, label: np.ndarray, epochs: int) -> Network:
    """Return a small ViT trained from scratch on some rows; shifted and scaled in grey at random."""
    torch.manual_seed(0)
    outputs = int(data.label.max()) + 1
    design = Design(positions="sincos", stem="conv")
    net = Network(ViT([SIDE, SIDE], [PATCH, PATCH], 1, 96, 4, 3, design), AttentionPool("classes"), outputs)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95))
    steps = epochs * (len(rows) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.2)
    random = np.random.default_rng(0)
    for _ in range(epochs):
        order = random.permutation(rows)
        for part in order[: len(order) // 32 * 32].reshape(-1, 32):
            image = tensor(data.image[part]) * float(random.uniform(0.8, 1.2))
            image = torch.roll(image, tuple(random.integers(-6, 7, 2).tolist()), (2, 3))
            loss = torch.nn.functional.cross_entropy(net(image), torch.from_numpy(label[part]).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def tensor(integers: np.ndarray) -> torch.Tensor:
    """Return the network's input."""
    return torch.from_numpy(integers).float() / 127.5 - 1


def main(name: str, count: int, epochs: int) -> None:
    """Train, explain, print."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    root = Path(os.environ.get("MEDVIT_REAL_DATA", ".")) / "labelled"
    began = time.time()
    data = (phantom_films(count) if name == "phantom" else brain(root / "mri_brain_tumor_3class") if name == "brain"
            else masks(root / "mri_tumor_slices_masks"))  # fmt: skip
    groups = np.unique(data.patient)
    held = np.random.default_rng(1).permutation(groups)[: max(2, len(groups) // 4)]
    test, rows = np.flatnonzero(np.isin(data.patient, held)), np.flatnonzero(~np.isin(data.patient, held))
    net = train(data, rows, data.label, epochs)
    with torch.no_grad():
        logits = torch.cat([net(tensor(data.image[part])) for part in np.array_split(test, max(1, len(test) // 64))])
    share = logits.softmax(1).numpy()
    areas = [auroc(data.label[test] == k, share[:, k]) for k in range(share.shape[1])]
    print(f"{name}: {len(rows)} train, {len(test)} test images, {time.time() - began:.0f} s", flush=True)
    print(f"AUROC per class on the test images: {np.round(areas, 3)}", flush=True)
    permuted = train(data, rows, np.random.default_rng(2).permutation(data.label), max(2, epochs // 3))
    chosen = test[data.mask[test].any(axis=(1, 2))]
    chosen = np.random.default_rng(3).permutation(chosen)[:EXPLAINED]
    table(net, permuted, data, chosen)
    print(f"{time.time() - began:.0f} s in all")


def table(net: Network, permuted: Network, data: Data, chosen: np.ndarray) -> None:
    """Print one row per method."""
    patient = data.patient[chosen].astype(str)
    truths = [localise.Truth(data.mask[n], (data.mm, data.mm), p) for n, p in zip(chosen, patient, strict=True)]
    print(
        f"{len(chosen)} images with a finding, {len(set(patient))} patients; tolerance {truths[0].tolerance_mm:.1f} mm"
    )
    other = faithfulness.shuffled(net, "all")
    ways = {**attribution.METHODS, "edges": faithfulness.edge_map, "noise": faithfulness.random_map}
    for name, way in ways.items():
        began = time.time()
        maps, faith = per_class(net, data, chosen, way)
        seconds = (time.time() - began) / len(chosen)
        line(name, maps, truths, patient, faith, sanity(net, permuted, data, chosen, way), seconds)
        if name in ("relevance", "grad_attention"):
            line(f"{name} shuffled", per_class(other, data, chosen, way)[0], truths, patient)
    line("centre prior", np.stack([localise.centre_prior((SIDE, SIDE))] * len(chosen)), truths, patient)
    line("even map", np.ones((len(chosen), SIDE, SIDE)), truths, patient)


def per_class(net: Network, data: Data, chosen: np.ndarray, way) -> tuple[np.ndarray, np.ndarray]:
    """Return maps of each image's own class at the input's size, and deletion and insertion [n 2]."""
    maps, faith = np.zeros((len(chosen), SIDE, SIDE)), np.zeros((len(chosen), 2))
    for output in np.unique(data.label[chosen]).tolist():
        mine = np.flatnonzero(data.label[chosen] == output)
        image = tensor(data.image[chosen[mine]])
        found = maps_of(net, image, output, way)
        maps[mine] = upsample(found, (SIDE, SIDE)).numpy()
        curves = faithfulness.curves(net, image, found, lambda logits, k=output: logits.softmax(1)[:, k])
        faith[mine] = np.stack(curves, axis=1)
    return maps, faith


def sanity(net: Network, permuted: Network, data: Data, chosen: np.ndarray, way) -> dict[str, float]:
    """Return rank correlations after shuffling the head, all weights, and with permuted training labels."""
    first = chosen[:6]
    output = int(data.label[first[0]])
    image = tensor(data.image[first])
    found = faithfulness.sanity(way, net, image, output, seeds=(0, 1))
    return {**found, "labels": faithfulness.agreement(way(net, image, output), way(permuted, image, output))}


def line(name, maps, truths, patient, faith=None, checks=None, seconds=None) -> None:
    """Print a row."""
    scores = [localise.score(saliency, truth) for saliency, truth in zip(maps, truths, strict=True)]
    columns = {key: [score[key] for score in scores] for key in localise.SCORES}
    if faith is not None:
        columns["ins-del"] = faith[:, 1] - faith[:, 0]
    found = localise.summary(columns, list(patient))
    cells = [f"{key} {v.value:.2f} ({v.low:.2f} to {v.high:.2f})" for key, v in found.items()]
    tail = "" if checks is None else "  same with shuffled " + ", ".join(f"{key} {v:.2f}" for key, v in checks.items())
    print(f"{name:24}", "  ".join(cells), tail, "" if seconds is None else f" {seconds:.2f} s/image", flush=True)


if __name__ == "__main__":
    kind = sys.argv[1] if len(sys.argv) > 1 else "phantom"
    main(kind, int(sys.argv[2]) if len(sys.argv) > 2 else 1200, {"phantom": 12, "brain": 15, "masks": 25}[kind])
