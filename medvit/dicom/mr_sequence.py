"""What kind of MR series this is, in one vocabulary: from its description, else from its timing.

A description is free text and may hold anything; only words of the table below leave this module.
"""

from __future__ import annotations

import re
from typing import Final

import pydicom

from medvit.dicom import tags

SEQUENCES: Final = ("T1", "T1C", "T2", "FLAIR", "DWI", "ADC", "PD", "SWI", "other")  # T1C: after contrast agent
# The first that is found counts: an ADC map is named after the diffusion series it comes from, "T2 FLAIR" is a FLAIR,
# "T2*" is susceptibility; "T1 FLAIR" and "T1 MPRAGE" are T1. Written in capitals, parted by spaces.
_WORDS: Final = (
    ("ADC", r"E?ADC|APPARENT DIFF\w*"),
    ("DWI", r"E?DWI|DIFF|DIFFUSION|DTI|TRACEW?|EP2D DIFF\w*|B ?(?:50|[5-9]00|[1-9]000)"),
    ("SWI", r"SWI|SWAN|SWIP|VEN BOLD|HEMO\w*|T2 ?(?:\*|STAR)\w*|SUSC\w*"),
    ("T1", r"T1W?I? (?:\w+ )*?(?:FLAIR|DARK FLUID)"),
    ("FLAIR", r"\w*FLAIR\w*|DARK FLUID|TIRM DF"),
    ("PD", r"PDW?I?|DP|PROTON DENS\w*|PD ?(?:FS|TSE|SPAIR)\w*"),
    ("T2", r"T2\w*|STIR|TIRM|HASTE|SSFSE|CISS|FIESTA\w*"),
    ("T1", r"T1\w*|MP ?RAGE\w*|MP2RAGE|F?SPGR|BRAVO|VIBE|LAVA|THRIVE|FLASH|DYN\w*"),
)
_PATTERNS: Final = tuple((name, re.compile(rf"(?<!\S)(?:{words})(?!\S)")) for name, words in _WORDS)
_AFTER: Final = re.compile(r"(?<!\S)(?:T1CE?|T1GD|POST|GD|GAD\w*|CE|C\+|\+C|\+ ?GD|CONTRAST|CM|KM|DYN\w*)(?!\S)")
_BEFORE: Final = re.compile(r"(?<!\S)(?:PRE|NATIVE?|NATIV|WITHOUT|W/O|NON|NO|OHNE|PLAIN)(?!\S)")


def sequence(dataset: pydicom.Dataset) -> str:
    """Return the kind of an MR series, one of `SEQUENCES`; "" for what is no MR image.

    Looked at are SeriesDescription, ProtocolName, SequenceName and ImageType (PS3.3 C.7.3.1, C.8.3.1), then whether a
    contrast agent was given (C.7.6.4), then the timing. "other" where all of them are silent.
    """
    if tags.text_value(dataset, "Modality").upper() != "MR":
        return ""
    kinds = " ".join(tags.text_values(dataset, "ImageType")).upper()
    for keyword in ("SeriesDescription", "ProtocolName", "SequenceName"):
        text = _plain(tags.text_value(dataset, keyword))
        said = _said("ADC" if " ADC" in kinds else text)
        if said:
            return _with_contrast(said, text, dataset)
    return _with_contrast(_timed(dataset), "", dataset)


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^A-Z0-9+*/]+", " ", text.upper()).split())


def _said(text: str) -> str:
    return next((name for name, pattern in _PATTERNS if pattern.search(text)), "")


def _with_contrast(name: str, text: str, dataset: pydicom.Dataset) -> str:
    """Tell T1 after a contrast agent from T1 before it; the description decides where it speaks."""
    if name != "T1" or _BEFORE.search(text):
        return name
    agent = tags.text_value(dataset, "ContrastBolusAgent").upper()
    given = agent not in {"", "NO", "NONE", "N", "NO CONTRAST", "UNKNOWN"}
    return "T1C" if given or _AFTER.search(text) else "T1"


def _timed(dataset: pydicom.Dataset) -> str:
    """Return what repetition, echo and inversion time (ms) say of a conventional spin or gradient echo.

    The limits are the usual ones of teaching (Bitar et al., RadioGraphics 2006;26:513), with room between them.
    """
    repetition, echo, inversion = (_number(dataset, k) for k in ("RepetitionTime", "EchoTime", "InversionTime"))
    if repetition <= 0 or echo <= 0:
        return "other"
    if inversion >= 1500 and echo >= 60:
        return "FLAIR"
    if inversion >= 1500:
        return "other"
    gradient = "GR" in tags.text_values(dataset, "ScanningSequence")
    if gradient:
        return "T1" if echo <= 10 and repetition <= 50 else "other"
    if repetition >= 1800:
        return "T2" if echo >= 70 else "PD" if echo <= 40 else "other"
    return "T1" if repetition <= 900 and echo <= 30 else "other"


def _number(dataset: pydicom.Dataset, keyword: str) -> float:
    """Return a number that is only looked at: a wrong or missing one is 0 and refuses nothing."""
    try:
        return float(tags.text_value(dataset, keyword) or 0)
    except ValueError:
        return 0.0
