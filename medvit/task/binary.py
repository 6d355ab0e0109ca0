"""Binary classification: one yes-or-no label."""

from __future__ import annotations

from typing import Any, ClassVar

from medvit.errors import ConfigError
from medvit.task.label import UNCERTAIN, canonical_text
from medvit.task.multilabel import Multilabel


class Binary(Multilabel):
    """One label with 0, 1, -1 (uncertain) or nothing (missing); otherwise as `Multilabel`.

    `values` names the spellings of other tables, such as {NORMAL: 0, PNEUMONIA: 1}, in place of 0, 1 and -1.
    Raises ConfigError for spellings without a 0 and a 1, or two of one value, and as `Multilabel`.
    """

    kind: ClassVar[str] = "binary"

    def __init__(
        self,
        label: str,
        values: dict[str, int] | None = None,
        loss: Any = "bce",
        options: dict[str, Any] | None = None,
        uncertain: Any = "ignore",
        missing: Any = "ignore",
        seed: int = 0,
    ) -> None:
        super().__init__([label], loss, options, uncertain, missing, seed)
        del self.settings["labels"]
        self.settings = {"label": label, "values": values, **self.settings}
        if values is not None:
            if not {0, 1} <= set(values.values()) <= {0, 1, int(UNCERTAIN)}:
                raise ConfigError(f"labels.values={values}: expected a spelling for 0, for 1 and, if any, for -1")
            if len({canonical_text(word) for word in values}) < len(values):
                raise ConfigError(f"labels.values={values}: two spellings are the same value of a table; name it once")
            self.words = {str(word): float(number) for word, number in values.items()}
