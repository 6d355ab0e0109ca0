"""`split audit=true`: one self-contained page of the leakage audit, with thumbnails and pseudonyms, no identifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medvit.dataset.leakage.audit import Audit
from medvit.dataset.leakage.fingerprint import items
from medvit.dataset.manifest import Manifest
from medvit.quality.measures import measure_one
from medvit.quality.page import Pictures, write_page

REPORT = "audit.html"
_SHOWN = 24  # groups of pictures per kind


def write(audit: Audit, manifest: Manifest, folder: Path) -> None:
    """Write `folder/audit.html`; raises DataError when it cannot be written."""
    exact, near = _exact(audit.exact), _near(audit.near)
    shown = sorted({row for _, rows in exact + near for row in rows})
    pictures = Pictures(manifest, measures_of(manifest, shown))
    values = {
        "audit": audit,
        "digest": manifest.digest,
        "images": len(manifest.table),
        "patients": manifest.table["patient"].nunique(),
        "identifiers": audit.identifiers.groupby(["kind", "sides"]).size().reset_index(name="count").to_dict("records"),
        "given": audit.given.to_dict("records"),
        "kinds": [
            (title, [(text, pictures.of(rows)) for text, rows in groups])
            for title, groups in (("Identical pixels", exact), ("Near duplicates of different patients", near))
        ],
    }
    write_page("leakage.html", values, folder / REPORT)


def summary(audit: Audit) -> str:
    """Return verdict, leaks and doubts as lines of text."""
    lines = [f"leakage audit: {audit.verdict}"]
    lines += [f"  E-LEAK {text}" for text in audit.leaks] + [f"  look: {text}" for text in audit.doubts]
    return "\n".join([*lines, *(f"  {what}: {how}" for what, how in audit.sought.items())])


def _exact(table: pd.DataFrame) -> list[tuple[str, list[int]]]:
    groups = []
    for _, rows in table.groupby("group"):
        first = rows.iloc[0]
        text = f"{len(rows)} images, {_words(bool(first['across']), bool(first['conflict']))}"
        groups.append(((not first["across"], not first["conflict"]), (text, rows["row"].tolist()[:6])))
    return [group for _, group in sorted(groups, key=lambda pair: pair[0])][:_SHOWN]


def _near(table: pd.DataFrame) -> list[tuple[str, list[int]]]:
    worst = table.sort_values(["across", "conflict", "score"], ascending=False).head(_SHOWN)
    found = []
    for pair in worst.to_dict("records"):
        text = f"{pair['how']}, agreement {pair['score']:.3f}, {_words(pair['across'], pair['conflict'])}"
        found.append((text, [pair["row"], pair["other"]]))
    return found


def _words(across: bool, conflict: bool) -> str:
    return ("on two sides" if across else "on one side") + (", labels differ" if conflict else "")


def measures_of(manifest: Manifest, shown: Sequence[int]) -> pd.DataFrame:
    """Return what decides how coarse a thumbnail is: text is looked for in the images that are shown."""
    todo = items(manifest)
    code, text = [""] * len(todo), [False] * len(todo)
    for row in shown:
        judged = measure_one(todo[row])
        code[row], text[row] = judged["code"], judged["text"]
    return pd.DataFrame({"code": code, "text": text})
