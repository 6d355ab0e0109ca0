"""`python -m medvit.split`: divide the patients of an indexed data set, freeze the division, and audit it for leaks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.command_line import anywhere, command_line
from medvit.config import entry
from medvit.config_check import refused_by

if TYPE_CHECKING:
    import pandas as pd

    from medvit.dataset.leakage.audit import Audit
    from medvit.dataset.manifest import Manifest
    from medvit.dataset.splits import Splits, SplitSpec
    from medvit.engine.embedding.embeddings import Embedder

_FEW = 10  # patients on a side; the 95 % interval of a share of nine is 30 percent points to either side
log = logging.getLogger("medvit.split")  # also when it runs as __main__


def split(folder: Path, **spec: Any) -> Splits:
    """Read `folder`/manifest.parquet, divide its patients, write `splits.parquet`, and log the balance of the sides.

    Raises:
        SplitError: see `medvit.dataset.splits.make`.
    """
    from medvit.dataset import manifest as manifests

    return _divide(manifests.read(folder), folder, _spec(spec))


def audit(folder: Path, workers: int = 1, embed: Embedder | None = None, **spec: Any) -> Audit:
    """Audit the frozen split of `folder` for leaks, and write `audit.json` and `audit.html` beside it.

    embed: a backbone (`medvit.engine.embedding.embeddings`) by which near duplicates are sought too.

    A split is made first if there is none; one that is there is never replaced, and `spec` may ask for no other. A
    given split that cannot be frozen, because patients stand on two sides of it, is audited as it was given.

    Raises:
        SplitError: a split that is impossible for another reason than a leak, or no longer fits its manifest; or
            settings that would change nothing, because another split is frozen.
    """
    from medvit.dataset import manifest as manifests
    from medvit.dataset.indexing import progress
    from medvit.dataset.leakage import audit as audits
    from medvit.dataset.leakage.fingerprint import of_manifest
    from medvit.quality import leakage_page as page

    manifest = manifests.read(folder)
    splits, side = _sides(manifest, folder, _spec(spec))
    with progress("decoding for the audit") as step:
        prints = of_manifest(manifest, workers, step)
    alike = None
    if embed is not None:
        from medvit.engine.embedding.embeddings import near_duplicates_by_embedding

        alike = near_duplicates_by_embedding(embed, manifest, folder, workers)
    found = audits.find_leaks(manifest, side, prints, alike=alike)
    audits.write(found, manifest, splits, folder)
    page.write(found, manifest, folder)
    log.info("%s\n%s written", page.summary(found), page.REPORT)
    return found


def check(settings: dict[str, Any]) -> list[str]:
    """Return what no division can be made by."""
    from medvit.dataset.splits import problems_of

    return refused_by(lambda: _spec(settings["split"])) or problems_of(_spec(settings["split"]))


def _spec(values: dict[str, Any]) -> SplitSpec:
    from medvit.dataset.splits import SplitSpec

    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return SplitSpec(**given)


def _divide(manifest: Manifest, folder: Path, spec: SplitSpec) -> Splits:
    from medvit.dataset import splits as division

    made, before = division.make(manifest, spec), division.stored_digest(folder)
    made.write(folder)
    if before not in {None, made.digest}:
        told = "another split (%s) was here and is replaced; what was trained on it is refused by evaluate and export"
        log.warning(told, str(before)[:12])
    columns = [c for c in manifest.table.columns if str(c).startswith("label.")] + list(spec.balance)
    fold = 0 if made.table["fold"].max() >= 0 else None
    table = division.balance_table(manifest, made, columns, fold)
    log.info("%s\nsplit %s written", table.to_string(index=False, float_format="%.3f"), made.digest[:12])
    _warn_of_few(made, fold)
    return made


def _warn_of_few(made: Splits, fold: int | None) -> None:
    """Say how many patients validate and test where a score on them could be anything."""
    counts = made.sides(fold).value_counts()
    few = [f"{counts[side]} {side}" for side in ("val", "test") if 0 < counts.get(side, 0) < _FEW]
    if few:
        told = "only %s patients: a score on fewer than %d decides nothing; take larger split.fractions%s"
        more = (
            "" if made.folds else ", or split.strategy=kfold and `medvit crossval`, where every patient is validated on"
        )
        log.warning(told, " and ".join(few), _FEW, more)


def _sides(manifest: Manifest, folder: Path, spec: SplitSpec) -> tuple[Splits | None, pd.Series]:
    """Return the split to audit, if it can be frozen, and the side of every manifest row."""
    from medvit.dataset import splits as division
    from medvit.dataset.leakage.audit import given_sides, sides_of
    from medvit.errors import SplitError

    if (folder / "splits.parquet").is_file():
        frozen = division.read(folder, manifest)
        if missing := division.missing_columns(manifest, spec):
            raise SplitError("; ".join(missing))
        _refuse_another(frozen, folder, spec)
        return frozen, sides_of(manifest, frozen)
    try:
        made = _divide(manifest, folder, spec)
    except SplitError:
        given = given_sides(manifest.table[spec.column]) if spec.column in manifest.table else None
        if spec.strategy != "given" or given is None:
            raise
        return None, given
    return made, sides_of(manifest, made)


def _refuse_another(frozen: Splits, folder: Path, spec: SplitSpec) -> None:
    """Refuse settings that an audit of the frozen split would ignore: others than its own and than the defaults."""
    from medvit.dataset.splits import SplitSpec
    from medvit.errors import SplitError

    usual, asked = (_plain(one) for one in (SplitSpec(), spec))
    own = {key: frozen.spec.get(key) or value for key, value in usual.items()}
    idle = {f"split.{key}": value for key, value in asked.items() if value not in (usual[key], own[key])}
    shown = (key for key in own if key in {"strategy", "seed"} or own[key] != usual[key])
    told = ", ".join(f"{key}={own[key]}" for key in shown)
    if idle:
        again = anywhere(command_line("split", {"data.folder": folder, **idle}))
        raise SplitError(
            f"data.folder is split already ({told}), and an audit never replaces a split: "
            f"{', '.join(f'{key}={value}' for key, value in idle.items())} would change nothing. Leave it out to audit "
            "the split that is there. To replace that (evaluate and export then refuse what was trained on it), divide "
            f"anew without audit first: {again}"
        )
    log.info("audited is the split that is there: %s (%s)", told, frozen.digest[:12])


def _plain(spec: SplitSpec) -> dict[str, Any]:
    """Return the fields of a spec as `Splits.spec` keeps them, the usual fractions written out."""
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(spec).items()}
    return values | {"fractions": spec.fractions or {"train": 0.7, "val": 0.1, "test": 0.2}}


def _embedder(source: str, runs: Path) -> Embedder:
    """Return the backbone of a run ("latest" or an id), or of a checkpoint (hub id with a slash, directory, file)."""
    from medvit.engine.embedding import embeddings

    if "/" in source or Path(source).exists():
        return embeddings.of_checkpoint(source)
    from medvit.tracking import run as tracking

    return embeddings.of_run(tracking.get(source, runs, finished=True).folder)


def split_by(settings: dict[str, Any]) -> Splits:
    """Split, or with `audit` audit, as conf/split.yaml asks; the split is returned.

    Raises:
        SplitError: a split that is impossible, or with `audit` exact leaks.
    """
    from medvit.dataset import manifest as manifests
    from medvit.dataset import splits as division
    from medvit.errors import SplitError

    folder = Path(settings["data"]["folder"])
    if not settings["audit"]:
        return split(folder, **settings["split"])
    embeddings = _embedder(settings["embed"], Path(settings["tracking"]["folder"])) if settings["embed"] else None
    found = audit(folder, embed=embeddings, **settings["split"])
    if found.leaks:
        raise SplitError(f"{'; '.join(found.leaks)}; audit.html in the data folder shows them")
    return division.read(folder, manifests.read(folder))


@entry("split", check)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/split.yaml; exact leaks give the exit code of a SplitError."""
    split_by(settings)


if __name__ == "__main__":
    run()
