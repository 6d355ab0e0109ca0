"""Leakage audit of a split: shared identifiers, identical pixels and near duplicates. Pseudonyms only.

Exact leaks (an identifier, or the same pixels, on two sides) stop training. Near duplicates and copies whose labels
differ are told; a person has to look.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medvit.command_line import anywhere, command_line
from medvit.dataset import manifest as manifests
from medvit.dataset import splits as division
from medvit.dataset.leakage.fingerprint import CachedImages, Fingerprints, near_pairs, of_cache
from medvit.dataset.leakage.near_duplicates import NearDuplicates
from medvit.dataset.manifest import KEPT, Manifest, label_text, replace_file
from medvit.dataset.splits import SIDES, SYNONYMS, Splits
from medvit.errors import DataError, SplitError

AUDIT = "audit.json"
IDENTIFIERS = ("patient", "study", "series", "uid")
CROPS_UP_TO, NEAR_UP_TO = 5_000, 20_000  # images; comparing all pairs grows with the square
ALLOWED = "LEAKS ALLOWED BY SETTING"  # how the sentence begins that a run trained in spite of leaks carries
_NAMES = {"patient": "patients", "study": "studies", "series": "series", "uid": "images"}
_NO_COPIES, _NO_PAIRS = (
    pd.DataFrame(columns=[*names, "across", "conflict"]).astype({"across": bool, "conflict": bool})
    for names in (("group", "row", "uid", "side"), ("row", "other", "score", "how"))
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Audit:
    """What was found; `rows` in the tables are manifest row positions.

    identifiers: kind, value (pseudonym), sides. given: column, patients on two sides, of how many (of every kept column
    that holds a split). exact: one row per image of a group of equal pixels: group, row, uid, side, across, conflict.
    near: row, other, score, how, across, conflict. `sought` says what was looked at, and what was not.
    """

    identifiers: pd.DataFrame
    given: pd.DataFrame
    exact: pd.DataFrame
    near: pd.DataFrame
    sought: dict[str, str] = field(default_factory=dict)

    @property
    def leaks(self) -> tuple[str, ...]:
        """Return the exact leaks in words; none of them may be there when a model is trained."""
        counts = {kind: int((self.identifiers["kind"] == kind).sum()) for kind in IDENTIFIERS}
        found = [f"{counts[kind]} {name} on two sides" for kind, name in _NAMES.items() if counts[kind]]
        groups = self.exact.loc[self.exact["across"], "group"].nunique()
        return (*found, *([f"{groups} images with identical pixels on two sides"] * bool(groups)))

    @property
    def doubts(self) -> tuple[str, ...]:
        """Return in words what a person has to look at."""
        across, conflict = int(self.near["across"].sum()), int(self.near["conflict"].sum())
        exact = self.exact.loc[self.exact["conflict"], "group"].nunique()
        given = [
            f"{row['shared']} of {row['patients']} patients on two sides of column {row['column']}"
            for row in self.given.to_dict("records")
            if row["shared"]
        ]
        return (
            *given,
            *([f"{across} near-duplicate pairs on two sides"] * bool(across)),
            *([f"{exact} groups of identical pixels with different labels"] * bool(exact)),
            *([f"{conflict} near-duplicate pairs with different labels"] * bool(conflict)),
        )

    @property
    def verdict(self) -> str:
        """Return "leak", "look" or "clean"."""
        return "leak" if self.leaks else "look" if self.doubts else "clean"

    def to_json(self) -> dict[str, Any]:
        """Return verdict, counts and all tables as plain values."""
        tables = {name: getattr(self, name).to_dict("records") for name in ("identifiers", "given", "exact", "near")}
        words = {"leaks": list(self.leaks), "doubts": list(self.doubts)}
        return {"verdict": self.verdict, **words, "sought": self.sought, **tables}


def sides_of(manifest: Manifest, splits: Splits, fold: int | None = None) -> pd.Series:
    """Return the side of each manifest row; without `fold`, folds count as sides, as any of them may be held out."""
    patient = manifest.table["patient"]
    if fold is not None or splits.table["fold"].max() < 0:
        return patient.map(splits.sides(fold))
    table = splits.table.set_index("patient")
    inner = table["inner"].eq(0) & (splits.spec["strategy"] != "kfold")
    names = ("fold " + table["fold"].astype(str) + inner.map({True: " inner", False: ""})).where(
        table["fold"] >= 0, table["split"]
    )
    return patient.map(names)


def given_sides(values: pd.Series) -> pd.Series | None:
    """Return train, val or test of each row of a column that holds a split, None of another column."""
    words = values.astype("string").str.strip().str.lower().replace(SYNONYMS)
    known = words.dropna()
    return words if len(known) and known.isin(SIDES).all() and known.nunique() > 1 else None


def find_leaks(
    manifest: Manifest,
    side: pd.Series,
    prints: Fingerprints | None,
    *,
    crops: bool = True,
    alike: NearDuplicates | None = None,
) -> Audit:
    """Compare the sides of a split.

    Args:
        manifest: its rows, in the order of `side` and `prints`.
        side: of each row; a row without one (missing) belongs to no side.
        prints: fingerprints of the rows, None to look at identifiers alone.
        crops: seek crops too (up to 5,000 images).
        alike: near duplicates by a backbone, whose pairs join those by grey ranks.
    """
    table = manifest.table.assign(_side=side.to_numpy())
    sought = {"identifiers": f"patient, study, series and image of {len(table)} rows"}
    exact, near = _NO_COPIES, _NO_PAIRS
    if prints is not None:
        unread = sum(not one for one in prints.exact)
        sought["pixels"] = f"{len(table) - unread} of {len(table)} images" + (" (the rest unreadable)" * bool(unread))
        exact = _exact(table, prints)
        near = _near(table, prints, crops, sought, alike)
    return Audit(_identifiers(table), _given(table), exact, near, sought)


def _identifiers(table: pd.DataFrame) -> pd.DataFrame:
    found = []
    for kind in IDENTIFIERS:
        known = table.dropna(subset=["_side"])
        sides = known[known[kind].fillna("") != ""].groupby(kind)["_side"].agg(lambda values: sorted(set(values)))
        found += [(kind, value, " ".join(each)) for value, each in sides.items() if len(each) > 1]
    return pd.DataFrame(found, columns=["kind", "value", "sides"])


def _given(table: pd.DataFrame) -> pd.DataFrame:
    found = []
    for column in (str(name) for name in table.columns if str(name).startswith(KEPT)):
        sides = given_sides(table[column])
        if sides is not None:
            count = sides.groupby(table["patient"]).nunique()
            found.append((column, int((count > 1).sum()), len(count)))
    return pd.DataFrame(found, columns=["column", "shared", "patients"])


def _exact(table: pd.DataFrame, prints: Fingerprints) -> pd.DataFrame:
    hashes = pd.Series(prints.exact)
    labels, side = label_text(table).to_numpy(), table["_side"].to_numpy()
    groups = [rows for key, rows in hashes.groupby(hashes).indices.items() if key and len(rows) > 1]
    found = [
        (number, int(row), table["uid"].iloc[row], side[row],
         pd.Series(side[rows]).nunique() > 1, len(set(labels[rows])) > 1)
        for number, rows in enumerate(groups)
        for row in rows
    ]  # fmt: skip
    return pd.concat([_NO_COPIES, pd.DataFrame(found, columns=_NO_COPIES.columns)]) if found else _NO_COPIES


def _near(
    table: pd.DataFrame, prints: Fingerprints, crops: bool, sought: dict[str, str], alike: NearDuplicates | None
) -> pd.DataFrame:
    count = len(table)
    crops = crops and count <= CROPS_UP_TO
    if count > NEAR_UP_TO:
        sought["near duplicates"] = f"not sought: {count} images, at most {NEAR_UP_TO} are compared with each other"
        pairs = pd.DataFrame(columns=["row", "other", "score", "how"])
    else:
        sought["near duplicates"] = "between different patients, by grey ranks"
        pairs = near_pairs(prints.sketch, table["patient"].tolist(), crops=crops)
    sought["crops"] = f"among up to {CROPS_UP_TO} images" if crops else "not sought"
    if alike is not None:
        sought["embedding"] = alike.told
        pairs = pd.concat([pairs, alike.pairs.assign(how="embedding")]).drop_duplicates(["row", "other"])
    exact = np.array(prints.exact, object)
    one, two = (pairs[name].to_numpy(int) for name in ("row", "other"))
    pairs = pairs[exact[one] != exact[two]].reset_index(drop=True)
    if pairs.empty:
        return _NO_PAIRS
    labels, side = label_text(table).to_numpy(), table["_side"].to_numpy()
    one, two = (pairs[name].to_numpy(int) for name in ("row", "other"))
    known = table["_side"].notna().to_numpy()
    pairs["across"] = (side[one] != side[two]) & known[one] & known[two]
    pairs["conflict"] = labels[one] != labels[two]
    return pd.DataFrame(pairs)


def seen_in_pretraining(data_name: str, pretrained_on: str) -> str:
    """Return in words that the weights' makers name this data set among what they pretrained on, "" where they do not.

    Names are compared without case, spaces and signs, and may be longer on one side: mimic_cxr_jpg is of MIMIC-CXR.
    The test images of such a set are not unseen, although no audit of pixels can find it.
    """
    plain = ["".join(filter(str.isalnum, name.casefold())) for name in (data_name, *pretrained_on.split("; "))]
    named = [
        name
        for name, word in zip(pretrained_on.split("; "), plain[1:], strict=True)
        if min(len(word), len(plain[0])) > 3 and (word in plain[0] or plain[0] in word)
    ]
    if not named:
        return ""
    return f"the starting weights were pretrained on {', '.join(named)}: images of the test side may not be new to them"


def leaks_allowed(provenance: Mapping[str, Any]) -> str:
    """Return the sentence on allowed leaks from the hashes of a run, "" where none were allowed."""
    told = str(provenance.get("leakage", ""))
    return told if told.startswith(ALLOWED) else ""


def write(audit: Audit, manifest: Manifest, splits: Splits | None, folder: Path) -> None:
    """Write `folder/audit.json` with the digests of what was audited; raises DataError when it cannot be written."""
    about = {"manifest": manifest.digest, "split": splits.digest if splits else None}
    text = json.dumps({**about, **audit.to_json()}, indent=1) + "\n"
    replace_file(folder / AUDIT, lambda draft: draft.write_text(text, encoding="utf-8"))


def audit_before_training(folder: Path, fold: int | None, cache: CachedImages, allow: bool) -> str:
    """Audit what training is about to use, and return the result in one sentence for the run's provenance.

    Looked at are the identifiers of all sides, the cached pixels (of training and validation), and the result of an
    earlier `medvit.split audit=true` of this very split, which has seen the test images too.

    Raises:
        SplitError: `E-LEAK` an exact leak, unless `allow`.
    """
    manifest = manifests.read(folder)
    splits = division.read(folder, manifest)
    whole = find_leaks(manifest, sides_of(manifest, splits, fold), None)
    rows = Manifest(cache.rows, manifest.root, manifest.digest)
    pixels = find_leaks(rows, cache.rows["_side"], of_cache(cache), crops=False)
    leaks = list(dict.fromkeys((*whole.leaks, *pixels.leaks, *_earlier(folder, splits))))
    pairs = int(pixels.near["across"].sum())
    if pairs:
        told = "leakage audit: %d near-duplicate pairs on two sides; this shows them:\n%s"
        _log.warning(told, pairs, _audit_line(folder))
    if not leaks:
        return "no exact leak"
    if not allow:
        raise SplitError(
            f"E-LEAK {'; '.join(leaks)}. Look at audit.html of `{_audit_line(folder)}` and correct the "
            "data or the split; data.allow_leaks=true trains all the same and is written into the run and its report"
        )
    _log.warning("leakage audit: %s; trained all the same (data.allow_leaks=true)", "; ".join(leaks))
    return f"{ALLOWED}: {'; '.join(leaks)}"


def _audit_line(folder: Path) -> str:
    return anywhere(command_line("split", {"data.folder": folder, "audit": True}))


def _earlier(folder: Path, splits: Splits) -> list[str]:
    path = folder / AUDIT
    if not path.is_file():
        return []
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if (stored["split"], stored["manifest"]) != (splits.digest, splits.manifest_digest):
            return []
        return [f"{leak} (audit.json)" for leak in stored["leaks"]]
    except (ValueError, KeyError) as error:
        raise DataError(f"audit.json is damaged; run `{_audit_line(folder)}` again") from error
