"""Do the maps point at the finding, and do they tell what the network used?

    python benchmarks/localisation.py phantom KEPT [images]   generated chest films, planted opacities with their boxes
    python benchmarks/localisation.py brain KEPT [images]     MEDVIT_REAL_DATA/labelled/mri_brain_tumor_3class, boxes
    python benchmarks/localisation.py masks KEPT [images]     MEDVIT_REAL_DATA/labelled/mri_tumor_slices_masks, masks

Trains a small ViT in this process (or takes it from the folder KEPT, where it is left), then prints one row per method
on held-out patients (brain: on held-out groups of like slices, since patients are unknown): localisation against box or
mask, faithfulness and sanity, 95 % intervals by patient bootstrap. "shuffled" is the same method on shuffled weights:
it has to fall to what "even map" (chance) gives. Label randomisation: rank correlation with the maps of the same
network trained on permuted labels, for a third of the epochs.
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
from safetensors.torch import load_file, save_file

from medvit.explain import attribution, faithfulness, localisation
from medvit.explain.overlay import upsample
from medvit.explain.reference import Answer, Reference, choose, grey
from medvit.metric.ranking import auroc
from medvit.model.design import Architecture
from medvit.model.network import Network
from medvit.model.pool import AttentionPool
from medvit.model.vit import ViT
from medvit.phantom import films

SIDE, PATCH = 96, 8
FILMS, EPOCHS = 1200, {"phantom": 20, "brain": 30, "masks": 25}
STAND_IN = {"edges": faithfulness.edge_map, "noise": faithfulness.random_map}


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
        patient = films.Patient(number, float(rng.normal(1, 0.05)), float(rng.normal(1, 0.08)), 1.0, "F", 50, 0.5)
        detector = films.DETECTORS[number // 2 % 2]
        line, box = films.expose(patient, detector, "PA", opacity=bool(number % 2), rng=rng)
        mask = np.zeros(line.shape, bool)
        if box is not None:
            mask[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
        shown = np.rint(films.develop(line, detector, rng) * (255 / 4095)).astype(np.uint8)
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


def network(outputs: int) -> Network:
    """Return a small ViT with random weights."""
    torch.manual_seed(0)
    design = Architecture(positions="sincos", stem="conv")
    return Network(ViT([SIDE, SIDE], [PATCH, PATCH], 1, 96, 4, 3, design), AttentionPool("classes"), outputs)


def trained(data: Data, rows: np.ndarray, label: np.ndarray, epochs: int, kept: Path) -> Network:
    """Return the network trained from scratch on some rows; shifted and scaled in grey at random."""
    net = network(int(data.label.max()) + 1)
    if kept.is_file():
        net.load_state_dict(load_file(kept))
        return net.eval()
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
    kept.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, kept)
    return net.eval()


def tensor(integers: np.ndarray) -> torch.Tensor:
    """Return the network's input."""
    return torch.from_numpy(integers).float() / 127.5 - 1


