"""Convert an ONNX file to a checkpoint directory, and check that both give the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medvit.errors import WeightsError
from medvit.model.pretrained import canonical, families, onnx_graph, onnx_steps, store

LIMIT = 1e-3
"""Largest difference of a token's channel here and in onnxruntime, in standard deviations of the tokens."""


def convert(source: Path, target: Path, config: Mapping[str, Any]) -> str:
    """Write `target` from the encoder in an ONNX file and `config`; return one line of what was found and left behind.

    The graph runs once in onnxruntime on random pixels; nothing is written unless the tokens of both agree.

    Raises:
        WeightsError: no ONNX file, quantised or absent weights, another architecture, other tokens.
    """
    model = onnx_steps.load(source)
    encoder = onnx_graph.read(model)
    size = _size(model, encoder, config)
    pixels = np.random.default_rng(0).standard_normal((1, encoder.tensors["patch_embed.proj.weight"].shape[1], *size))
    said, heads = run(model, encoder, pixels.astype(np.float32))
    tensors = {name: torch.from_numpy(array.copy()) for name, array in encoder.tensors.items()}
    found = {
        "medvit_family": families.detect(encoder.kept, {}).name if _told(encoder) else "timm-keys",
        "num_attention_heads": heads,
        "layer_norm_eps": round(encoder.eps, 12),
        "hidden_act": encoder.act,
        **config,
    }
    checkpoint = canonical.read(tensors, found)
    furthest = _difference(checkpoint, size, pixels.astype(np.float32), said)
    if furthest > LIMIT:
        raise WeightsError(
            f"{source.name}: the encoder read from the graph gives other tokens than onnxruntime (furthest "
            f"{furthest:.2g} of their standard deviation, allowed {LIMIT:g}): the graph is of another architecture, or "
            "changes the pixels itself. Ask for safetensors"
        )
    store.write(target, tensors, found)
    left = sorted({name.rsplit(".", 1)[0] for name in encoder.left})
    behind = f"; left behind, of no encoder: {', '.join(left[:6])}" + " ..." * (len(left) > 6) if left else ""
    return (
        f"{len(tensors)} tensors, family {checkpoint.family.name}, width {checkpoint.width}, depth {checkpoint.depth}, "
        f"heads {heads}, patch {'x'.join(map(str, checkpoint.patch))}, tokens as onnxruntime's ({furthest:.1e})"
        f"{behind}"
    )


def run(model: Any, encoder: onnx_graph.Encoder, pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """Return the tokens [B N W] (or [B W]) of the graph's own last norm for `pixels`, and its attention heads."""
    import onnx
    import onnxruntime

    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    for name in (encoder.tokens, encoder.attention):
        asked.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])
    tokens, attention = session.run(None, {session.get_inputs()[0].name: pixels})
    return tokens, int(attention.shape[1]) if attention.ndim == 4 else 1


def _told(encoder: onnx_graph.Encoder) -> bool:
    """Return whether the names that the graph kept tell a family, not only that there are blocks."""
    try:
        return not families.detect(encoder.kept, {}).assumed
    except WeightsError:
        return False


def _size(model: Any, encoder: onnx_graph.Encoder, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the sides of the graph's input, or where it takes any, those of its positions."""
    patch = encoder.tensors["patch_embed.proj.weight"].shape[2:]
    sides = [each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim][2:]
    if len(sides) == len(patch) and all(sides):
        return tuple(sides)
    rows = encoder.tensors.get("pos_embed", np.zeros((1, 197, 1))).shape[1]
    side = round((rows - 1) ** (1 / len(patch)))
    asked = config.get("image_size")
    return tuple(int(asked) if asked else side * p for p in patch)


def _difference(
    checkpoint: canonical.Checkpoint, size: tuple[int, ...], pixels: NDArray[np.float32], said: NDArray[np.float32]
) -> float:
    from medvit.model.pretrained.load import encoder_of

    vit = encoder_of(checkpoint, size).eval()
    with torch.inference_mode():
        tokens = vit(torch.from_numpy(pixels))
    ours = torch.cat([tokens.prefix, tokens.patches], dim=1).numpy()
    ours = ours[:, 0] if said.ndim == 2 else ours
    if ours.shape != said.shape:
        return float("inf")
    return float(np.abs(ours - said).max() / max(float(said.std()), 1e-12))
