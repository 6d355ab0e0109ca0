"""The cases and what a reader's answer to one is worth.

right: the true picture or volume, or a refusal where one is due. refused a good file. silently wrong: other pixels or
another place, and no word. accepted silently: the pixels are right, the contradiction in the object went unnoticed.
warned: wrong, or accepted, with a warning. crashed or hung: the process died, or gave no answer in time. A picture is
right if a rising straight line maps the truth to it, so that no reader has to share medvit's scale; a volume is right
if its voxels show the world where its own affine puts them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "dicom_cases"))
import cases
import kit
import series_cases
from series_phantom import world

from benchmarks.silent_errors.adapters import Array, Block, Picture

RIGHT, GOOD_REFUSED, WRONG = "right", "refused a good file", "silently wrong"
ACCEPTED, WARNED, CRASHED, NONE = "accepted silently", "warned", "crashed or hung", "-"
VERDICTS = (RIGHT, WRONG, ACCEPTED, WARNED, GOOD_REFUSED, CRASHED)
POLICY = frozenset(("B039", *(f"B{n:03d}" for n in range(42, 50)), "B103"))  # what a task expects: no reader's duty
EITHER = (
    frozenset(  # float, colour, no preamble, a syntax that is not the declared one, deep: reading rightly is as good
        ("B014", "B015", "B016", "B017", "B024", "B025", "B062")
    )
)
COURTESY = frozenset({"B027", "B041"})  # a warning is kind, and nothing is lost without it
COLOUR = frozenset({"B015", "B016", "B017"})  # of 8 bits
CONSTANT = frozenset({"B047", "B048", "B063"})
UNEQUAL = frozenset({"B052", "B053"})  # rows lie twice as far apart as columns
DETECTOR_SPACING = 0.15  # mm, of B051


@dataclass(frozen=True)
class Item:
    """One case of either table, as the scorer needs it."""

    id: str
    what: str
    case: cases.Case | series_cases.Case

    @property
    def is_film(self) -> bool:
        """Whether the case is one object; else a series."""
        return isinstance(self.case, cases.Case)

    @property
    def needs_policy(self) -> bool:
        """Whether the case asks for a setting of medvit, so that other readers cannot be asked."""
        return bool(getattr(self.case, "policy", None))

    def write(self, folder: Path) -> Path:
        """Write the case's files; return what a reader is given: the file of a film, the folder of a series."""
        if self.is_film:
            (folder / "film.dcm").write_bytes(self.case.build())
            return folder / "film.dcm"
        for number, data in enumerate(self.case.build()):
            (folder / _name(number, data)).write_bytes(data)
        return folder


def _name(number: int, data: bytes) -> str:
    """Name a file as it is met in the wild."""
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        return "Thumbs.db"
    if data.startswith(b"\x00\x05\x16\x07"):
        return f"._{number:03d}.dcm"
    return "DICOMDIR" if b"1.2.840.10008.1.3.10" in data[:400] else f"{number:03d}.dcm"


def items() -> dict[str, Item]:
    """Return every reader-level case by id, in the order of the table."""
    films = {case.id: Item(case.id, case.what, case) for case in cases.CASES}
    return films | {name: Item(name, case.title, case) for name, case in series_cases.CASES.items()}


def verdict(item: Item, answer: Picture | list[Block] | None) -> str:
    """Judge an answer; None is a refusal."""
    action, number = item.case.action, item.id[:4]
    due = action in (cases.REFUSE, cases.QUARANTINE) or (item.is_film and action == cases.SKIP)
    if answer is None:
        return RIGHT if due or number in EITHER else GOOD_REFUSED
    shown = _shows_truth(item, answer)
    warned = answer.warned if isinstance(answer, Picture) else any(one.warned for one in answer)
    complete = item.is_film or len(answer) == item.case.volumes
    if shown and complete and (warned or _says_enough(item, answer)) and (not due or number in EITHER):
        return RIGHT
    if warned:
        return WARNED
    return ACCEPTED if shown else WRONG


def _shows_truth(item: Item, answer: Picture | list[Block]) -> bool:
    if isinstance(answer, Picture):
        return _shows_film(item.case, answer)
    scales = item.case.scales
    return bool(answer) and all(any(_world_error(one, scale) < 1.1 for scale in scales) for one in answer)


def _says_enough(item: Item, answer: Picture | list[Block]) -> bool:
    """Whether a right answer without a warning needs none: what the case is about came with it, or is no danger."""
    number, spacing = item.id[:4], answer.spacing if isinstance(answer, Picture) else None
    if number in UNEQUAL:
        return spacing is not None or item.case.truth().shape == answer.values.shape
    if number == "B051" and spacing is not None:
        return bool(np.allclose(spacing, DETECTOR_SPACING))
    return item.case.action != cases.WARN or number in COURTESY


def _shows_film(case: cases.Case, picture: Picture) -> bool:
    number, values = case.id[:4], picture.values
    truth, within = (case.truth or (lambda: kit.SHOWN))(), 0.005 if number in COLOUR else max(case.within, 1e-3)
    if number in CONSTANT:
        return bool(values.min() == values.max())
    if number == "B039":
        return _matches(values, truth, within) or (
            values.ndim == 3 and all(_matches(one, truth, within) for one in values)
        )
    if _matches(values, truth, within):
        return True
    if number not in UNEQUAL:
        return False
    row, column = picture.spacing or (2, 1)  # pixels as stored are right unless a wrong spacing comes with them
    return _matches(values, kit.SHOWN[::2], within) and abs(row / column - 2) < 0.01


def _matches(values: Array, truth: Array, within: float) -> bool:
    """Whether values are a * truth + b with a > 0; colour counts if all channels do."""
    if values.ndim == truth.ndim + 1 and values.shape[-1] in (3, 4):
        return all(_matches(values[..., channel], truth, within) for channel in range(3))
    if values.shape != truth.shape:
        return False
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        return False
    slope, offset = np.polyfit(truth.ravel(), values.ravel(), 1)
    return bool(slope > 1e-9 and np.abs(values - slope * truth - offset).max() <= within * slope)


def _world_error(block: Block, scale: float) -> float:
    """Return the largest distance, in stored units, to the world phantom at the places the affine says."""
    index = np.moveaxis(np.indices(block.values.shape), 0, -1)
    points = index @ block.affine[:3, :3].T + block.affine[:3, 3]
    return float(np.abs(block.values - scale * world(points)).max())
