"""Report section on out-of-distribution detection: distances of test images and of six foreign sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medvit.augment import perturbation
from medvit.data.units import Units
from medvit.engine.embedding.embeddings import PooledVector
from medvit.evaluation.inference import OpenedRun, middle_plane
from medvit.metric import ood
from medvit.metric.bootstrap import intervals, patient_draws
from medvit.metric.ood import Envelope, Features
from medvit.metric.ranking import Ranking
from medvit.phantom import foreign
from medvit.report.page import Section
from medvit.report.table import Row, Table

MOST = 4000  # training images behind the statistics of pixels: 50 for each of them
_FOREIGN, _DRAWS, _AT_ONCE = 100, 1000, 256


def ood_section(opened: OpenedRun) -> Section:
    """Score images that are no such images at all by their distance from training, with limits from validation."""
    envelope = envelope_of(opened)
    table = distance_scores(opened, envelope, dict(foreign_sets(opened)))
    return Section("Images unlike training", (table,))


def envelope_of(opened: OpenedRun) -> Envelope:
    """Return what the training images look like, its limits set on the validation side."""
    train, validation = features_of_units(opened, opened.train, MOST), features_of_units(opened, opened.validation)
    return ood.fit_envelope(train, validation, k=min(50, max(1, len(train.vector) // 10)))


def distance_scores(opened: OpenedRun, envelope: Envelope, foreign_sets: dict[str, Features]) -> Table:
    """Return how well each distance tells each set from the test images."""
    proper = envelope.scores(features_of_units(opened, opened.test))
    patient = [str(p) for p in opened.test.frame.sort_values("uid")["patient"]]
    rows: list[Row] = [
        {"set": f"{opened.split} images", "method": method, "outside": float((proper[method] > 1).mean())}
        for method in ood.METHODS
    ]
    for name, seen in foreign_sets.items():
        scores = envelope.scores(seen)
        count = len(seen.vector)
        theirs = patient if name == "inverted" else [f"foreign {n}" for n in range(count)]
        drawn = patient_draws([*patient, *theirs], _DRAWS, 0)
        label = np.r_[np.zeros(len(patient)), np.ones(count)]
        for method in ood.METHODS:
            area = intervals(Ranking(label, np.r_[proper[method], scores[method]]).auroc, drawn)[0]
            rows.append({"set": name, "images": count, "method": method, "auroc": area,
                         "fpr95": ood.fpr_at_95(proper[method], scores[method]),
                         "outside": float((scores[method] > 1).mean())})  # fmt: skip
    columns = {"set": "Images", "images": "n", "method": "Distance", "auroc": "AUROC against test images",
               "fpr95": "Accepted where 95 % of test images are", "outside": "Beyond the limit"}  # fmt: skip
    note = (
        "Pixels: plain statistics of the image (thumbnail, grey values, borders, detail), Mahalanobis distance from "
        f"training; goes with an exported model. Mahalanobis and knn (cosine to the {envelope.k}th nearest): the "
        f"network's pooled vector. Together: the largest of the three. Each limit holds {ood.LEVEL:.0%} of validation. "
        "All sets but the inverted test images are generated."
    )
    return Table("ood", "Out of distribution", columns, rows, note)


def features_of_units(opened: OpenedRun, units: Units, most: int = 0) -> Features:
    """Return what is known of every unit, in the order of their uids; see `statistics_of`."""
    vectors = opened.predict_units(PooledVector(opened.trained.network), units).logits
    return Features(statistics_of(units, most), vectors)


def statistics_of(units: Units, most: int = MOST) -> NDArray[np.float64]:
    """Return the statistics of units (middle images) by uid [n 82]; of `most` evenly chosen, 0 for all."""
    order = np.argsort(units.uid)
    if 0 < most < len(order):
        order = order[np.linspace(0, len(order) - 1, most).astype(int)]
    parts = [
        ood.pixel_statistics(np.stack([middle_plane(units, int(n)) for n in order[k : k + _AT_ONCE]]))
        for k in range(0, len(order), _AT_ONCE)
    ]
    return np.concatenate(parts)


def features_of_images(opened: OpenedRun, integers: NDArray[Any]) -> Features:
    """Return what is known of images that are no units, integers [n C *S] as the preprocessing gives them."""
    planes = integers[:, 0]
    while planes.ndim > 3:
        planes = planes[:, planes.shape[1] // 2]
    network = opened.trained.network
    with torch.inference_mode():
        chunks = np.array_split(integers, -(-len(planes) // 16))
        parts = [network.embed(opened.input(part)).double().cpu() for part in chunks]
    return Features(ood.pixel_statistics(planes), torch.cat(parts).numpy())


def foreign_sets(opened: OpenedRun) -> Iterator[tuple[str, Features]]:
    """Yield every foreign set that fits the network: of volumes, inverted images and noise only."""
    step = opened.trained.preprocess
    if len(step.shape) == 3 and not opened.test.bagged:
        yield "inverted", features_of_images(opened, inverted(opened.test))
        for name in foreign.SETS:
            made = foreign.foreign(name, _FOREIGN, tuple(step.shape[-2:]))
            kind = np.dtype(step.dtype).type
            yield (
                name,
                features_of_images(opened, made[:, None].astype(kind) * kind(1 if step.dtype == "uint8" else 257)),
            )
        return
    flip = perturbation.Perturbation("polarity", 1)
    vectors = opened.predict_units(PooledVector(opened.trained.network), opened.test, flip).logits
    planes = [middle_plane(opened.test, int(n)) for n in np.argsort(opened.test.uid)]
    yield "inverted", Features(ood.pixel_statistics(np.iinfo(planes[0].dtype).max - np.stack(planes)), vectors)
    top = np.iinfo(step.dtype).max
    drawn = np.random.default_rng(0).integers(0, top, (_FOREIGN // 5, *step.shape), step.dtype, endpoint=True)
    yield "noise", features_of_images(opened, drawn)


def inverted(units: Units) -> NDArray[Any]:
    """Return the films of units [n 1 H W] as negatives; the padding around a film stays black, as it would."""
    rows = [int(units.members[n][0]) for n in np.argsort(units.uid)]
    made = units.cache.gather(rows)
    for image, row in zip(made, rows, strict=True):
        (top, left), (height, width) = (units.cache.placement(row).offset, units.cache.placement(row).inner)
        film = image[..., top : top + height, left : left + width]
        film[...] = np.iinfo(made.dtype).max - film
    return made
