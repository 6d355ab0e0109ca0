"""The encoder of a bundle of the MONAI Model Zoo as a start: read as data, nothing of it is run.

Of the bundle's config only the network's class and its arguments are taken: a class of MONAI that stands in `NETWORKS`,
literals, and references to literals. An expression (`$...`) is refused, and so is a class of the bundle's own scripts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from torch import nn

from medvit.config_words import nearest
from medvit.errors import ConfigError, WeightsError
from medvit.model.custom.backbone import CustomBackbone, assemble, statistics_of
from medvit.model.custom.features import features_of
from medvit.model.custom.weights import Found
from medvit.model.pretrained import convert, store

log = logging.getLogger(__name__)
NETWORKS = ("DenseNet121", "DenseNet169", "DenseNet201", "DenseNet264", "SegResNet", "SwinUNETR", "ViT")
_GONE = {"SwinUNETR": ("img_size",)}  # arguments that MONAI took once and that changed no weight
_RENAMED = {"ViT": {"pos_embed": "proj_type"}}  # by MONAI, since some bundles were written
_CONFIGS = ("inference.json", "inference.yaml", "train.json", "train.yaml", "inference.yml", "train.yml")
_WEIGHTS = ("model.safetensors", "model.pt")


def monai_bundle(
    image_size: Sequence[int],
    weights: str | None = None,
    network: Mapping[str, Any] | None = None,
    in_channels: int = 1,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> CustomBackbone:
    """Return the encoder of the bundle in the folder `weights`, for images of `image_size`.

    `network`: arguments that take the place of the config's, where these are expressions. Without `weights` the network
    is random: `network` then says all, its `name` too. `mean`, `std`: as of `custom_backbone`.
    Raises ConfigError: no bundle, another network, an expression; WeightsError: weights that do not fit, or a pickle
    that would run code.
    """
    given = dict(network or {})
    if weights is None and "name" not in given:
        raise ConfigError("model=monai_bundle needs model.weights=FOLDER of a bundle, with configs/ and models/ in it")
    folder = None if weights is None else Path(weights).expanduser()
    described = {} if folder is None else _described(folder, given)
    arguments = {**described, **given}
    name = str(arguments.pop("name"))
    if name not in NETWORKS:
        raise ConfigError(f"bundle: the network is {name}; medvit takes {', '.join(NETWORKS)}{nearest(name, NETWORKS)}")
    built = _built(name, arguments)
    found = None if folder is None else _weights(folder)
    statistics = statistics_of(mean, std, in_channels)
    backbone = assemble(built, image_size, features_of(built), statistics, found, in_channels)
    if folder is not None:
        about = _metadata(folder)
        backbone.provenance |= {"family": f"MONAI bundle {about['name']}", "revision": about["version"]}
    backbone.scratch = {"weights": None, "network": {"name": name, **arguments}}
    return backbone


def _built(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    from monai.networks import nets

    now = _RENAMED.get(name, {})
    kept = {now.get(key, key): value for key, value in arguments.items() if key not in _GONE.get(name, ())}
    try:
        made: nn.Module = getattr(nets, name)(**kept)
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"bundle: {name} cannot be built of {kept}: {said[0]}") from error
    return made


def _described(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return name and arguments of the network of a bundle; those in `given` may be anything there.

    Raises:
        ConfigError: no bundle, no network in it, a class that is not MONAI's, or expressions.
    """
    file = next((folder / "configs" / name for name in _CONFIGS if (folder / "configs" / name).is_file()), None)
    if file is None:
        raise ConfigError(
            f"model.weights={folder.name}: no bundle of MONAI; expected configs/inference.json (or train.json, or "
            "YAML) and models/model.pt in the folder"
        )
    text = file.read_text(encoding="utf-8")
    config: Any = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    node = next((config[key] for key in ("network_def", "network", "net") if _is_part(config.get(key))), None)
    if node is None:
        raise ConfigError(f"bundle: {file.name} has no network_def with a _target_")
    target, own = str(node["_target_"]), {key: value for key, value in node.items() if not key.startswith("_")}
    module, _, name = target.rpartition(".")
    if module and not module.startswith("monai.networks.nets"):
        raise ConfigError(f"bundle: its network is {target}, code of its own, which is never run; use model=custom")
    arguments = {key: _literal(value, config) for key, value in own.items() if key not in given}
    if run := [f"{key}={value}" for key, value in arguments.items() if _is_expression(value)]:
        raise ConfigError(
            f"bundle: {', '.join(run)} would have to be run, and medvit runs nothing of a bundle; give what it stands "
            "for: " + " ".join(f"+model.network.{each.partition('=')[0]}=..." for each in run)
        )
    return {"name": name, **arguments}


def _is_part(node: Any) -> bool:
    return isinstance(node, dict) and "_target_" in node


def _is_expression(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_is_expression(one) for one in value)
    if isinstance(value, dict):
        return any(_is_expression(one) for one in value.values())
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def _literal(value: Any, config: Mapping[str, Any], depth: int = 8) -> Any:
    """Return a value with its references (`@key`, `@key::part`, also with `#`) replaced by what stands there."""
    if isinstance(value, list):
        return [_literal(one, config, depth) for one in value]
    if not isinstance(value, str) or not value.startswith("@") or depth == 0:
        return value
    found: Any = config
    for word in value[1:].replace("#", "::").split("::"):
        found = found[int(word)] if isinstance(found, list) and word.isdigit() else dict(found or {}).get(word, value)
        if found is value:
            return value
    return _literal(found, config, depth - 1)


def _weights(folder: Path) -> Found:
    """Return the tensors of a bundle; a pickle is opened for tensors alone.

    Raises:
        WeightsError: no weights, an unreadable file, or one that needs code.
    """
    file = next((folder / "models" / name for name in _WEIGHTS if (folder / "models" / name).is_file()), None)
    if file is None:
        raise WeightsError(f"bundle: models/ holds none of {', '.join(_WEIGHTS)}: download the bundle whole")
    tensors = store.read(file)[0] if file.suffix == ".safetensors" else convert.tensors_of(file)
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return Found(str(folder), tensors, "", store.digest(file))


def _metadata(folder: Path) -> dict[str, str]:
    file = folder / "configs" / "metadata.json"
    said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {key: str(said.get(key, "")) for key in ("name", "version")}
