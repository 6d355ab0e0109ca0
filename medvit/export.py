"""`python -m medvit.export run=RUN_ID out=DIR`: an evaluated run as a bundle that a hospital can test."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.command_line import anywhere, command_line
from medvit.config import entry
from medvit.mlflow_server import server_of

if TYPE_CHECKING:
    from medvit.bundle.build import Exported

logger = logging.getLogger(__name__)


def uncoded_findings(labels: Mapping[str, Any]) -> str:
    """Return a reminder that names the findings without a code of a public terminology, "" where all have one."""
    without = [name for name, means in labels["definitions"].items() if not means.get("code")]
    if not without:
        return ""
    example = f'{without[0]}: {{text: ..., code: ["233604007", SCT, Pneumonia]}}'
    return (
        f"No code for {', '.join(without)}: DICOM results name what no other system understands. Look codes up in "
        f"SNOMED CT (SCT) or RadLex (RADLEX) and give definitions='{{{example}}}'."
    )


def export_by(settings: dict[str, Any]) -> Exported:
    """Write the bundle of a run through the parity gate, as conf/export.yaml asks, and note it in the run.

    Raises:
        RunError, DataError, ConfigError, BundleError: see `medvit.release.prepare` and `medvit.bundle.build.export`.
    """
    from medvit.release import prepare
    from medvit.tracking import uploader
    from medvit.tracking.tags import bundle_tags

    release = prepare(settings["run"], Path(settings["tracking"]["folder"]), settings, settings["draft"])
    if uncoded := uncoded_findings(release.contents.labels):
        logger.warning(uncoded)
    done = release.write(Path(settings["out"]), settings["draft"])
    release.run.tags(bundle_tags(done.digest))
    uploader.follow(release.run.folder, server_of(settings["tracking"]))
    return done


@entry("export")
def main(settings: dict[str, Any]) -> None:
    """Run the command of conf/export.yaml."""
    from rich.console import Console

    done = export_by(settings)
    parity, use = done.parity, command_line("predict", {"bundle": settings["out"], "input": "DIR", "out": "NEW_DIR"})
    Console().print(
        f"bundle {done.digest[:12]}{' (DRAFT)' if settings['draft'] else ''} written; training and bundle differ by at"
        f" most {parity.probability:.1e} in probability over {parity.images} images (allowed 1e-5).\n"
        f"Use it: {anywhere(use)}",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
