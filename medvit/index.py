"""`python -m medvit.index`: a folder of images becomes manifest.parquet and exclusions.csv."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.config import entry
from medvit.config_check import refused_by
from medvit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from medvit.dataset.manifest import Manifest

_ON_BAD = ("refuse", "skip")
log = logging.getLogger("medvit.index")  # also when it runs as __main__


def index(
    root: Path,
    folder: Path,
    labels: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    *,
    on_bad: str = "refuse",
    workers: int = 1,
    report: bool = False,
) -> Manifest:
    """Index all images below `root` into `folder`, join the label table, and return the manifest.

    labels: the fields of `LabelSpec` (dataset.label.table), or None. options: `kind`, `patient_fallback`, `accept`,
    `series` as in conf/index.yaml. A stopped index goes on where it was; unchanged files are never read twice.

    Raises:
        ConfigError: an unknown or contradictory setting.
        DataError: nothing to index; refused objects (on_bad="refuse"; they are listed in exclusions.csv) and a join
            that does not fit, both in one message; or a folder that cannot be written.
    """
    from medvit.dataset import indexing, manifest

    if on_bad not in _ON_BAD:
        raise ConfigError(f"on_bad={on_bad!r}: expected refuse or skip")
    found = indexing.collect(root, folder, indexing.Options.of(options or {}, workers))
    spec = indexing.label_spec(labels)
    result, problems = indexing.label(found, spec) if spec else (indexing.unlabelled(found), [])
    indexing.write_exclusions(result.excluded, folder)
    if not problems:
        log.info("%s", indexing.summary_text(result))
    refused = result.excluded[~result.excluded["code"].str.startswith("I-")]  # left out as asked
    if len(refused) and on_bad == "refuse":
        problems.append(indexing.refusal_text(refused))
    if result.images.empty and not problems:
        problems.append(f"no image is left: {len(refused)} objects are refused, see {manifest.EXCLUSIONS}")
    if problems:
        raise DataError("\n".join(problems))
    hint: dict[str, Any] = {"targets": list(spec.target) if spec else [], "key_id": found.mask.key_id}
    if bits := indexing.picture_range(result, root):
        hint["picture_bits"] = bits
    made = manifest.write(indexing.columns(result.images), root, folder, hint)
    if report:
        from medvit.quality import page

        with indexing.progress("decoding for the report") as step:
            judged = page.write(made, folder, result.excluded, result.counts, found.workers, step)
        log.info("%s\n%s written", page.summary(judged), page.REPORT)
    return made


def check(settings: dict[str, Any]) -> list[str]:
    """Return what is not there, before anything is read."""
    from medvit.dataset import indexing

    labels, options = _labels(settings), _options(settings)
    problems = refused_by(lambda: indexing.Options.of(options, 1), lambda: indexing.label_spec(labels))
    labels = settings["labels"]
    problems += [] if settings["on_bad"] in _ON_BAD else [f"on_bad={settings['on_bad']}: expected refuse or skip"]
    if not Path(settings["data"]["root"] or "").is_dir() or not settings["data"]["root"]:
        problems.append("data.root is not a folder; give data.root=DIR")
    for name, source in (("csv", labels["csv"]), ("lists", labels["lists"])):
        files = list(source.values()) if isinstance(source, dict) else [source] if source else []
        missing = [file for file in files if file != "files" and not Path(file).is_file()]
        which = f" ({len(missing)} of {len(files)})" if len(files) > 1 else ""
        problems += [f"labels.{name} is not a file{which}"] * bool(missing)
    return problems


def index_by(settings: dict[str, Any]) -> Manifest:
    """Index as the settings of conf/index.yaml ask; see `index`."""
    data = settings["data"]
    rest = {key: settings[key] for key in ("on_bad", "workers", "report")}
    return index(Path(data["root"]), Path(data["folder"]), _labels(settings), _options(settings), **rest)


def _labels(settings: dict[str, Any]) -> dict[str, Any] | None:
    labels = {key: value for key, value in settings["labels"].items() if key != "values"}  # of the task, in a preset
    return labels if labels["csv"] else None


def _options(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: settings["data"][key] for key in ("kind", "patient_fallback", "leave_out", "accept", "series")}


@entry("index", check)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/index.yaml."""
    index_by(settings)


if __name__ == "__main__":
    run()
