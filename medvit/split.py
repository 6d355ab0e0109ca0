"""`python -m medvit.split`: divide the patients of an indexed data set and freeze the division."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.config import entry

if TYPE_CHECKING:
    from medvit.data.splits import Splits


def split(folder: Path, **spec: Any) -> Splits:
    """Read `folder`/manifest.parquet, divide its patients, write `splits.parquet`, and log the balance of the sides.

    Raises:
        SplitError: see `medvit.data.splits.make`.
    """
    import logging

    from medvit.data import manifest as manifests
    from medvit.data import splits as division

    manifest = manifests.read(folder)
    made = division.make(manifest, division.SplitSpec(**{**spec, "balance": tuple(spec.get("balance", ()))}))
    made.write(folder)
    columns = [c for c in manifest.table.columns if str(c).startswith("label.")] + list(spec.get("balance", ()))
    fold = 0 if made.table["fold"].max() >= 0 else None
    table = division.balance_table(manifest, made, columns, fold)
    logging.getLogger(__name__).info(
        "%s\nsplit %s written", table.to_string(index=False, float_format="%.3f"), made.digest[:12]
    )
    return made


@entry("split")
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/split.yaml."""
    split(Path(settings["data"]["folder"]), **settings["split"])


if __name__ == "__main__":
    run()
