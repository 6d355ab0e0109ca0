"""Sections on maps: which method is faithful, whether it survives shuffled weights, and whether it finds the box."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvit.data.manifest import SPACING
from medvit.data.units import Units
from medvit.explain import attribution, faithfulness, localise
from medvit.explain.overlay import maps_of, upsample
from medvit.report.evaluation import Section
from medvit.report.table import Row, Table
from medvit.trial_bench import Bench

BOX = tuple(f"table.box_{end}" for end in ("x0", "y0", "x1", "y1"))  # pixel columns and rows, ends included
REFERENCES: dict[str, attribution.Method] = {"edges": faithfulness.edge_map, "noise": faithfulness.random_map}
_SANITY, _DRAWS = 4, 1000


def explained(bench: Bench, methods: list[str], most: int) -> list[Section]:
    """Measure the methods on validation, take the most faithful, and score maps against boxes where there are any."""
    network = bench.trained.network
    if bench.validation.bagged:
        text = "Not measured: units are bags of images. `medvit.explain.attribution.of_bag` gives their maps."
        return [Section("Explanation", text=text)]
    usable = attribution.available(network)
    ways = {name: attribution.method(name) for name in methods if name in usable}
    rows = _faithful(bench, {**ways, **REFERENCES}, most)
    ranked = [row for row in rows if row["method"] in ways]
    bench.best = max(ranked, key=lambda row: row["difference"].value)["method"] if ranked else ""
    columns = {"method": "Method", "deletion": "Deletion (low is good)", "insertion": "Insertion (high is good)",
               "difference": "Insertion minus deletion", "head": "Same with shuffled head",
               "all": "Same with all weights shuffled", "verdict": "Sanity"}  # fmt: skip
    note = (
        f"Positives of the validation side, up to {most} per finding; patients resampled. Sanity: rank correlation of "
        f"the maps with those of shuffled weights, below {faithfulness.HEAD_BOUND} for the head and "
        f"{faithfulness.ALL_BOUND} for all weights (first {_SANITY} images). A plain edge detector has to fail."
    )
    text = f"Most faithful on validation, and used for the maps in this report: {bench.best}." if bench.best else ""
    made = [Section("Explanation", (Table("faithfulness", "Faithfulness and sanity", columns, rows, note),), text=text)]
    located = _located(bench, ways, 8 * most)
    return [*made, Section("Localisation", (located,))] if located.rows else made


def _faithful(bench: Bench, ways: Mapping[str, attribution.Method], most: int) -> list[Row]:
    network, task = bench.trained.network, bench.trained.task
    columns: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ways}
    patient: list[str] = []
    checks: dict[str, dict[str, float]] = {}
    for output in range(len(task.names)):
        found, image = bench.pictures(bench.validation, output, most)
        if not len(found):
            continue
        patient += [str(p) for p in bench.validation.frame["patient"].to_numpy()[found]]

        def probability(logits: Tensor, output: int = output) -> Tensor:
            given: Tensor = task.probabilities(logits)[:, output]
            return given

        for name, way in ways.items():
            maps = maps_of(network, image, output, way).to(image.device)
            columns[name].append(np.stack(faithfulness.curves(network, image, maps, probability), axis=1))
            if name not in checks:
                checks[name] = faithfulness.sanity(way, network, image[:_SANITY], output, seeds=(0, 1))
    if len(set(patient)) < 2:
        return []
    rows = []
    for name in ways:
        deletion, insertion = np.concatenate(columns[name]).T
        scores = {"deletion": deletion, "insertion": insertion, "difference": insertion - deletion}
        verdict = "passes" if faithfulness.passes(checks[name]) else "fails"
        rows.append({"method": name, **localise.summary(scores, patient, _DRAWS), **checks[name], "verdict": verdict})
    return rows


def _located(bench: Bench, ways: Mapping[str, attribution.Method], most: int) -> Table:
    """Score every method, and the same with shuffled weights, on test images that have a box."""
    rows: list[Row] = []
    tolerance: list[float] = []
    for output, finding in enumerate(bench.trained.task.names):
        found, image, truths = _boxed(bench, output, most)
        if len({truth.patient for truth in truths}) < 2:
            continue
        tolerance += [truth.tolerance_mm for truth in truths]
        shuffled = faithfulness.shuffled(bench.trained.network, "all")
        centre = [localise.score(localise.centre_prior(truth.mask.shape), truth) for truth in truths]
        scored = {
            name: _scores(maps_of(bench.trained.network, image, output, way), truths) for name, way in ways.items()
        }
        scored |= {f"{name}, shuffled weights": _scores(maps_of(shuffled, image, output, way), truths)
                   for name, way in ways.items() if name == bench.best}  # fmt: skip
        scored |= {"centre prior": centre, "even map": [localise.score(np.ones(t.mask.shape), t) for t in truths]}
        for name, scores in scored.items():
            part = {key: [score[key] for score in scores] for key in localise.SCORES}
            part["gain"] = [score["pointing"] - prior["pointing"] for score, prior in zip(scores, centre, strict=True)]
            means = localise.summary(part, [truth.patient for truth in truths], _DRAWS)
            rows.append({"finding": finding, "method": name, "images": len(found), **means})
    columns = {"finding": "Finding", "method": "Method", "images": "Images", "pointing": "Pointing game",
               "iou": "IoU at the best threshold", "energy": "Energy in the box",
               "gain": "Pointing minus centre prior"}  # fmt: skip
    note = (
        f"{bench.split.capitalize()} images with a box, at the model's input. Pointing tolerance 15/224 of the side"
        + (f" ({np.median(tolerance):.1f} mm at the median; pixels where an image has no spacing)" if tolerance else "")
        + ". Patients resampled. An even map shows what chance gives."
    )
    return Table("localisation", "Maps against annotations", columns, rows, note)


def _scores(maps: Tensor, truths: list[localise.Truth]) -> list[dict[str, float]]:
    whole = upsample(maps, truths[0].mask.shape).numpy()
    return [localise.score(saliency, truth) for saliency, truth in zip(whole, truths, strict=True)]


def _boxed(bench: Bench, output: int, most: int) -> tuple[NDArray[np.intp], Tensor, list[localise.Truth]]:
    """Return positives of an output that have a box, their network input, and the box at the model's input."""
    units = bench.test
    if not set(BOX) <= set(units.frame.columns) or len(bench.trained.preprocess.shape) != 3:
        return np.zeros(0, np.intp), torch.zeros(0), []
    found, image = bench.pictures(units, output, most)
    boxes = units.frame[list(BOX)].apply(lambda column: column.astype("Float64")).to_numpy(np.float64, na_value=np.nan)
    known = np.isfinite(boxes[found]).all(axis=1)
    truths = [_truth(units, int(n), boxes[n]) for n in found[known]]
    return found[known], image[torch.from_numpy(known).to(image.device)], truths


def _truth(units: Units, number: int, box: NDArray[np.float64]) -> localise.Truth:
    row, placement = units.frame.iloc[number], units.cache.placement(int(units.members[number][0]))
    corners = placement.to_model(np.array([[box[1], box[0]], [box[3], box[2]]]))
    mm = np.array([row.get(name, np.nan) for name in SPACING], np.float64)
    known = bool(np.isfinite(mm).all())
    step = mm * placement.extent / placement.inner if known else np.ones(2)  # no spacing: mm stands for pixels
    mask = localise.box_mask(placement.size, np.sort(corners, axis=0))
    return localise.Truth(mask, tuple(float(s) for s in step), str(row["patient"]))
