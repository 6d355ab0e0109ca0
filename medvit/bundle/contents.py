"""The files of a bundle: their names, how they are written, sealed, verified and read.

A folder a MONAI tool can open (`configs/metadata.json`, `models/`, `docs/`) with what its format lacks: preprocessing,
labels, thresholds, calibration, acceptance limits, golden cases and the hash of every file. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit.bundle.decision import Decider
from medvit.errors import BundleError

FORMAT = 1
SUMS = "SHA256SUMS"
PARTS = ("manifest", "preprocess", "labels", "thresholds", "calibration", "acceptance")
UNLIKE = "unlike"  # not in bundles of volumes without a training cache, nor in those of older versions
VARIANTS = "variants"  # only in bundles that were measured with some
_NEEDED = ("models/model.onnx", "models/model.safetensors", "configs/metadata.json", "docs/README.md", "LICENSE")
_SUFFIXES = {".json", ".onnx", ".safetensors", ".md", ".xml", ".dcm", ".npz", ".pdf", ".txt", ""}


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `digest` is the SHA-256 of its list of hashes, so it names the whole content."""

    folder: Path
    digest: str
    manifest: dict[str, Any]
    preprocess: dict[str, Any]
    labels: dict[str, Any]
    thresholds: dict[str, Any]
    calibration: dict[str, Any]
    acceptance: dict[str, Any]
    unlike: dict[str, Any] | None = None
    variants: dict[str, Any] | None = None

    @property
    def draft(self) -> bool:
        """Whether thresholds, calibration or labels were incomplete when it was written."""
        return bool(self.manifest["draft"])


@dataclass(frozen=True)
class Contents:
    """Everything of a bundle but the network: plain JSON parts and two texts.

    `labels` has `names`, `activation` (see `medvit.bundle.decision`) and per name what it means; `thresholds` and
    `calibration` are per name; `provenance` has run id, hashes, code and environment; `chai` is the card as XML;
    `unlike` is what `medvit.bundle.ood.fitted` returns.
    """

    name: str
    preprocess: Mapping[str, Any]
    labels: Mapping[str, Any]
    thresholds: Mapping[str, Any]
    calibration: Mapping[str, Any]
    acceptance: Mapping[str, Any]
    provenance: Mapping[str, Any]
    card: str
    licence: str
    unlike: Mapping[str, Any] | None = None
    chai: str = ""

    def problems(self) -> list[str]:
        """Return what keeps these contents from being more than a draft."""
        names = tuple(self.labels["names"])
        found = Decider(names, self.labels["activation"], self.calibration, self.thresholds).problems()
        return found + ([] if self.acceptance else ["acceptance: no limits"])


def write_parts(folder: Path, contents: Contents, draft: bool, grid: tuple[int, ...]) -> None:
    """Write everything but `models/` and the hashes. `grid` is the patches per axis, on which maps are drawn.

    Raises:
        BundleError: not a draft, and thresholds, calibration, labels or acceptance limits are missing (all named).
    """
    problems = contents.problems()
    if problems and not draft:
        raise BundleError(
            f"This model cannot leave yet: {'; '.join(problems)}. Evaluate the run first, or export with draft=true."
        )
    manifest = {
        "format": FORMAT,
        "name": contents.name,
        "draft": draft,
        "missing": problems,
        "grid": list(grid),
        "not_for_diagnostic_use": True,
        "provenance": contents.provenance,
    }
    parts = {"manifest": manifest} | {name: getattr(contents, name) for name in PARTS[1:]}
    parts |= {} if contents.unlike is None else {UNLIKE: contents.unlike}
    for name, part in parts.items():
        _json(folder / "medvit" / f"{name}.json", part)
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "README.md").write_text(contents.card, encoding="utf-8")
    if contents.chai:
        (folder / "docs" / "chai.xml").write_text(contents.chai, encoding="utf-8")
    (folder / "LICENSE").write_text(contents.licence, encoding="utf-8")


def _json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def write_variants(folder: Path, costs: Mapping[str, Any]) -> None:
    """Write what each further variant of the network costs (`medvit.bundle.variants`)."""
    _json(folder / "medvit" / f"{VARIANTS}.json", costs)


def write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write MONAI's `configs/metadata.json`."""
    _json(folder / "configs" / "metadata.json", metadata)


def seal(folder: Path) -> str:
    """Write SHA256SUMS over every file (checkable with `sha256sum -c`) and return its digest."""
    names = sorted(file.relative_to(folder).as_posix() for file in _files(folder))
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def verify(folder: Path) -> str:
    """Check every file of a bundle against SHA256SUMS and return the digest of the whole.

    Raises:
        BundleError: no such folder, or files that are missing, altered, added, links, or of a kind no bundle has;
            all are named at once.
    """
    sums = folder / SUMS
    if not sums.is_file():
        raise BundleError(f"This is no bundle: it has no {SUMS}. Give bundle=DIR, a folder made by medvit.export.")
    text = _sums(sums)
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}
    found = {file.relative_to(folder).as_posix(): file for file in _files(folder)}
    both = sorted(set(found) & set(listed))
    problems = [f"{name} is missing" for name in sorted({*listed, *_NEEDED} - set(found))]
    problems += [f"{name} was added" for name in sorted(set(found) - set(listed))]
    digests = {name: _sha256(found[name]) for name in both}
    problems += [f"{name} cannot be read" for name in both if not digests[name]]
    problems += [f"{name} was altered" for name in both if digests[name] not in {"", listed[name]}]
    problems += [f"{name} is of a kind no bundle has" for name in sorted(found) if found[name].suffix not in _SUFFIXES]
    problems += [f"{path.relative_to(folder)} is a link" for path in folder.rglob("*") if path.is_symlink()]
    if problems:
        raise BundleError(f"The bundle is not what was exported: {'; '.join(problems)}. Copy it again from its source.")
    return hashlib.sha256(text.encode()).hexdigest()


def read(folder: Path) -> Bundle:
    """Verify a bundle and return it opened.

    Raises:
        BundleError: as `verify`, or a part that is not JSON, or a format this version does not know.
    """
    digest = verify(folder)
    try:
        there = [*PARTS, *(name for name in (UNLIKE, VARIANTS) if (folder / "medvit" / f"{name}.json").is_file())]
        parts = {name: json.loads((folder / "medvit" / f"{name}.json").read_text(encoding="utf-8")) for name in there}
    except (OSError, ValueError) as error:
        raise BundleError("A JSON part of the bundle's medvit/ folder cannot be read. Export again.") from error
    found = parts["manifest"].get("format")
    if found != FORMAT:
        raise BundleError(f"The bundle has format {found}, this medvit reads format {FORMAT}. Use the matching medvit.")
    return Bundle(folder, digest, **parts)


def _files(folder: Path) -> Iterator[Path]:
    sums = folder / SUMS
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path != sums)


def _sums(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"The bundle's {SUMS} cannot be read. Copy the bundle again from its source.") from error


def _sha256(file: Path) -> str:
    """Return the SHA-256 of a file in hex, "" for one that cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
