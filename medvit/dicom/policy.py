"""How films are read (plain fields: a YAML node and a part of a bundle), and which objects are accepted."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medvit.dicom.limits import Limits
from medvit.errors import ConfigError, DicomRefusal
from medvit.types import Facts


@dataclass(frozen=True)
class Accept:
    """Which objects a task takes; an empty tuple accepts all.

    `modalities` ("CR", "DX"), `views` ("PA", "AP", "LL") and `body_parts` ("CHEST") are compared after the synonyms of
    `facts`; `missing` says whether an object that does not state one of them is taken ("accept" or "refuse").
    `min_side` is in pixels. `burned_in`: "quarantine" (Q-PHI) or "accept" objects that declare burned-in annotation.
    `exposure`: which of several films of one exposure the index takes: that for "presentation", that for "processing",
    or "all" (copies made from another, secondary captures and localizers too).
    `aspect`: non-square pixels are resampled to "square", or "refuse", or "keep". `limits` cap what an object may cost.
    """

    modalities: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    missing: str = "accept"
    min_side: int = 32
    burned_in: str = "quarantine"
    exposure: str = "presentation"
    aspect: str = "square"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        _one_of("accept.missing", self.missing, ("accept", "refuse"))
        _one_of("accept.burned_in", self.burned_in, ("quarantine", "accept"))
        _one_of("accept.exposure", self.exposure, ("presentation", "processing", "all"))
        _one_of("accept.aspect", self.aspect, ("square", "refuse", "keep"))

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Accept:
        """Build from plain values, as YAML and JSON hold them; raises ConfigError, and TypeError for unknown names."""
        return cls(**{**_tuples(plain), "limits": Limits(**(plain.get("limits") or {}))})


@dataclass(frozen=True)
class FilmPolicy:
    r"""How a film is read.

    `voi`: "auto" takes the window `window_index` of the file, else its VOI LUT, else the whole range: a film then looks
    as its maker meant it to (PS3.3 C.11.2), and files without a window keep their exact values; "window" and "lut"
    refuse a file that has none; "percentile" stretches `percentiles` (percent) of the pixels; "none" takes the range.
    The range is the declared one (0 to 2^BitsStored-1 through the rescale). Signed and 32-bit values hardly fill it:
    `bits` says what they have, a number for all films of a set (the index finds it), "declared" (signed radiographs
    from 0), or "image": what this image's own values need, as medvit 0.1 did.
    `blind_window`: where more than 95 % of the pixels lie beyond the window or VOI LUT, take the "range", or "keep" it,
    or "refuse" the film (`E-WINDOW`); more than half are told (`W-WINDOW`).
    `reduce_to`: (rows, columns) that a JPEG 2000 or HTJ2K film may be decoded down to, at half, quarter, ...
    resolution; pixels then differ a little from a full decode, so it is off (None) by default. `FilmPreprocess` takes
    the words "size" and "double" too: its own size, or twice that.
    `allow_rgb`: "refuse" colour, or take its "luminance" (Rec. 601). `orientation`: PatientOrientation R\F is
    brought to L\F ("flip"), or "refuse", or "ignore". `force` reads objects without preamble or transfer syntax.
    """

    voi: str = "auto"
    window_index: int = 0
    blind_window: str = "range"
    bits: int | str = "declared"
    percentiles: tuple[float, float] = (0.5, 99.5)
    reduce_to: tuple[int, int] | None = None
    allow_rgb: str = "refuse"
    orientation: str = "flip"
    force: bool = False
    accept: Accept = field(default_factory=Accept)

    def __post_init__(self) -> None:
        _one_of("voi", self.voi, ("auto", "window", "lut", "percentile", "none"))
        if self.bits not in {*range(1, 33), "declared", "image"}:
            raise ConfigError(f"bits={self.bits!r} is not known: expected declared or 1 to 32")
        _one_of("blind_window", self.blind_window, ("range", "keep", "refuse"))
        _one_of("allow_rgb", self.allow_rgb, ("refuse", "luminance"))
        _one_of("orientation", self.orientation, ("flip", "refuse", "ignore"))
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ConfigError(f"percentiles {low}, {high}: expected 0 <= low < high <= 100")
        if self.window_index < 0:
            raise ConfigError(f"window_index {self.window_index}: expected 0 or more")

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> FilmPolicy:
        """Build from plain values, as YAML and JSON hold them; raises ConfigError, and TypeError for unknown names."""
        return cls(**{**_tuples(plain), "accept": Accept.of(plain.get("accept") or {})})


def check_accepted(facts: Facts, accept: Accept) -> None:
    """Refuse burned-in annotation (`Q-PHI`), small images (`E-SIZE`), and (`E-ACCEPT`) what the task does not take.

    All reasons of `E-ACCEPT` come in one message. Views: "LATERAL" in the policy takes LL and RL as well.
    """
    if facts.burned_in == "yes" and accept.burned_in == "quarantine":
        raise DicomRefusal(
            "Q-PHI",
            "BurnedInAnnotation YES: quarantined",
            tag="(0028,0301)",
            fix="remove the text, or accept.burned_in",
        )
    if min(facts.rows, facts.columns) < accept.min_side:
        found = f"{facts.rows}x{facts.columns} < min {accept.min_side}"
        raise DicomRefusal("E-SIZE", found, allowed=f">= {accept.min_side}", tag="(0028,0010)", fix="accept.min_side")
    views = accept.views + (("LL", "RL") if "LATERAL" in accept.views else ())
    problems = [
        _problem("Modality", facts.modality, accept.modalities, accept.missing),
        _problem("ViewPosition", facts.view, views, accept.missing),
        _problem("BodyPartExamined", facts.body_part, accept.body_parts, accept.missing),
    ]
    found = "; ".join(filter(None, problems))
    if found:
        raise DicomRefusal("E-ACCEPT", found, fix="leave the object out, or widen data.accept")


def _problem(name: str, value: str, allowed: tuple[str, ...], missing: str) -> str:
    if not allowed or value in allowed or (not value and missing == "accept"):
        return ""
    return f"{name} {value[:16] or 'missing'} not in {{{','.join(sorted(allowed))}}}"


def _tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name}={value!r} is not known: expected one of {', '.join(allowed)}{hint}")
