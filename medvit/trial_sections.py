"""Parts of the report that need the network: robustness, images unlike training, maps and how far to believe them.

They are made after the thresholds are frozen and the test side is open. What is measured on validation (which method
explains, where the limits of the distances lie) is not touched by the test side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvit.data import foreign, perturb
from medvit.engine.predict import table
from medvit.metric import ood
from medvit.metric.bootstrap import interval, intervals, patient_draws
from medvit.metric.ranking import Ranking
from medvit.report.evaluation import Section
from medvit.report.frozen import Frozen
from medvit.report.predictions import Sample, findings_of, prepare
from medvit.report.table import Row, Table
from medvit.trial_bench import Bench
from medvit.trial_maps import explained

_FOREIGN, _DRAWS = 100, 1000


def sections(bench: Bench, asked: Mapping[str, Any], sample: Sample, frozen: Frozen) -> tuple[Section, ...]:
    """Return the sections that `asked` (conf/evaluate.yaml: sections) turns on."""
    bench.trained.network.to(bench.device).eval()
    made: list[Section] = []
    if asked["robustness"]:
        made.append(robustness(bench, sample, frozen))
    if asked["ood"]:
        made.append(unlike(bench))
    if asked["explain"]:
        made += explained(bench, list(asked["methods"]), int(asked["images"]))
    return tuple(made)


def robustness(bench: Bench, sample: Sample, frozen: Frozen) -> Section:
    """Measure how the AUROC changes under fixed disturbances of the test images, paired over the same patients."""
    rows: list[Row] = []
    whole = {f.name: (f, Ranking(f.target, f.margin)) for f in findings_of(sample, frozen.calibration) if f.both}
    drawn = {name: sample.draws.apply(ranking.auroc, f.rows)[:, 0] for name, (f, ranking) in whole.items()}
    boot = sample.spec.bootstrap
    for way in perturb.every() if whole else ():
        found = bench.pass_over(bench.trained.network, bench.test, way)
        moved = prepare(table(found, bench.trained.task, bench.test.frame, bench.split), sample.spec, bench.split)
        for name, (before, ranking) in whole.items():
            after = Ranking(before.target, moved.finding(name, frozen.calibration).margin)
            change = sample.draws.apply(after.auroc, before.rows)[:, 0] - drawn[name]
            value = float(after.auroc()[0] - ranking.auroc()[0])
            severity, moved_by = (
                f"{way.severity:g} {perturb.UNITS[way.kind]}",
                interval(value, change, level=boot.level),
            )
            rows.append({"finding": name, "kind": way.kind, "severity": severity, "auroc": float(after.auroc()[0]),
                         "change": moved_by})  # fmt: skip
    columns = {"finding": "Finding", "kind": "Disturbance", "severity": "Severity", "auroc": "AUROC",
               "change": "Change of AUROC"}  # fmt: skip
    note = "Fixed severities on the model's input; percentile intervals of the paired change, patients resampled."
    return Section("Robustness", (Table("robustness", "Disturbed test images", columns, rows, note),))


class _Embedder(nn.Module):
    """A network that answers with its pooled vector."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, bag: Any = None) -> Tensor:
        vector: Tensor = self.network.embed(image, bag)
        return vector


def unlike(bench: Bench) -> Section:
    """Score images that are no such images at all by their distance from training, with limits from validation."""
    inside = _Embedder(bench.trained.network)
    train, val, test = (bench.pass_over(inside, side).logits for side in (bench.train, bench.validation, bench.test))
    envelope = ood.fit(train, val, k=min(50, max(1, len(train) // 10)))
    proper = envelope.scores(test)
    patient = [str(p) for p in bench.test.frame.sort_values("uid")["patient"]]
    rows: list[Row] = [
        {
            "set": f"{bench.split} images",
            "method": method,
            "outside": float((proper[method] > envelope.limits[method]).mean()),
        }
        for method in ood.METHODS
    ]
    for name, embedded in _foreign(bench).items():
        scores = envelope.scores(embedded)
        theirs = patient if name == "inverted" else [f"foreign {n}" for n in range(len(embedded))]
        drawn = patient_draws([*patient, *theirs], _DRAWS, 0)
        label = np.r_[np.zeros(len(test)), np.ones(len(embedded))]
        for method in ood.METHODS:
            ranking = Ranking(label, np.r_[proper[method], scores[method]])
            area = intervals(ranking.auroc, drawn)[0]
            accepted = ood.fpr_at_95(proper[method], scores[method])
            beyond = float((scores[method] > envelope.limits[method]).mean())
            rows.append({"set": name, "method": method, "auroc": area, "fpr95": accepted, "outside": beyond})
    columns = {"set": "Images", "method": "Distance", "auroc": "AUROC against test images",
               "fpr95": "Accepted where 95 % of test images are", "outside": "Beyond the limit"}  # fmt: skip
    note = (
        f"Distances of the pooled vector from {len(train)} training images: cosine to the {envelope.k}th nearest, and "
        "Mahalanobis; 1 % of validation images lie beyond. All sets but the inverted test images are generated."
    )
    return Section("Images unlike training", (Table("ood", "Out of distribution", columns, rows, note),))


def _foreign(bench: Bench) -> dict[str, NDArray[np.float64]]:
    """Return the vectors of every foreign set that fits the network: of volumes, inverted images and noise only."""
    step, flip = bench.trained.preprocess, perturb.Perturbation("polarity", 1)
    found = {"inverted": bench.pass_over(_Embedder(bench.trained.network), bench.test, flip).logits}
    depth = 1 if step.dtype == "uint8" else 257
    film = len(step.shape) == 3
    for name in foreign.SETS if film else ("noise",):
        if film:
            made = foreign.foreign(name, _FOREIGN, tuple(step.shape[-2:]))
            images = np.repeat(made[:, None], step.shape[0], axis=1).astype(step.dtype) * np.dtype(step.dtype).type(
                depth
            )
        else:
            top = np.iinfo(step.dtype).max
            images = np.random.default_rng(0).integers(0, top, (_FOREIGN // 5, *step.shape), step.dtype, endpoint=True)
        with torch.inference_mode():
            parts = [bench.trained.network.embed(part) for part in torch.split(bench.input(images), 16)]
        found[name] = torch.cat(parts).double().cpu().numpy()
    return found
