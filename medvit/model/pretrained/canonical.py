"""Convert a checkpoint's tensors to the layout of `ViT`: names, fused products, prefix rows, and its architecture."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medvit.errors import WeightsError
from medvit.model.design import Architecture
from medvit.model.pretrained import families
from medvit.model.pretrained.families import Family

ACTS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "swish": "silu"}
POOLS = {"token": "cls", "tok": "cls", "avg": "mean", "map": "map"}

State = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in canonical layout: encoder tensors, the head it came with, and the numbers of its design.

    `assumed` says what neither file nor user told, for the report; "" where everything was. `normalised` is whether
    anything tells what its images were normalised with: its files (`stated`), or the names of its family.
    """

    family: Family
    state: State
    head: State
    patch: tuple[int, ...]
    channels: int
    width: int
    depth: int
    heads: int
    grid: tuple[int, ...] | None
    design: Architecture
    pool: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dropped: tuple[str, ...]
    labels: tuple[str, ...] = ()
    multilabel: bool = False
    assumed: str = ""
    stated: bool = True
    normalised: bool = True


def read(tensors: Mapping[str, Tensor], config: Mapping[str, Any], heads: int | None = None) -> Checkpoint:
    """Return the canonical checkpoint of a file's tensors and its config.json.

    `heads` is used where the config does not say. Raises WeightsError for an unknown family, a head count that is
    contradicted or does not divide the width, and a position table that fits no grid.
    """
    config = _flatten(config)
    family = families.detect(tensors, config)
    state, dropped = _rename(tensors)
    _fuse(state)
    if "patch_embed.weight" not in state or "blocks.0.attn.qkv.weight" not in state:
        raise WeightsError(
            f"family {family.name}: no patch embedding or no block 0 among {len(tensors)} tensors, "
            f"such as {', '.join(sorted(tensors)[:4])}"
        )
    kernel = _kernel(state, config)
    state["patch_embed.weight"] = kernel
    width, channels, patch = kernel.shape[0], kernel.shape[1], tuple(kernel.shape[2:])
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    grid = _fold_prefix(state, config, patch)
    relative = state.pop("relative", None)
    if relative is not None:
        state.update({f"blocks.{i}.relative": relative.clone() for i in range(depth)})
    head = {key.removeprefix("head."): state.pop(key) for key in list(state) if key.startswith("head.")}
    pool = POOLS.get(str(config.get("global_pool", "")), family.pool)
    pool = "mean" if "norm.weight" in head else "map" if "map.probe" in head else pool
    statistics = {"mean": family.mean, "std": family.std} if len(patch) == 2 else {"mean": (0.0,), "std": (1.0,)}
    mean, std = (tuple(float(v) for v in config.get(key, statistics[key])) for key in ("mean", "std"))
    names = config.get("id2label") or {}
    found = _heads(config, width, heads)
    assumed = []
    if heads is None and "num_attention_heads" not in config:
        assumed.append(f"{found} heads assumed by the width (model.heads=... says otherwise)")
    if family.assumed and "mean" not in config:
        assumed.append(
            f"mean {mean[0]:g}, std {std[0]:g} and epsilon {family.eps:g} assumed, as most with such names have "
            "(preprocess.mean, preprocess.std, layer_norm_eps in config.json say otherwise)"
        )
    return Checkpoint(
        family=family,
        state=state,
        head=head,
        patch=patch,
        channels=channels,
        width=width,
        depth=depth,
        heads=found,
        grid=grid,
        design=_design(state, config, family),
        pool=pool,
        mean=mean if len(mean) == channels else mean[:1] * channels,
        std=std if len(std) == channels else std[:1] * channels,
        dropped=tuple(dropped),
        labels=tuple(str(names[key]) for key in sorted(names, key=int)),
        multilabel=config.get("problem_type") == "multi_label_classification",
        assumed="; ".join(assumed),
        stated="mean" in config,
        normalised="mean" in config or not family.assumed,
    )