def main(name: str, kept: Path, count: int) -> None:
    """Train, explain, print."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    root = Path(os.environ.get("MEDVIT_REAL_DATA", ".")) / "labelled"
    began = time.time()
    data = (phantom_films(FILMS) if name == "phantom" else brain(root / "mri_brain_tumor_3class") if name == "brain"
            else masks(root / "mri_tumor_slices_masks"))  # fmt: skip
    groups = np.unique(data.patient)
    held = np.random.default_rng(1).permutation(groups)[: max(2, len(groups) // 4)]
    test, rows = np.flatnonzero(np.isin(data.patient, held)), np.flatnonzero(~np.isin(data.patient, held))
    net = trained(data, rows, data.label, EPOCHS[name], kept / f"{name}.safetensors")
    shuffled = np.random.default_rng(2).permutation(data.label)
    permuted = trained(data, rows, shuffled, max(2, EPOCHS[name] // 3), kept / f"{name}_permuted.safetensors")
    with torch.no_grad():
        logits = torch.cat([net(tensor(data.image[part])) for part in np.array_split(test, max(1, len(test) // 64))])
    share = logits.softmax(1).numpy()
    areas = [auroc(data.label[test] == k, share[:, k]) for k in range(share.shape[1])]
    print(f"{name}: {len(rows)} train, {len(test)} test images, {time.time() - began:.0f} s", flush=True)
    print(f"AUROC per class on the test images: {np.round(areas, 3)}", flush=True)
    chosen = np.random.default_rng(3).permutation(test[data.mask[test].any(axis=(1, 2))])[:count]
    parts = [part(net, data, rows, chosen, k) for k in np.unique(data.label[chosen]).tolist()]
    for each in parts:
        print(f"class {each.output}: {len(each.rows)} images, reference {each.fill.name}, fall {each.fill.fall:.2f}")
    table(net, permuted, data, parts)
    print(f"{time.time() - began:.0f} s in all")


class Part(NamedTuple):
    """The explained images of one class: their rows, and what stands for what is taken away."""

    output: int
    rows: np.ndarray
    image: torch.Tensor
    fill: Reference

    def answer(self, net: Network) -> Answer:
        """Return what gives the probability of the class."""
        return lambda image: net(image).softmax(1)[:, self.output]


def part(net: Network, data: Data, rows: np.ndarray, chosen: np.ndarray, output: int) -> Part:
    """Return the images of a class with the better of two references."""
    mine = chosen[data.label[chosen] == output]
    average = tensor(data.image[rows[data.label[rows] != output]]).mean(dim=0, keepdim=True)
    made = Part(output, mine, tensor(data.image[mine]), Reference("", None, 0.0))
    return made._replace(fill=choose([(made.answer(net), made.image)], average))


def table(net: Network, permuted: Network, data: Data, parts: list[Part]) -> None:
    """Print one row per method."""
    rows = np.concatenate([each.rows for each in parts])
    truths = [localisation.Annotation(data.mask[n], (data.mm, data.mm), str(data.patient[n])) for n in rows]
    unit = "mm" if data.mm != 1 else "pixels"
    print(f"{len(rows)} images with a finding, {len({t.patient for t in truths})} patients or groups; "
          f"tolerance {truths[0].tolerance_mm:.1f} {unit}")  # fmt: skip
    other = faithfulness.shuffle_weights(net, "all")
    for name in (*attribution.METHODS, *STAND_IN):
        began = time.time()
        ways = [STAND_IN.get(name) or attribution.method(name, each.fill.image) for each in parts]
        maps = [way(net, each.image, each.output) for way, each in zip(ways, parts, strict=True)]
        seconds = (time.time() - began) / len(rows)
        faith = np.concatenate([faithful(net, each, found) for each, found in zip(parts, maps, strict=True)])
        first = parts[0]
        checks = faithfulness.sanity(ways[0], net, first.image[:4], first.output, (0, 1, 2, 3), permuted)
        line(name, sized(maps), truths, faith, checks, seconds)
        if name in ("integrated", "occlusion", "relevance"):
            random = [way(other, each.image, each.output) for way, each in zip(ways, parts, strict=True)]
            line(f"{name} shuffled", sized(random), truths)
    line("centre prior", np.stack([localisation.centre_prior((SIDE, SIDE))] * len(rows)), truths)
    line("even map", np.ones((len(rows), SIDE, SIDE)), truths)


def faithful(net: Network, each: Part, maps: torch.Tensor) -> np.ndarray:
    """Return insertion minus deletion [n]."""
    fill = grey(each.image) if each.fill.image is None else each.fill.image.expand_as(each.image)
    deletion, insertion = faithfulness.deletion_insertion(each.answer(net), each.image, maps, fill)
    return insertion - deletion


def sized(maps: list[torch.Tensor]) -> np.ndarray:
    """Return the positive part of maps at the input's size."""
    return upsample(torch.cat(maps), (SIDE, SIDE)).clamp_min(0).numpy()


def line(name, maps, truths, faith=None, checks=None, seconds=None) -> None:
    """Print a row of a table."""
    scores = [localisation.score(saliency, truth) for saliency, truth in zip(maps, truths, strict=True)]
    columns = {key: [score[key] for score in scores] for key in localisation.SCORES}
    if faith is not None:
        columns["faithful"] = faith
    found = localisation.summary(columns, [truth.patient for truth in truths])
    cells = [f"{v.value:.2f} ({v.low:.2f} to {v.high:.2f})" for v in found.values()]
    cells += ["-"] * (4 - len(cells))
    cells += ["-"] * 4 if checks is None else [f"{checks[key]:.2f}" for key in ("head", "all", "labels")] + [
        "passes" if faithfulness.passes_sanity(checks) else "fails"]  # fmt: skip
    print("|", " | ".join([name, *cells, "-" if seconds is None else f"{1000 * seconds:.0f}"]), "|", flush=True)


if __name__ == "__main__":
    kind, place = sys.argv[1], Path(sys.argv[2])
    main(kind, place, int(sys.argv[3]) if len(sys.argv) > 3 else 60)
