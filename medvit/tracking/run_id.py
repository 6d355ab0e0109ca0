"""Which run is meant by `run=`: a whole id, the first characters of one, or `latest`."""

from __future__ import annotations

import difflib
import re
from typing import Any

from medvit.errors import RunError

LATEST = "latest"
_SHORT = re.compile(r"[0-9a-f]{6,31}")


def resolve(client: Any, asked: str, finished: bool) -> str:
    """Return the id of the run that is meant; what is no short id of one run is returned as it is.

    "latest" is the run that was started last, or of those that finished the one that ended last: folds and trials end
    before the run they stand below.

    Raises:
        RunError: several runs begin with these characters.
    """
    experiments = [item.experiment_id for item in client.search_experiments()]
    newest = ["attributes.start_time DESC"]
    if asked == LATEST:
        wanted = "attributes.status = 'FINISHED'" if finished else ""
        order = ["attributes.end_time DESC"] if finished else newest
        runs = client.search_runs(experiments, wanted, max_results=1, order_by=order)
        return runs[0].info.run_id if runs else asked
    if not _SHORT.fullmatch(asked):
        return asked
    runs = client.search_runs(experiments, f"attributes.run_id LIKE '{asked}%'", max_results=3, order_by=newest)
    if len(runs) > 1:
        several = " and ".join(f"{run.info.run_id} ({run.info.run_name})" for run in runs[:2])
        raise RunError(f"run={asked} is the beginning of {several}{' and others' if len(runs) > 2 else ''}: give more")
    return runs[0].info.run_id if runs else asked


def unknown(client: Any, asked: str) -> str:
    """Return what to say of an id that no run has: which are near."""
    experiments = [item.experiment_id for item in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000, order_by=["attributes.start_time DESC"])
    ids = [item.info.run_id for item in runs]
    if not ids:
        return f"There is no run {asked!r}: the runs folder holds no run yet."
    if asked == LATEST:
        return f"None of the {len(ids)} runs of the folder is FINISHED. The latest is {ids[0]} ({runs[0].info.status})."
    near = [item for item in ids if item.startswith(asked)] or difflib.get_close_matches(asked, ids, n=3, cutoff=0.6)
    shown = f"Nearest: {', '.join(near[:3])}" if near else f"The latest is {ids[0]}"
    return f"There is no run {asked!r} among the {len(ids)} runs of the folder. {shown}."
