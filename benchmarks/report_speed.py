"""How long does a report from predictions take, and how does that grow?

    python benchmarks/report_speed.py [N ...]

One finding, two images per patient, every section that needs no image, figures and files written. Prints seconds for N
test images (default 250, 500, 1000, 2000) and 500, 2,000 and 8,000 draws, the best of two.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from medvit.evaluation.protocol import evaluate_predictions
from medvit.metric.calibration import sigmoid
from medvit.prediction.spec import EvaluationSpec, Resampling

DRAWS = (500, 2000, 8000)


def predictions(split: str, count: int) -> pd.DataFrame:
    """Return predictions of `count` images with the facts that make the usual subgroups."""
    random = np.random.default_rng([count, *map(ord, split)])
    code = np.arange(count) // 2
    y = (random.random(count // 2 + 1) < 0.3)[code].astype(float)
    z = 2.5 * (y - 0.5) + random.normal(size=count)
    words = {"sex": ["F", "M"], "manufacturer": ["A", "B", "C"], "view": ["PA", "AP"]}
    facts = {name: random.choice(values, count) for name, values in words.items()}
    return pd.DataFrame({
        "uid": [f"{split}{k}" for k in range(count)], "patient": [f"{split}{c}" for c in code],
        "study": [f"{split}{c}" for c in code], "split": split, "logit.finding": z, "prob.finding": sigmoid(z),
        "target.finding": y, "age_years": random.uniform(1, 95, count), **facts,
    })  # fmt: skip


def seconds(count: int, draws: int) -> float:
    """Return the time of one report."""
    spec = EvaluationSpec("binary", ("finding",), bootstrap=Resampling(draws=draws))
    tables = predictions("val", max(250, count // 2)), predictions("test", count)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        evaluate_predictions(*tables, spec, Path(folder))
        return time.perf_counter() - began


def main(*counts: str) -> None:
    """Print the table."""
    seconds(250, 500)  # imports
    sys.stdout.write("| images | " + " | ".join(f"{draws:,} draws" for draws in DRAWS) + " |\n|---|---|---|---|\n")
    for count in map(int, counts or ("250", "500", "1000", "2000")):
        times = [min(seconds(count, draws) for _ in range(2)) for draws in DRAWS]
        sys.stdout.write(f"| {count:,} | " + " | ".join(f"{value:.1f} s" for value in times) + " |\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
