"""Probability tables: calibration before and after scaling, decision curves, histograms, conformal sets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvit.metric.bootstrap import Interval
from medvit.metric.calibration import brier, ece, recalibration, reliability, sigmoid
from medvit.metric.conformal import conformal_sets
from medvit.metric.decision_curve import net_benefit, treat_all
from medvit.metric.ranking import ratio
from medvit.prediction.predictions import Finding, Sample, findings_of
from medvit.prediction.thresholds import FrozenThresholds
from medvit.report.table import Row, Table, estimate, missing, patients, proportion

Array = NDArray[np.float64]
CURVE_BINS = 10
HISTOGRAM_BINS = 20
_MEASURES = ("intercept", "slope", "brier", "scaled_brier", "ece_width", "ece_mass")


def calibration(sample: Sample, frozen: FrozenThresholds) -> Table:
    """Return intercept, slope, Brier, scaled Brier and ECE per finding, before and after scaling, with intervals."""
    bins, rows = sample.spec.detail.bins, []
    for found in findings_of(sample, frozen.calibration):
        scale = frozen.calibration[found.name]
        platt = f"slope {scale.slope:.3f}, intercept {scale.intercept:+.3f}"
        fitted = {"temperature": f"T = {scale.temperature:.3f}", "platt": platt, "none": "none"}[scale.kind]
        for state, margin in (("before", found.raw), ("after", found.margin)):
            row: Row = {"finding": found.name, "state": state, "scaling": "" if state == "before" else fitted}
            if state == "after" and scale.note:
                row["scaling"] = scale.note
            values = _measured(sample, found, margin, bins) if found.both else [missing(found.absent)] * len(_MEASURES)
            rows.append(row | dict(zip(_MEASURES, values, strict=True)))
    heads = (
        "Intercept (0)",
        "Slope (1)",
        "Brier",
        "Scaled Brier",
        f"ECE, {bins} equal width",
        f"ECE, {bins} equal mass",
    )
    columns = {"finding": "Finding", "state": "Scaling", "scaling": "Fitted on validation",
               **dict(zip(_MEASURES, heads, strict=True))}  # fmt: skip
    note = (
        "Of the finding's own probability (not of the top label). Intercept: calibration-in-the-large, the logit shift "
        "that would make the mean right; above 0 the model says too little. Slope: below 1 the probabilities are too "
        "extreme. Brier: mean squared difference, lower is better; scaled Brier: 1 minus its share of what the "
        "prevalence alone would give. ECE: mean absolute difference of observed share and mean probability per bin, "
        "biased upwards in small samples, and so is its interval."
    )
    return Table("calibration", "Calibration", columns, rows, note)


def reliability_curve(sample: Sample, frozen: FrozenThresholds) -> Table:
    """Return predicted and observed shares in bins of equal mass, before and after scaling, with bands."""
    rows: list[Row] = []
    for found in findings_of(sample, frozen.calibration):
        for state, margin in (("before", found.raw), ("after", found.margin)) if found.both else ():
            p = sigmoid(margin)
            predicted, _, mass = (side[0] for side in reliability(found.target, p, bins=CURVE_BINS))

            def observed(weight: Array, y: Array = found.target, p: Array = p) -> Array:
                return reliability(y, p, weight, bins=CURVE_BINS)[1]

            bands = estimate(sample, observed, found.rows)
            rows += [{"finding": found.name, "state": state, "bin": b + 1, "units": int(mass[b]),
                      "predicted": predicted[b], "observed": bands[b]}
                     for b in range(CURVE_BINS) if mass[b] > 0]  # fmt: skip
    columns = {"finding": "Finding", "state": "Scaling", "bin": "Bin", "units": "n", "predicted": "Mean probability",
               "observed": "Observed share"}  # fmt: skip
    return Table("reliability", "Reliability curve", columns, rows, f"{CURVE_BINS} bins of equal mass.")


def decision_curve(sample: Sample, frozen: FrozenThresholds) -> Table:
    """Return the net benefit of the model and of acting on everyone, over the range of thresholds of the settings."""
    low, high, count = sample.spec.detail.decision
    cuts = np.linspace(low, high, count)
    rows: list[Row] = []
    for found in findings_of(sample, frozen.calibration):
        if not found.both:
            continue

        def benefit(weight: Array, found: Finding = found) -> Array:
            model = net_benefit(found.target, found.probability, cuts, weight)
            everyone = treat_all(found.target, cuts, weight)
            return np.concatenate([model, model - np.maximum(everyone, 0.0)], axis=1)

        values = estimate(sample, benefit, found.rows)
        everyone = treat_all(found.target, cuts)[0]
        rows += [{"finding": found.name, "threshold": float(cut), "model": values[k], "all": float(everyone[k]),
                  "gain": values[count + k]} for k, cut in enumerate(cuts)]  # fmt: skip
    columns = {"finding": "Finding", "threshold": "Risk threshold", "model": "Net benefit of the model",
               "all": "Of acting on everyone", "gain": "Gain over the better of everyone and no one"}  # fmt: skip
    note = "Net benefit in true positives per person, false positives weighted by the odds of the threshold; no one: 0."
    return Table("decision", "Decision curve", columns, rows, note)


def histograms(sample: Sample, frozen: FrozenThresholds) -> Table:
    """Return how many units have a probability in each of twenty bins, by outcome."""
    rows: list[Row] = []
    edges = np.linspace(0.0, 1.0, HISTOGRAM_BINS + 1)
    for found in findings_of(sample, frozen.calibration):
        sides = [np.histogram(found.probability[found.target == y], edges)[0] for y in (1, 0)]
        rows += [{"finding": found.name, "from": float(edges[b]), "to": float(edges[b + 1]),
                  "positives": int(sides[0][b]), "negatives": int(sides[1][b])}
                 for b in range(HISTOGRAM_BINS)]  # fmt: skip
    columns = {"finding": "Finding", "from": "From", "to": "To", "positives": "Positives", "negatives": "Negatives"}
    return Table("histogram", "Probabilities by outcome", columns, rows, "Calibrated probabilities.")


def conformal(sample: Sample, frozen: FrozenThresholds) -> Table:
    """Return the coverage of positives and negatives by the frozen conformal bounds, and the uncertain share."""
    alpha, rows = sample.spec.detail.alpha, []
    for found in findings_of(sample, frozen.calibration):
        bounds = frozen.conformal.get(found.name)
        if bounds is None or not found.both:
            why = found.absent if bounds is not None else "n/a (validation lacks one outcome)"
            rows.append({"finding": found.name, **dict.fromkeys(("positives", "negatives", "uncertain"), missing(why))})
            continue
        absent, present = conformal_sets(bounds, found.probability).T.astype(float)
        y = found.target

        def shares(weight: Array, y: Array = y, absent: Array = absent, present: Array = present) -> Array:
            total = weight.sum(axis=1)
            covered = [ratio(weight @ (y * present), weight @ y), ratio(weight @ ((1 - y) * absent), weight @ (1 - y))]
            return np.stack([*covered, ratio(weight @ (absent * present), total),
                             ratio(weight @ ((1 - absent) * (1 - present)), total)], axis=1)  # fmt: skip

        names = ("positives", "negatives", "uncertain", "empty")
        behind = (found.rows[y == 1], found.rows[y == 0], found.rows, found.rows)
        found_shares, level = estimate(sample, shares, found.rows), sample.spec.bootstrap.level
        values = {
            name: proportion(value, patients(sample, units), level)
            for name, value, units in zip(names, found_shares, behind, strict=True)
        }
        rows.append({"finding": found.name, "fitted": f"{bounds.positives} / {bounds.negatives}", **values})
    columns = {"finding": "Finding", "positives": "Positives covered", "negatives": "Negatives covered",
               "uncertain": "Both possible", "empty": "Neither", "fitted": "Fitted on pos. / neg."}  # fmt: skip
    note = f"Class-conditional split conformal sets, aimed at {1 - alpha:.0%} of positives and of negatives, each."
    return Table("conformal", "Conformal sets", columns, rows, note)


def _measured(sample: Sample, found: Finding, margin: Array, bins: int) -> list[Interval]:
    p = sigmoid(margin)

    def measures(weight: Array) -> Array:
        errors = [ece(found.target, p, weight, bins=bins, kind=kind) for kind in ("width", "mass")]
        scores = [recalibration(found.target, margin, weight), brier(found.target, p, weight)]
        return np.concatenate([*scores, np.stack(errors, axis=1)], axis=1)

    return [
        value if np.isfinite(value.value) else missing("n/a (separated or constant)")
        for value in estimate(sample, measures, found.rows)
    ]
