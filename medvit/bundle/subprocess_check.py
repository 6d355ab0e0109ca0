"""Run a bundle in a process that cannot import MLflow, nor torch and MONAI unless it has steps of MONAI.

Started by the parity gate.

`python -m medvit.bundle.subprocess_check BUNDLE SOURCES.json RESULTS.json`: a JSON list of sources (a path, a list of
paths, or `{files, volume_key}`), results as a JSON list of `{status, reason, logit, uncalibrated, probability,
decision}`. No acceptance check.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from medvit.errors import MedvitError

OF_STEPS = ("torch", "monai")
BLOCKED = (*OF_STEPS, "mlflow", "pytorch_lightning", "lightning", "torchmetrics", "pandas")
_SHOWN = ("status", "reason", "logit", "uncalibrated", "probability", "decision")


def main(bundle: str, sources: str, results: str) -> int:
    """Predict the sources and write the results; return the exit code."""
    part = json.loads((Path(bundle) / "medvit" / "preprocess.json").read_text(encoding="utf-8"))
    for name in BLOCKED if not part.get("steps") else (each for each in BLOCKED if each not in OF_STEPS):
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it raises ImportError
    from medvit.bundle.runtime import Runtime, Source
    from medvit.preprocess import VolumeFiles

    listed = json.loads(Path(sources).read_text(encoding="utf-8"))

    def source(item: Any) -> Source:
        if isinstance(item, dict):
            return VolumeFiles([Path(file) for file in item["files"]], item["volume_key"])
        return [Path(file) for file in item] if isinstance(item, list) else Path(item)

    try:
        found = Runtime(Path(bundle)).predict([source(item) for item in listed], accept=False)
    except MedvitError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    rows = [{name: getattr(result, name) for name in _SHOWN} for result in found]
    Path(results).write_text(json.dumps(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