def _flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """One flat mapping from the nested words of Hugging Face, timm and open_clip."""
    flat = dict(config)
    flat.update(config.get("pretrained_cfg") or {})
    flat.update(config.get("model_args") or {})
    flat.update(config.get("vision_config") or {})
    clip = config.get("model_cfg") or {}
    vision = dict(clip.get("vision_cfg") or {})
    flat.update(vision)
    flat.update(config.get("preprocess_cfg") or {})
    if clip.get("quick_gelu"):
        flat["hidden_act"] = "quick_gelu"
    if "timm_model_name" in vision:
        flat["architecture"] = vision["timm_model_name"]
    elif vision:
        flat["num_attention_heads"] = int(vision["width"]) // int(vision.get("head_width", 64))
    renamed = {"num_heads": "num_attention_heads", "img_size": "image_size", "image_mean": "mean", "image_std": "std"}
    return {renamed.get(key, key): value for key, value in flat.items()}


def _rename(tensors: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    towers = [prefix for prefix in ("visual.", "vision_model.") if any(key.startswith(prefix) for key in tensors)]
    state: State = {}
    dropped: list[str] = []
    for key, tensor in tensors.items():
        name = None if towers and not key.startswith(towers[0]) else families.rename(key)
        if name is None:
            dropped.append(key)
        elif name in state:
            raise WeightsError(f"tensors {key} and another one are both {name} here; the file holds two encoders")
        else:
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state, dropped


def _fuse(state: State) -> None:
    """Fuse q, k, v and gate, value; fill the missing k bias with zeros; apply DINOv3's bias mask."""
    for block in sorted({m.group(0) for key in state if (m := re.match(r"(?:blocks\.\d+|head\.map)\.", key))}):
        for kind, parts in (("weight", "qkv"), ("bias", "qkv")):
            found = {part: state.pop(f"{block}attn.{part}.{kind}", None) for part in parts}
            joint = state.pop(f"{block}attn.kv.{kind}", None)
            query = found["q"]
            if joint is not None and query is not None:
                state[f"{block}attn.qkv.{kind}"] = torch.cat([query, joint])
            elif query is not None:
                filled = [torch.zeros_like(query) if part is None else part for part in found.values()]
                state[f"{block}attn.qkv.{kind}"] = torch.cat(filled)
            gate, value = state.pop(f"{block}mlp.gate.{kind}", None), state.pop(f"{block}mlp.up.{kind}", None)
            if gate is not None and value is not None:
                state[f"{block}mlp.fc1.{kind}"] = torch.cat([gate, value])
            elif value is not None:  # DINOv3 without a gate calls its first layer up_proj
                state[f"{block}mlp.fc1.{kind}"] = value
        mask = state.pop(f"{block}attn.qkv.bias_mask", None)
        if mask is not None:
            bias = state[f"{block}attn.qkv.bias"]
            state[f"{block}attn.qkv.bias"] = torch.where(mask == 0, torch.zeros_like(bias), bias)


def _kernel(state: State, config: Mapping[str, Any]) -> Tensor:
    """Return the patch kernel [W C *patch]; MONAI's linear one has its columns as (patch axes, channel)."""
    weight = state["patch_embed.weight"]
    if weight.ndim > 2:
        return weight
    channels = int(config.get("num_channels", config.get("in_channels", 1)))
    patch = config.get("patch_size")
    if patch is None:
        side = round((weight.shape[1] / channels) ** (1 / 3))
        patch = [side] * 3
    sides = [int(side) for side in (patch if isinstance(patch, list | tuple) else [patch] * 3)]
    if math.prod(sides) * channels != weight.shape[1]:
        raise WeightsError(
            f"linear patch embedding of {weight.shape[1]} columns is no patch {sides} of {channels} channels; "
            "say patch_size and num_channels in config.json"
        )
    return weight.reshape(-1, *sides, channels).movedim(-1, 1).contiguous()


def _fold_prefix(state: State, config: Mapping[str, Any], patch: tuple[int, ...]) -> tuple[int, ...] | None:
    """Join class, distillation and register tokens, add their position rows to them, and return the patch grid."""
    tokens = [state.pop(f"{name}_token", None) for name in ("cls", "dist", "reg")]
    rows = [token.reshape(-1, token.shape[-1]) for token in tokens if token is not None]
    size = config.get("image_size", config.get("input_size"))
    grid: tuple[int, ...] | None = None
    if size is not None:
        sides = [int(s) for s in size][-len(patch) :] if isinstance(size, list | tuple) else [int(size)] * len(patch)
        grid = tuple(side // p for side, p in zip(sides, patch, strict=True))
    prefix = torch.cat(rows) if rows else None
    table = state.pop("pos_embed", None)
    if table is not None:
        table = table.reshape(-1, table.shape[-1])
        grid, extra = _grid_of(
            len(table), grid, 0 if prefix is None else len(prefix), len(patch), tokens[0] is not None
        )
        if prefix is not None and extra:
            prefix = torch.cat([prefix[:extra] + table[:extra], prefix[extra:]])
        state["pos_embed"] = table[extra:].clone()
    bias = next((state[key] for key in ("relative", "blocks.0.relative") if key in state), None)
    if bias is not None:
        grid = ((round((len(bias) - 3) ** (1 / len(patch))) + 1) // 2,) * len(patch)
    if prefix is not None:
        state["prefix_token"] = prefix
    return grid


def _grid_of(
    rows: int, said: tuple[int, ...] | None, prefix: int, axes: int, has_class: bool
) -> tuple[tuple[int, ...], int]:
    """Return the grid of a position table and how many of its first rows belong to prefix tokens."""
    for extra in dict.fromkeys((int(has_class), prefix, 0)):
        if said is not None and math.prod(said) == rows - extra:
            return said, extra
    for extra in dict.fromkeys((int(has_class), prefix, 0)):
        side = round((rows - extra) ** (1 / axes))
        if side**axes == rows - extra and said is None:
            return (side,) * axes, extra
    raise WeightsError(
        f"position table of {rows} rows fits no grid of {axes} axes with {prefix} prefix tokens"
        + (f" (config.json: {said})" if said else "; say image_size in config.json")
    )


def _heads(config: Mapping[str, Any], width: int, asked: int | None) -> int:
    said = config.get("num_attention_heads")
    if said is not None and asked is not None and int(said) != asked:
        raise WeightsError(f"heads: {asked} asked, the checkpoint has {said}; leave heads out or set {said}")
    heads = int(said or asked or families.table().heads_by_width.get(width, max(width // 64, 1)))
    if width % heads:
        near = min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - heads))
        raise WeightsError(f"heads: {heads} does not divide the width {width}; nearest that does: {near}")
    return heads


def _design(state: State, config: Mapping[str, Any], family: Family) -> Architecture:
    """Return what shapes and names tell, and the family's or config's word for what they cannot."""
    hidden, columns = state["blocks.0.mlp.fc1.weight"].shape[0], state["blocks.0.mlp.fc2.weight"].shape[1]
    gated = hidden == 2 * columns
    act = str(config.get("hidden_act", family.act))
    act = ACTS.get(act, act)
    if gated and family.gated_act:
        act = family.gated_act
    scale = state.get("blocks.0.ls1.gamma")
    rope = config.get("rope_parameters") or {}
    return Architecture(
        prefix=len(state["prefix_token"]) if "prefix_token" in state else 0,
        mlp=columns,
        act=act,
        gated=gated,
        mlp_norm="blocks.0.mlp.norm.weight" in state,
        attn_norm="blocks.0.attn.norm.weight" in state,
        qk_norm="blocks.0.attn.q_norm.weight" in state,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        patch_bias="patch_embed.bias" in state,
        layer_scale=None if scale is None else float(scale.abs().mean()),
        pre_norm="norm_pre.weight" in state,
        norm="norm.weight" in state,
        eps=float(config.get("layer_norm_eps", family.eps)),
        positions="learned" if "pos_embed" in state else "none",
        interpolation=family.interpolation,
        offset=family.offset,
        rope=family.rope,
        theta=float(config.get("rope_theta", rope.get("rope_theta", family.theta))),
        reference=family.reference,
        relative="blocks.0.relative" in state,
    )
