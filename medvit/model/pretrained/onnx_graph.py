"""Read a plain ViT encoder out of an ONNX graph, whatever its exporter called the tensors.

Exporters fold and rename weights, but not the order of the network: a patch convolution, then per block a norm, query,
key and value, a projection, a norm and two linear layers. So every parameter is found by its shape and its place in the
graph, queries and keys by where they enter the attention. The names that were kept tell the family.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from medvit.errors import WeightsError
from medvit.model.pretrained.onnx_steps import Array, Graph, Step, steps

ACTIVATIONS = {"Erf": "gelu", "Gelu": "gelu", "Tanh": "gelu_tanh", "Sigmoid": "quick_gelu", "Relu": "relu"}


@dataclass(frozen=True)
class Encoder:
    """What was found: canonical tensors, and names in the graph.

    `kept` are the parameters' names in the graph, `left` those of parameters that belong to no encoder (a head);
    `tokens` and `attention` are the outputs of the last norm and of the first softmax.
    """

    tensors: dict[str, Array]
    kept: tuple[str, ...]
    left: tuple[str, ...]
    tokens: str
    attention: str
    eps: float
    act: str


class _Reader:
    """Takes the steps of a graph one after another and says where they are not those of a ViT."""

    def __init__(self, graph: Graph, found: list[Step], width: int) -> None:
        self.graph, self.left, self.width = graph, found, width
        self.tensors: dict[str, Array] = {}
        self.used: list[str] = []

    def next(self, kind: str, rows: int | None = None) -> bool:
        """Return whether the next step is of this kind and of `rows` outputs."""
        return bool(self.left) and self.left[0].kind == kind and rows in {None, self.left[0].weight.shape[0]}

    def take(self, kind: str, name: str, rows: int | None = None) -> Step:
        """Take the next step as the layer `name`; raises WeightsError where it is another one."""
        if not self.next(kind, rows):
            shape = f"{self.left[0].kind} {self.left[0].weight.shape}" if self.left else "the end of the graph"
            raise WeightsError(
                f"the ONNX graph is of another architecture than a plain ViT: {name} should be a {kind}"
                f"{f' of {rows} outputs' if rows else ''}, and there is {shape}; ask for safetensors"
            )
        step = self.left.pop(0)
        self.store(name, step.weight, step.bias)
        self.used += step.used
        return step

    def store(self, name: str, weight: Array, bias: Array | None) -> None:
        """Keep a layer's parameters under its canonical name."""
        word = "gamma" if name.endswith(("ls1", "ls2")) else "weight"
        self.tensors[f"{name}.{word}"] = weight
        self.tensors |= {} if bias is None else {f"{name}.bias": bias}

    def block(self, number: int) -> None:
        """Take one block."""
        name, width = f"blocks.{number}", self.width
        self.take("norm", f"{name}.norm1", width)
        if self.next("linear", 3 * width):
            self.take("linear", f"{name}.attn.qkv")
        else:
            parts = [self.take("linear", f"{name}.attn.{each}", width) for each in "qkv"]
            roles = _roles(self.graph, [part.output for part in parts])
            for each, role in zip("qkv", roles, strict=True):
                self.tensors.pop(f"{name}.attn.{each}.bias", None)
                self.store(f"{name}.attn.{each}", parts[role].weight, parts[role].bias)
            rows = [self.tensors.pop(f"{name}.attn.{each}.weight") for each in "qkv"]
            shifts = [self.tensors.pop(f"{name}.attn.{each}.bias", None) for each in "qkv"]
            filled = [np.zeros(width, np.float32) if shift is None else shift for shift in shifts]
            biased = any(shift is not None for shift in shifts)
            self.store(f"{name}.attn.qkv", np.concatenate(rows), np.concatenate(filled) if biased else None)
        self.take("linear", f"{name}.attn.proj", width)
        if self.next("scale", width):
            self.take("scale", f"{name}.ls1")
        self.take("norm", f"{name}.norm2", width)
        self.take("linear", f"{name}.mlp.fc1")
        self.take("linear", f"{name}.mlp.fc2", width)
        if self.next("scale", width):
            self.take("scale", f"{name}.ls2")


def _roles(graph: Graph, outputs: list[str]) -> list[int]:
    """Return which of three products is query, key and value: by their way into and past the softmax."""
    ends = frozenset(outputs)

    def origin(name: str) -> int | None:
        return next((outputs.index(at) for at in graph.before(name, ends) if at in ends), None)

    for node in graph.nodes:
        if node.op_type != "Softmax" or origin(node.input[0]) is None:
            continue
        scores = next(
            (
                made
                for at in graph.before(node.input[0], ends)
                if (made := graph.maker.get(at)) and made.op_type == "MatMul"
            ),
            None,
        )
        query, key = (origin(name) for name in scores.input) if scores is not None else (None, None)
        rest = {0, 1, 2} - {query, key}
        if query is not None and key is not None and len(rest) == 1:
            return [query, key, rest.pop()]
    raise WeightsError(
        "the ONNX graph is of another architecture than a plain ViT: its attention has no softmax of q k'"
    )


