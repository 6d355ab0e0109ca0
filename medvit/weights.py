"""`python -m medvit.weights`: turn pickles into safetensors once, carry and fetch checkpoints, list what is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from medvit.errors import MedvitError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of convert, pack, unpack, fetch, list, show; return the exit code of the error, or 0."""
    try:
        sys.stdout.write(run(_parser().parse_args(arguments)) + "\n")
    except MedvitError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    return 0


def run(asked: argparse.Namespace) -> str:
    """Do what was asked and return the text to show; raises WeightsError."""
    from medvit.model.pretrained import convert

    if asked.command == "convert":
        return convert.convert(asked.source, asked.target, asked.family, asked.heads)
    if asked.command == "pack":
        return f"{asked.target.name}: {', '.join(convert.pack(asked.source, asked.target))}"
    if asked.command == "unpack":
        return f"load it as {convert.unpack(asked.source)}"
    if asked.command == "fetch":
        return f"sha256 {convert.fetch(asked.source, asked.sha256)}"
    if asked.command == "show":
        from medvit.model.pretrained.load import load

        return load(asked.source).report
    return _list()


def _list() -> str:
    from medvit.model.pretrained import families, local_store

    known = families.table()
    lines = [f"{'checkpoint':60} {'family':22} {'size':>5} {'here':5} licence"]
    for name, row in known.checkpoints.items():
        here = "yes" if local_store.present(name) else "no"
        terms = row["licence"] + (" (gated)" if row.get("gated") else "")
        lines.append(f"{name:60} {row['family']:22} {row['image_size']:>5} {here:5} {terms}")
    lines += ["", f"{'family':22} licence; source"]
    lines += [f"{family.name:22} {family.licence}; {family.citation}" for family in known.families.values()]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medvit.weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="a pickle (.pt, .pth, .bin, .ckpt) to a directory with safetensors")
    convert.add_argument("source", type=Path)
    convert.add_argument("target", type=Path)
    convert.add_argument("--family", help="where the tensors cannot tell (see list)")
    convert.add_argument("--heads", type=int, help="attention heads, where it is not 64 channels per head")
    pack = commands.add_parser("pack", help="a directory or hub id to one file for a site without a network")
    pack.add_argument("source")
    pack.add_argument("target", type=Path)
    commands.add_parser("unpack", help="a packed file into the local store").add_argument("source", type=Path)
    fetch = commands.add_parser("fetch", help="id@revision from the hub into the local store")
    fetch.add_argument("source")
    fetch.add_argument("--sha256", help="refuse any other file")
    commands.add_parser("show", help="load a checkpoint and show the report").add_argument("source")
    commands.add_parser("list", help="checkpoints and families, with licences")
    return parser


if __name__ == "__main__":
    sys.exit(main())
