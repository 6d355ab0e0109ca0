"""Convert pickles and ONNX graphs to safetensors once; pack and unpack checkpoint directories."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medvit.errors import WeightsError
from medvit.model.pretrained import canonical, from_onnx, local_store, store

# What released files were seen to hold beside tensors: MAE's arguments, nnU-Net's scalars. None of these runs code.
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in ("float32", "float64", "int32", "int64", "bool")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]
WRAPPERS = ("state_dict", "model", "teacher", "ema", "model_ema", "module", "network_weights", "student")
PACKED = {*store.CONFIGS, store.SUMS, "LICENSE", "README.md"}


def convert(source: Path, target: Path, told: Mapping[str, Any] | None = None) -> str:
    """Write `target`/model.safetensors and config.json from an ONNX file, or a pickle read with weights_only=True.

    `told` is written to config.json, for what tensors cannot tell: medvit_family, num_attention_heads, mean and std.
    Returns one line of what was found. Raises WeightsError where the pickle needs code to run, holds no tensors, or no
    family fits them, and what `from_onnx.convert` raises.
    """
    origin = {"medvit_source": source.name, "medvit_source_sha256": store.digest(source)}
    config: dict[str, Any] = {**origin, **(told or {})}
    if source.suffix == ".onnx":
        return from_onnx.convert(source, target, config)
    tensors = tensors_of(source)
    if not tensors:
        raise WeightsError(f"{source.name} holds no tensors")
    found = canonical.read(tensors, config)
    store.write(target, tensors, config)
    guessed = "" if "num_attention_heads" in config else " (not in the file: 64 per head or by width)"
    patch = "x".join(map(str, found.patch))
    return (
        f"{len(tensors)} tensors, family {found.family.name}, width {found.width}, depth {found.depth}, "
        f"heads {found.heads}{guessed}, "
        f"patch {patch}"
    )


def tensors_of(source: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of torch.save, opened with weights_only=True; none where it holds none.

    Raises:
        WeightsError: a file that needs code to be opened, or is truncated.
    """
    return {key: value.detach().clone().contiguous() for key, value in _tensors(_unpickle(source)).items()}


def _unpickle(source: Path) -> Any:
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(source):
            raise WeightsError(
                f"{source.name} is no file of torch.save that can be opened without running code (an ONNX graph, or a "
                "pickle of an older kind): ask for safetensors, or load it where you trust it and save its state_dict"
            ) from error
        blocked = torch.serialization.get_unsafe_globals_in_checkpoint(source)
        raise WeightsError(
            f"{source.name} needs {', '.join(blocked[:5]) or 'unreadable parts'} to be opened, which could run code; "
            "medvit opens tensors only: ask for safetensors, or save the state_dict alone where you trust the file"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise WeightsError(f"{source.name} is truncated or no PyTorch file; copy it again") from error


def _tensors(content: Any) -> dict[str, Tensor]:
    """Return the state dict inside the usual wrappings; a teacher is preferred to its student."""
    if not isinstance(content, Mapping):
        return {}
    found = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if len(found) > 3:
        return found
    for name in WRAPPERS:
        inner = _tensors(content.get(name))
        if inner:
            return inner
    return found


def pack(source: str, target: Path) -> list[str]:
    """Write one uncompressed zip of a checkpoint directory (or hub id) with its checksums; return the names in it.

    Raises WeightsError for what is not here or is no directory.
    """
    home = store.locate(source)
    if not home.is_dir():
        raise WeightsError("pack needs a directory with config.json and safetensors, or a hub id")
    store.read(home)
    files = sorted(file for file in home.iterdir() if file.suffix == ".safetensors" or file.name in PACKED)
    sums = "".join(f"{store.digest(file)}  {file.name}\n" for file in files if file.name != store.SUMS)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(store.SUMS, sums)
        archive.writestr("NAME", source if store.HUB_ID.match(source) else home.name)
        for file in files:
            if file.name != store.SUMS:
                archive.write(file, file.name)
    return [file.name for file in files if file.name != store.SUMS]


def unpack(source: Path) -> str:
    """Put a packed checkpoint into the local store and return the name to load it by; checksums are verified.

    Raises WeightsError for a file that is no pack, holds a name or a path that a pack never has, or was altered.
    """
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{source.name} is truncated or no pack of medvit.weights; copy it again") from error
    with archive:
        names = archive.namelist()
        odd = [
            n for n in names if n not in {*PACKED, "NAME"} and (Path(n).suffix != ".safetensors" or Path(n).name != n)
        ]
        if odd or "NAME" not in names or store.SUMS not in names:
            raise WeightsError(f"{source.name} is no pack of medvit.weights ({odd[:3] or 'no NAME or SHA256SUMS'})")
        name = archive.read("NAME").decode()
        if not store.HUB_ID.match(name) and (Path(name).name != name or name in {"", ".", ".."}):
            raise WeightsError(f"{source.name} is no pack of medvit.weights (its NAME is no checkpoint name)")
        home = local_store.local(name)
        home.mkdir(parents=True, exist_ok=True)
        for member in names:
            if member != "NAME":
                with archive.open(member) as packed, (home / member).open("wb") as out:
                    while block := packed.read(1 << 22):
                        out.write(block)
    store.read(home)
    return name if store.HUB_ID.match(name) else str(home)