def read(model: Any) -> Encoder:
    """Return the encoder in a graph; raises WeightsError where the graph is not that of a plain ViT."""
    graph = Graph(model)
    found = steps(graph)
    first = next((i for i, step in enumerate(found) if step.kind == "conv" and step.weight.shape[-1] > 1), None)
    if first is None:
        raise WeightsError("the ONNX graph is of another architecture than a plain ViT: no patch convolution in it")
    reader = _Reader(graph, found[first:], found[first].weight.shape[0])
    patches = reader.take("conv", "patch_embed.proj")
    if len(reader.left) > 1 and [step.kind for step in reader.left[:2]] == ["norm", "norm"]:
        reader.take("norm", "norm_pre")
    depth = 0
    while depth == 0 or (reader.next("norm") and reader.left[1:2] and reader.left[1].kind == "linear"
                         and reader.left[1].weight.shape[1] == reader.width and len(reader.left) > 6):  # fmt: skip
        reader.block(depth)
        depth += 1
    last = reader.take("norm", "norm", reader.width)
    inside = set(graph.before(last.output))
    _tokens(graph, reader, inside, patches.output)
    parameters = [
        n for n, tensor in graph.stored.items() if len(tensor.dims) and max(tensor.dims) > 1 and n in graph.users
    ]
    softmax = next(node.output[0] for node in graph.nodes if node.op_type == "Softmax" and node.output[0] in inside)
    return Encoder(
        tensors={name: np.ascontiguousarray(tensor) for name, tensor in reader.tensors.items()},
        kept=tuple(name for name in reader.used if "::" not in name and not name.startswith("/")),
        left=tuple(n for n in parameters if n not in inside and graph.constant(n) is not None),
        tokens=last.output,
        attention=softmax,
        eps=_eps(graph, inside),
        act=_activation(graph, inside, depth),
    )


def _tokens(graph: Graph, reader: _Reader, inside: set[str], patches: str) -> None:
    """Find class token, registers and positions: what is joined to the patches, and what is added to them."""
    behind = {patches}
    for node in graph.nodes:
        if node.op_type != "Shape" and behind & set(node.input):
            behind.update(node.output)
    joined = [node for node in graph.nodes if node.op_type == "Concat" and node.output[0] in behind]
    tokens: list[tuple[Array, str]] = []
    for node in joined:
        for name in node.input:
            ends = frozenset(graph.stored)
            sources = [] if name in behind else [at for at in graph.before(name, ends) if at in ends]
            rows = [found for at in sources if (found := graph.constant(at)) and found[0].shape[-1:] == (reader.width,)]
            tokens += [each for each in rows if each[1] not in reader.used]
            reader.used += [each[1] for each in rows]
    reader.tensors |= {name: rows for name, (rows, _) in zip(("cls_token", "reg_token"), tokens, strict=False)}
    rest = [graph.constant(name) for name in graph.stored if name in inside and name not in reader.used]
    tables = [each for each in rest if each is not None and each[0].ndim > 1 and each[0].shape[-1] == reader.width]
    reader.used += [name for _, name in tables]
    if tables:
        ordered = sorted((table.reshape(-1, reader.width) for table, _ in tables), key=len)
        reader.tensors["pos_embed"] = np.concatenate(ordered)[None]


def _eps(graph: Graph, inside: set[str]) -> float:
    for node in graph.nodes:
        if node.output[0] not in inside:
            continue
        if node.op_type == "LayerNormalization":
            return float(next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5))
        if node.op_type == "Sqrt":
            added = graph.maker.get(node.input[0])
            found = [graph.constant(name) for name in added.input] if added is not None else []
            scalars = [float(each[0].reshape(-1)[0]) for each in found if each is not None and each[0].size == 1]
            if scalars:
                return scalars[0]
    return 1e-6


def _activation(graph: Graph, inside: set[str], depth: int) -> str:
    counts = Counter(node.op_type for node in graph.nodes if node.output[0] in inside)
    found = next((word for op, word in ACTIVATIONS.items() if counts[op] >= depth), None)
    if found is None:
        raise WeightsError(
            "the ONNX graph is of another architecture than a plain ViT: no activation that is known in it"
        )
    tanh = any(each.s == b"tanh" for node in graph.nodes if node.op_type == "Gelu" for each in node.attribute)
    return "gelu_tanh" if tanh else found
