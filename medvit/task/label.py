"""Parse label values; policies for missing and uncertain labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvit.config_words import nearest
from medvit.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

UNCERTAIN = -1.0
POLICIES = ("ignore", "ones", "zeros", "smooth")
SMOOTH = (0.55, 0.85)  # Pham et al. 2021: uncertain labels trained as soft positives
GOLDEN = 0.6180339887498949
_REMEDY = (
    "Correct the label table and index again, or tell the task what the values mean: labels.values={WORD: 0, WORD: 1}, "
    "or task.classes=[WORD, WORD, WORD] of several classes."
)
_YAML_WORDS = {"yes", "no", "on", "off"}  # YAML 1.1 reads them as booleans, keys of a mapping too
Policy = str | tuple[float, float]


def canonical_text(value: Any) -> str:
    """Return one spelling for a value however a table stored it: 1, 1.0, True, " 1 " and "1.0" are all "1"."""
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value).strip()
    return str(int(number)) if np.isfinite(number) and number == int(number) else repr(number)


def label_numbers(
    frame: pd.DataFrame, names: Sequence[str], parse: Callable[[str], float | None], allowed: str
) -> NDArray[np.float64]:
    """Return the label columns as numbers [n K], NaN where the table is empty.

    `parse` gives the number of one spelling (see `plain`) or None where it is unknown.

    Raises:
        DataError: columns that are not there, or unknown values (E-LABEL); all of them in one message.
    """
    if problems := _absent(frame, names):
        raise DataError("\n".join([*problems, "Give the column's name as labels.target=[NAME], or index with it."]))
    columns = []
    for name in names:
        raw = frame[f"label.{name}"]
        empty = (raw.isna() | (raw.astype(str).str.strip() == "")).to_numpy(bool)
        spelt = np.array([canonical_text(value) for value in raw.to_numpy(object)], dtype=object)
        table = {word: parse(word) for word in sorted(set(spelt[~empty]))}
        unknown = [word for word, number in table.items() if number is None]
        if unknown:
            rows = int(np.isin(spelt[~empty], unknown).sum())
            problems.append(f"E-LABEL label {name}: {rows} rows hold {_shown(unknown)}; allowed: {allowed} or empty")
            if _YAML_WORDS & {word.casefold() for word in unknown}:
                problems.append("in a YAML file yes, no, on and off need quotes, else they are true and false")
            continue
        columns.append(np.array([np.nan if gone else table[w] for w, gone in zip(spelt, empty, strict=True)], float))
    if problems:
        raise DataError("\n".join([*problems, _REMEDY]))
    return np.stack(columns, axis=1).reshape(len(frame), len(names))


@dataclass(frozen=True)
class Choice:
    """A label column that holds one of `words` or nothing; made by `one_of`."""

    label: str
    words: tuple[str, ...]

    def place(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Return the index in `words` of each row [n], NaN where the table is empty; raises DataError as `codes`."""
        order = {word: float(k) for k, word in enumerate(self.words)}
        return label_numbers(frame, [self.label], order.get, ", ".join(self.words))[:, 0]

    def count(self, frame: pd.DataFrame) -> dict[str, int]:
        """Return the rows of each word, in their order."""
        place = self.place(frame)
        return {word: int((place == k).sum()) for k, word in enumerate(self.words)}

    def count_all(self, frame: pd.DataFrame) -> dict[str, dict[str, int]]:
        """Return the rows of each word and the missing ones, by label."""
        numbers = self.count(frame)
        return {self.label: {**numbers, "missing": len(frame) - sum(numbers.values())}}


def one_of(label: str, values: Sequence[str | int], setting: str, least: int) -> Choice:
    """Return the choice between the `values` of a setting such as classes.

    Raises:
        ConfigError: fewer than `least`, or one of them twice.
    """
    if not isinstance(values, (list, tuple)):
        raise ConfigError(f"task.{setting}={values!r}: expected the list of {setting}, such as [0, 1, 2]")
    words = tuple(canonical_text(each) for each in values)
    if len(words) < least or len(set(words)) != len(words):
        raise ConfigError(
            f"task.{setting}={list(values)}: expected at least {least} {setting}, each once; a yes-or-no question is "
            "task=binary"
        )
    return Choice(label, words)


def _absent(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    there = [str(column)[6:] for column in frame.columns if str(column).startswith("label.")]
    gone = [name for name in names if name not in there]
    return [f"label {name} is not in the manifest, which has {there}{nearest(name, there)}" for name in gone]


def _shown(values: Sequence[str]) -> str:
    """Return at most ten values, cut short: a free-text column may hold more than labels."""
    listed = ", ".join(repr(value[:24]) for value in values[:10])
    return listed + (f" and {len(values) - 10} more" if len(values) > 10 else "")


def policies(setting: Any, names: Sequence[str], what: str) -> tuple[Policy, ...]:
    """Return the policy of each label from one word for all, or a mapping label -> word with a `default`.

    A word is ignore (weight 0), ones, zeros or smooth (a soft target drawn per sample and epoch from 0.55-0.85); a pair
    [low, high] in [0, 1] is a smooth range of one's own.

    Raises:
        ConfigError: an unknown word or label, all in one message.
    """
    table = dict(setting) if isinstance(setting, dict) else {"default": setting}
    problems = [f"{what}.{key}: no such label{nearest(key, names)}" for key in table if key not in (*names, "default")]
    chosen: list[Policy] = []
    for name in names:
        value = table.get(name, table.get("default", "ignore"))
        pair = tuple(value) if isinstance(value, (list, tuple)) else SMOOTH if value == "smooth" else None
        if pair is not None and not (len(pair) == 2 and 0 <= pair[0] <= pair[1] <= 1):
            problems.append(f"{what}.{name}={value!r}: a range needs 0 <= low <= high <= 1")
        elif pair is None and value not in POLICIES:
            problems.append(
                f"{what}.{name}={value!r}: expected {', '.join(POLICIES)} or [low, high]{nearest(value, POLICIES)}"
            )
        chosen.append(value if pair is None else (float(pair[0]), float(pair[-1])))
    if problems:
        raise ConfigError("; ".join(problems))
    return tuple(chosen)


def resolve_policy(
    values: NDArray[np.float64], where: NDArray[np.bool_], policy: Policy, start: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return target and weight of one label after applying `policy` to the rows `where`.

    All are [n]. A smooth row becomes -1 - u: the loss turns the sample's own u in [0, 1), its `start`, into its draw of
    the epoch (see `draw`). Raises DataError for a smooth policy without `start`.
    """
    target, weight = values.copy(), np.ones_like(values)
    if isinstance(policy, tuple):
        if start is None:
            raise DataError("a smooth label policy draws per sample and needs the manifest's uid column")
        target[where] = -1.0 - start[where]
    elif policy == "ignore":
        target[where], weight[where] = 0.0, 0.0
    else:
        target[where] = 1.0 if policy == "ones" else 0.0
    return target, weight


def soft_label_draws(frame: pd.DataFrame, label: str, seed: int) -> NDArray[np.float64] | None:
    """Return a number in [0, 1) per row that follows from its uid, the label and the seed; None without uids.

    Of 20 bits, so that 2 + u is exact in fp32.
    """
    if "uid" not in frame:
        return None
    heads = (hashlib.sha256(f"{seed}/{label}/{uid}".encode()).digest()[:3] for uid in frame["uid"])
    return np.array([(int.from_bytes(head, "big") >> 4) / 2**20 for head in heads])
