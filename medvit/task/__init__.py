"""Tasks: labels to targets, logits to loss (`loss.py` has all losses by name), and scores of a split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvit.task.base import Task


def from_json(value: dict[str, Any]) -> Task:
    """Return the task that `Task.to_json` wrote.

    Raises:
        ConfigError: an unknown kind, or settings the task refuses.
    """
    from medvit.config_words import nearest
    from medvit.errors import ConfigError
    from medvit.task.binary import Binary
    from medvit.task.multiclass import Multiclass
    from medvit.task.multilabel import Multilabel
    from medvit.task.ordinal import Ordinal
    from medvit.task.regression import Regression

    kinds: dict[str, type[Any]] = {each.kind: each for each in (Binary, Multiclass, Multilabel, Ordinal, Regression)}
    kind = str(value.get("kind"))
    if kind not in kinds:
        raise ConfigError(f"task kind {kind!r} is unknown; expected one of {', '.join(kinds)}{nearest(kind, kinds)}")
    task: Task = kinds[kind](**value["settings"])
    task.fitted = dict(value["fitted"])
    return task
