"""The vector that a bundle's head reads, from the ONNX network itself: the input of its last product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.bundle.runtime import Runtime
from medvit.errors import BundleError

_PRODUCTS = ("Gemm", "MatMul")


class BundleVectors:
    """An opened bundle that answers with the vector before its head instead of logits.

    Raises:
        BundleError: as `Runtime`, or a head that is no single linear layer (one query per output).
    """

    def __init__(self, folder: Path) -> None:
        import onnx
        import onnxruntime

        from medvit.bundle import golden

        self.runtime = Runtime(folder)
        golden.check(self.runtime)
        model = onnx.load(str(folder / "models" / "model.onnx"))
        self.name = _before_head(model.graph)
        model.graph.output.append(onnx.helper.make_tensor_value_info(self.name, onnx.TensorProto.FLOAT, None))
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def __call__(self, pixels: NDArray[Any], position_mm: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the vector [W] of the integers [I C *S] of one film or series."""
        images = self.runtime.preprocess.normalise(pixels)
        found = self._session.run([self.name], self.runtime.feed(images, position_mm))[0]
        vector: NDArray[np.float64] = np.asarray(found, np.float64)[0]
        return vector


def _before_head(graph: Any) -> str:
    """Return the name of the tensor that the head multiplies; raises BundleError where there is no such product."""
    makers = {name: node for node in graph.node for name in node.output}
    weights = {each.name: each.dims for each in graph.initializer}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in ("Add", "Identity"):  # the bias beside the product
        node = next((makers[name] for name in node.input if name in makers), None)
    if node is None or node.op_type not in _PRODUCTS or len(weights.get(node.input[1], ())) != 2:
        raise BundleError(
            "The head of this bundle is no single linear layer (one query per output?), so it reads no single vector. "
            "Embed by the run it was exported from: run=RUN_ID."
        )
    return str(node.input[0])
