"""Of several films of one exposure the one that is taken: that for presentation, no copy that was made from it."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pandas as pd
import pydicom

from medvit.dicom import tags
from medvit.errors import DicomRefusal

COLUMN = "exposure"
NOTHING = '{"intent": "", "capture": false, "localizer": false, "sources": [], "event": ""}'  # of a picture
_INTENTS = {"FOR PRESENTATION": "presentation", "FOR PROCESSING": "processing"}
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_FIX = "accept.exposure=all takes every film"


def exposure_of(dataset: pydicom.Dataset, mask: Any) -> str:
    """Return as JSON what tells films of one exposure apart: intent, image type, what it was made from, event.

    PresentationIntentType (0008,0068) or the SOP class (PS3.3 A.26), ImageType (C.7.6.1.1.2), SourceImageSequence
    (C.12.1.1.8), IrradiationEventUID (C.8.7.2); identifiers are pseudonyms.
    """
    uid = tags.text_value(dataset, "SOPClassUID")
    words = [word.upper() for word in tags.text_values(dataset, "ImageType")]
    intent = _INTENTS.get(tags.text_value(dataset, "PresentationIntentType").upper(), "")
    if not intent and uid.startswith("1.2.840.10008.5.1.4.1.1.1."):
        intent = "processing" if uid.count(".") == 11 and uid.endswith(".1") else ""
    try:
        items = tags.items_of(dataset, "SourceImageSequence")
        sources = [tags.text_value(item, "ReferencedSOPInstanceUID") for item in items]
    except DicomRefusal:
        sources = []  # damaged: nothing that reading needs
    event = tags.text_value(dataset, "IrradiationEventUID")
    found = {
        "intent": intent,
        "capture": uid.startswith(_CAPTURE) or "SECONDARY" in words[1:2],
        "localizer": "LOCALIZER" in words,
        "sources": [mask("instance", source) for source in sources if source],
        "event": mask("event", event) if event else "",
    }
    return json.dumps(found)


def left_out(films: pd.DataFrame, wanted: str) -> dict[Any, DicomRefusal]:
    """Return by index label the films that are not taken and why; `wanted` as in `Accept.exposure`.

    Films of one exposure: one was made from another that is there, both are of one irradiation event, or they show
    one view of one study for processing and for presentation. A film of the other intent without a counterpart is
    refused (`E-INTENT`): its grey scale is another.
    """
    if wanted == "all" or films.empty:
        return {}
    told = pd.DataFrame([json.loads(text) for text in films[COLUMN]], index=films.index)
    told = told.assign(
        uid=films["uid"],
        study=films["study"],
        view=pd.Series(zip(films["study"], films["facts"], strict=True), films.index),
    )
    found: dict[Any, DicomRefusal] = {}
    for group in _exposures(told):
        ranks = {at: _rank(row, wanted) for at, row in told.loc[group].iterrows()}
        best = min(group, key=ranks.__getitem__)
        found |= {at: _second(told.loc[at], wanted) for at in group if at != best}
    other = told[(told["intent"] != "") & (told["intent"] != wanted)]
    right = set(map(_view, told.loc[told["intent"] == wanted, "view"])) if len(other) else set()
    for at, row in other.iterrows():
        if right and at not in found:
            found[at] = _second(row, wanted) if _view(row["view"]) in right else _alone(row["intent"], wanted)
    primary = set(told.loc[~told["capture"] & ~told["localizer"], "study"])
    for at, row in told[(told["capture"] | told["localizer"])].iterrows():
        if at not in found and row["study"] in primary:
            found[at] = _second(row, wanted)
    return found


def _exposures(told: pd.DataFrame) -> list[list[Any]]:
    """Return the groups of two or more films that references or one irradiation event tie together."""
    where = dict(zip(told["uid"], told.index, strict=True))
    ties: dict[Any, set[Any]] = defaultdict(set)
    for _, same in told[told["event"] != ""].groupby("event"):
        ties[same.index[0]] |= set(same.index)
    for at, sources in told["sources"].items():
        ties[at] |= {where[source] for source in sources if source in where}
    groups: list[set[Any]] = []
    for at, tied in ties.items():
        joined = {at, *tied}
        groups, met = [one for one in groups if not one & joined], [one for one in groups if one & joined]
        groups.append(joined.union(*met))
    return [sorted(group) for group in groups if len(group) > 1]


def _rank(row: pd.Series, wanted: str) -> tuple[Any, ...]:
    intent = 0 if row["intent"] == wanted else 1 if not row["intent"] else 2
    return (bool(row["capture"]), bool(row["localizer"]), intent, len(row["sources"]) > 0, row["uid"])


def _view(study_and_facts: tuple[str, str]) -> tuple[str, ...]:
    facts = json.loads(study_and_facts[1])
    return (study_and_facts[0], *(facts.get(name, "") for name in ("view", "laterality", "body_part")))


def _second(row: pd.Series, wanted: str) -> DicomRefusal:
    """Return the reason for a film whose exposure is in the set by another film; it stops nothing."""
    what = "derived from"
    if row["intent"] and row["intent"] != wanted:
        what = f"for {row['intent']}, of the same exposure as"
    elif row["localizer"]:
        what = "a localizer of"
    elif row["capture"]:
        what = "a secondary capture of"
    return DicomRefusal("I-EXPOSURE", f"{what} a film that is taken", tag="(0008,0068)", fix=_FIX)


def _alone(intent: str, wanted: str) -> DicomRefusal:
    found = f"a film for {intent} among films for {wanted}, and none for {wanted} of its view in its study"
    return DicomRefusal("E-INTENT", found, tag="(0008,0068)", fix=f"leave it out, or {_FIX}")
