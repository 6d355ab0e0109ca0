"""Predictions tables as evaluate writes them: patients with several alike films, two vendors, known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medvit.metric.calibration import sigmoid
from medvit.prediction.spec import Detail, EvaluationSpec, Resampling


def make_table(split="test", n=200, names=("pneumonia",), seed=0):
    random = np.random.default_rng([seed, *map(ord, split)])
    code = random.integers(0, n // 2, n)
    columns = {
        "uid": [f"{split}{k:029d}" for k in range(n)],
        "patient": [f"{split}-p{c}" for c in code],
        "study": [f"{split}-s{c}" for c in code],
        "split": split,
    }
    for name in names:
        y = (random.random(n // 2) < 0.5)[code].astype(float)
        z = 4.0 * (y - 0.5) + 0.8 * random.normal(size=n // 2)[code] + random.normal(size=n)
        columns |= {f"logit.{name}": z, f"prob.{name}": sigmoid(z), f"target.{name}": y}
    facts = {
        "sex": random.choice(["F", "M"], n),
        "age_years": random.integers(1, 95, n).astype(float),
        "manufacturer": random.choice(["ACME", "Borealis"], n),
        "view": random.choice(["PA", "AP", ""], n, p=[0.7, 0.25, 0.05]),
    }
    return pd.DataFrame({**columns, **facts})


def make_spec(names=("pneumonia",), kind="", **more):
    kind = kind or ("binary" if len(names) == 1 else "multilabel")
    return EvaluationSpec(kind, names, **{"bootstrap": Resampling(draws=200), "detail": Detail(figures=False), **more})
