"""Scores every installed reader on the bad-input cases: `python -m benchmarks.silent_errors [--markdown] [--reader X]`.

The objects are made here, written to a temporary folder and read in a child process (6 GiB, 5 minutes a case), so that
a reader may crash. A warning counts if the user hears it: Python's warnings, logging, WARNING on the standard error.
"""

from __future__ import annotations

import argparse
from collections import Counter

from benchmarks.silent_errors.adapters import available
from benchmarks.silent_errors.judge import column
from benchmarks.silent_errors.score import NONE, POLICY, VERDICTS, Item, items


def totals(verdicts: dict[str, str], policy: bool) -> dict[str, int]:
    """Count the verdicts of the reader-level cases, or of the policy cases."""
    counts = Counter(value for id_, value in verdicts.items() if (id_[:4] in POLICY) == policy and value != NONE)
    return {"cases": counts.total(), **{name: counts[name] for name in VERDICTS}}


def tables(results: dict[str, dict[str, str]], table: dict[str, Item], markdown: bool) -> str:
    """Write totals and the verdict of every case."""
    blocks = []
    for policy, title in ((False, "Reader-level cases"), (True, "Policy cases (no reader's duty)")):
        rows = {name: totals(verdicts, policy) for name, verdicts in results.items()}
        lines = [[title, "cases", *VERDICTS], *([name, *map(str, row.values())] for name, row in rows.items())]
        blocks.append(_grid(lines, markdown))
    lines = [["", "input", *results]]
    lines += [[id_, item.what, *(verdicts[id_] for verdicts in results.values())] for id_, item in table.items()]
    return "\n\n".join([*blocks, _grid(lines, markdown)])


def _grid(lines: list[list[str]], markdown: bool) -> str:
    if markdown:
        marked = [f"| {' | '.join(line)} |" for line in lines]
        return "\n".join([marked[0], "|" + "---|" * len(lines[0]), *marked[1:]])
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.silent_errors", description=__doc__)
    options.add_argument("--markdown", action="store_true")
    options.add_argument("--reader", action="append", choices=available(), help="only this one; may be repeated")
    options.add_argument("--case", action="append", help="only this one; may be repeated")
    chosen = options.parse_args()
    table = {id_: item for id_, item in items().items() if not chosen.case or id_ in chosen.case}
    results = {reader: column(reader, table) for reader in chosen.reader or available()}
    print(tables(results, table, chosen.markdown))


if __name__ == "__main__":
    main()
