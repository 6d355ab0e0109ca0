"""An ONNX graph as a row of layers with parameters: convolutions, norms, products and scales in their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.errors import WeightsError

Array = NDArray[Any]
QUANTISED = ("QuantizeLinear", "DequantizeLinear", "Integer", "QLinear", "NBits", "QAttention", "QGemm")


@dataclass(frozen=True)
class Step:
    """One layer with parameters: conv, norm, linear (`weight` is [out, in]) or scale; `output` is its result's name."""

    kind: str
    output: str
    weight: Array
    bias: Array | None
    used: tuple[str, ...]


def load(file: Path) -> Any:
    """Return the model of an ONNX file; raises WeightsError for what is no ONNX file, or holds no plain weights."""
    import onnx

    try:
        model = onnx.load(file)
    except Exception as error:  # protobuf's own error has no public name
        if type(error).__name__ != "DecodeError" and not isinstance(
            error, OSError | ValueError | onnx.checker.ValidationError
        ):
            raise
        raise WeightsError(
            f"{file.name} is truncated or no ONNX file, or the file with its weights is not beside it; copy both again"
        ) from error
    small = [op for op in {node.op_type for node in model.graph.node} if any(word in op for word in QUANTISED)]
    if small:
        raise WeightsError(
            f"{file.name} has quantised weights ({', '.join(sorted(small))}), which cannot be fine-tuned; ask its "
            "makers for the float export"
        )
    if not any(len(tensor.dims) > 1 for tensor in model.graph.initializer):
        raise WeightsError(f"{file.name} has no initialisers, so no weights: export the model with its parameters")
    return model


class Graph:
    """An ONNX graph with its constants, and who makes and who uses each value."""

    def __init__(self, model: Any) -> None:
        self.nodes = list(model.graph.node)
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                self.stored.update((node.output[0], each.t) for each in node.attribute if each.name == "value")
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.users: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.users[name].append(node)

    def constant(self, name: str) -> tuple[Array, str] | None:
        """Return a floating-point constant and the name it is stored by, through nodes that only turn or cast it."""
        from onnx import numpy_helper

        if name in self.stored:
            array = numpy_helper.to_array(self.stored[name])
            return (array.astype(np.float32), name) if array.dtype.kind == "f" or array.dtype.itemsize == 2 else None
        node = self.maker.get(name)
        if node is None or node.op_type not in {"Identity", "Cast", "Transpose"}:
            return None
        found = self.constant(node.input[0])
        if found is None or node.op_type != "Transpose":
            return found
        turn = next((list(each.ints) for each in node.attribute if each.name == "perm"), None)
        return np.transpose(found[0], turn), found[1]

    def vector(self, node: Any) -> tuple[Array, str, str] | None:
        """Return the constant vector of an elementwise node, its name, and the name of the node's other input."""
        for name, other in (node.input, reversed(node.input)) if len(node.input) == 2 else ():
            found = self.constant(name)
            if found is not None and found[0].size == max(found[0].shape, default=0) > 1:
                return found[0].reshape(-1), found[1], other
        return None

    def added(self, name: str, size: int) -> tuple[Array, str, str] | None:
        """Return the vector of `size` that is added to a value, its name, and the sum's name."""
        for node in self.users[name] if len(self.users[name]) == 1 else ():
            found = self.vector(node) if node.op_type == "Add" else None
            if found is not None and found[0].size == size:
                return found[0], found[1], node.output[0]
        return None

    def before(self, name: str, ends: frozenset[str] = frozenset()) -> Iterator[str]:
        """Give the values that `name` is made of, nearest first, and nothing behind those of `ends`."""
        queue, seen = [name], {name}
        while queue:
            at = queue.pop(0)
            yield at
            node = self.maker.get(at)
            fresh = [each for each in node.input if each not in seen] if node is not None and at not in ends else []
            seen.update(fresh)
            queue += fresh


def steps(graph: Graph) -> list[Step]:
    """Return the layers with parameters in the order of the graph."""
    found = []
    for node in graph.nodes:
        step = _step(graph, node)
        if step is not None:
            found.append(step)
    return found


def _step(graph: Graph, node: Any) -> Step | None:
    if node.op_type in {"Conv", "MatMul", "Gemm"}:
        return _product(graph, node)
    if node.op_type == "LayerNormalization":
        parts = [graph.constant(name) for name in node.input[1:]]
        known = [part for part in parts if part is not None]
        return Step("norm", node.output[0], known[0][0], known[-1][0], tuple(n for _, n in known)) if known else None
    found = graph.vector(node) if node.op_type == "Mul" else None
    if found is None:
        return None
    weight, name, other = found
    shift = graph.added(node.output[0], weight.size)
    maker = graph.maker.get(other)
    if shift is not None and maker is not None and maker.op_type in {"Div", "Mul"}:  # a norm in parts
        return Step("norm", shift[2], weight, shift[0], (name, shift[1]))
    return Step("scale", node.output[0], weight, None, (name,))


def _product(graph: Graph, node: Any) -> Step | None:
    found = graph.constant(node.input[1])
    if found is None:
        return None
    weight, name = found
    if node.op_type == "MatMul":
        bias = graph.added(node.output[0], weight.shape[-1])
        output, used = (node.output[0], (name,)) if bias is None else (bias[2], (name, bias[1]))
        return Step("linear", output, weight.T, None if bias is None else bias[0], used) if weight.ndim == 2 else None
    shift = graph.constant(node.input[2]) if len(node.input) > 2 else None
    values, used = (None, (name,)) if shift is None else (shift[0], (name, shift[1]))
    if node.op_type == "Conv":
        return Step("conv", node.output[0], weight, values, used)
    turned = any(each.name == "transB" and each.i for each in node.attribute)
    return Step("linear", node.output[0], weight if turned else weight.T, values, used)
