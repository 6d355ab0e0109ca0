"""Locate checkpoint files, offline first: a directory, a file, or a hub id in the local store or the hub's cache."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medvit.errors import WeightsError
from medvit.model.pretrained import catalogue, families
from medvit.model.pretrained.local_store import OWN, local

HUB_ID = re.compile(r"^(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[0-9a-f]{40}))?$")
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".tar", ".pkl", ".pickle"}
CONFIGS = ("config.json", "open_clip_config.json", "preprocessor_config.json")
SUMS = "SHA256SUMS"


def public_name(source: str) -> str:
    """Return the hub id, or "local" for anything on disk: a path may hold what a log must not."""
    named = HUB_ID.match(source) and not source.startswith(OWN) and not Path(source).expanduser().exists()
    return source if named else "local"


def revision(source: str, path: Path) -> str:
    """Return the commit of a hub checkpoint: as asked for, or as the hub's cache names its folder; "" if unknown."""
    match = HUB_ID.match(source)
    if match and match["revision"]:
        return str(match["revision"])
    return path.name if re.fullmatch(r"[0-9a-f]{40}", path.name) else ""


def locate(source: str) -> Path:
    """Return the file or directory of `source`, never from the network.

    A hub id is looked for in the store, then in the cache of huggingface_hub. WeightsError says how to get it.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    match = HUB_ID.match(source)
    known = catalogue.table()
    if match is None or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise WeightsError(
            f"weights: no file, directory or hub id {path.name!r} here; {families.nearest(source, known)}"
        )
    if local(source).is_dir():
        return local(source)
    cached = _hub_cache(match["id"], match["revision"])
    if cached is not None:
        return cached
    entry = known.get(match["id"])
    gate = " It is gated: accept its terms on the hub and log in there first." if entry and entry.gated else ""
    hint = "" if entry else f" It is no id medvit has a name for; {families.nearest(match['id'], known)}."
    asked = match["id"] if entry and entry.source != "hub" else f"{match['id']}@REVISION"
    raise WeightsError(
        f"weights: {match['id']} is not on this machine, and training never downloads.{gate}{hint} With a network: "
        f"python -m medvit.weights fetch {asked}; without: pack it elsewhere, then "
        "python -m medvit.weights unpack FILE"
    )


def _hub_cache(hub_id: str, revision: str | None) -> Path | None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Return tensors, merged config and sha256 of a safetensors file or of a directory that holds one.

    Raises WeightsError for a pickle (never opened), a truncated file, several candidates, or a wrong checksum.
    """
    files = _files(path)
    home = path if path.is_dir() else path.parent
    config: dict[str, Any] = {}
    for name in CONFIGS:
        if (home / name).is_file() and (path.is_dir() or name == "config.json"):
            config = {**json.loads((home / name).read_text(encoding="utf-8")), **config}
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as handle:
                tensors.update({key: handle.get_tensor(key) for key in handle.keys()})  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise WeightsError(f"{file.name} is truncated or no safetensors file ({error}); copy it again") from error
    return tensors, config, verify(home, files)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        shards = [file for file in found if re.search(r"-\d{5}-of-\d{5}\.safetensors$", file.name)]
        named = [file for file in found if file.name in {"model.safetensors", "open_clip_model.safetensors"}]
        chosen = shards or named or found
        if len(chosen) == 1 or shards:
            return chosen
        if chosen:
            raise WeightsError(f"several checkpoints: {', '.join(f.name for f in chosen)}; give one file")
        pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
        if not pickles:
            raise WeightsError(f"directory {path.name!r} holds no .safetensors file")
        path = path / pickles[0]
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix in PICKLES or start[:2] in {b"PK", b"\x80\x02"}:
        raise WeightsError(
            f"{path.name} is a pickle, which can run code when it is opened; convert it once: "
            f"python -m medvit.weights convert {shlex.quote(path.name)} DIR"
        )
    return [path]


def refuse_misfits(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], name: str) -> None:
    """Raise WeightsError for tensors of the checkpoint `name` that are missing, unexpected or of another shape."""
    unused = sorted(set(given) - set(expected))
    problems = []
    for key in sorted(set(expected) - set(given)):
        near = get_close_matches(key, unused, 1)
        problems.append(f"missing {key}" + (f" (nearest unused: {near[0]})" if near else ""))
    problems += [f"unexpected {key}" for key in unused]
    problems += [
        f"{key} is {tuple(given[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in given and given[key].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise WeightsError(f"{name}: {'; '.join(problems[:12])}{more}")


def digest(file: Path) -> str:
    """Return the sha256 of a file, hex."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def verify(home: Path, files: list[Path]) -> str:
    """Return the sha256 of the first file; WeightsError where SHA256SUMS beside the files says otherwise."""
    sums = {file.name: digest(file) for file in files}
    record = home / SUMS
    if record.is_file():
        pairs = (line.split("  ", 1) for line in record.read_text(encoding="utf-8").splitlines())
        said = {name: value for value, name in pairs}
        wrong = [name for name, value in sums.items() if said.get(name, value) != value]
        if wrong:
            raise WeightsError(f"{', '.join(wrong)}: sha256 is not the one in {SUMS}; the file was altered or cut")
    return sums[files[0].name]


def write(home: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a checkpoint directory: model.safetensors, config.json and their checksums."""
    home.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), home / "model.safetensors", metadata={"format": "pt"})
    (home / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    write_sums(home)


def write_sums(home: Path) -> None:
    """Write SHA256SUMS for every file of a checkpoint directory."""
    files = sorted(file for file in home.iterdir() if file.is_file() and file.name != SUMS)
    (home / SUMS).write_text("".join(f"{digest(file)}  {file.name}\n" for file in files), encoding="utf-8")
