"""One exception family: what was asked, what was found, what was expected, what to do.

Messages never hold a patient's name, identifier, date, or a path that could hold one.
"""

from __future__ import annotations


class MedvitError(ValueError):
    """Base of every mistake a user can make; `exit_code` is what a command returns for it."""

    exit_code = 1


class ConfigError(MedvitError):
    """A setting that is misspelt, missing, of the wrong type or contradictory."""

    exit_code = 2


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end: its `number` and a sentence on how to go on; the exit code is 128 + number."""

    def __init__(self, number: int, then: str = "") -> None:
        self.number = number
        super().__init__(then)


class DataError(MedvitError):
    """A manifest, label table, split or folder that cannot be used as it is."""

    exit_code = 3


class DicomRefusal(DataError):
    """One DICOM object or series that medvit refuses to read, with the reason in machine-readable parts.

    `code` is from the table of refusals (`E-BITS`, `E-GAP`, ...); `tag` is "(gggg,eeee)" or "";
    `found`, `allowed` and `fix` are short texts without identifiers.
    """

    def __init__(self, code: str, found: str, *, allowed: str = "", tag: str = "", fix: str = "") -> None:
        self.code, self.found, self.allowed, self.tag, self.fix = code, found, allowed, tag, fix
        parts = [f"{code} {found}"]
        parts += [f"allowed={allowed}"] if allowed else []
        parts += [f"tag={tag}"] if tag else []
        parts += [f'fix="{fix}"'] if fix else []
        super().__init__(" ".join(parts))

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the parts when the error crosses a process border."""
        return _refusal, (self.code, self.found, self.allowed, self.tag, self.fix)


def _refusal(code: str, found: str, allowed: str, tag: str, fix: str) -> DicomRefusal:
    return DicomRefusal(code, found, allowed=allowed, tag=tag, fix=fix)


class SplitError(DataError):
    """A split that is impossible, leaks, or no longer matches its manifest."""


class CacheError(DataError):
    """A cache that cannot be built or no longer equals its files."""


class WeightsError(MedvitError):
    """A checkpoint that is unknown, incomplete, unsafe or does not fit."""

    exit_code = 4


class RunError(MedvitError):
    """A run that is missing, unfinished, or does not hold what is asked of it."""

    exit_code = 5


class Diverged(RunError):
    """A training whose loss, gradient or weights are not finite: of these settings, not of the data or the disk."""


class OutOfMemory(RunError):
    """A step that does not fit into the memory of its device."""


class EvaluationError(MedvitError):
    """Predictions, thresholds or groups that cannot give an honest number."""

    exit_code = 6


class BundleError(MedvitError):
    """An exported bundle that is incomplete, altered or does not reproduce its model."""

    exit_code = 20
