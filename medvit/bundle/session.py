"""Sessions that run a bundle's network: runtime and precision behind one call.

A variant is RUNTIME_PRECISION. `onnxruntime_fp32` is what the parity gate compares with training, and the default; any
other one is in a bundle only where export measured what it costs (`medvit.bundle.variants`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medvit.errors import BundleError

DEFAULT = "onnxruntime_fp32"
MODEL, INT8 = "model.onnx", "model_int8.onnx"
FILES = {DEFAULT: MODEL, "onnxruntime_int8": INT8, "openvino_fp32": MODEL, "openvino_bf16": MODEL}
_VNNI = {"avx512_vnni", "avx_vnni"}  # without them products of int8 saturate at 16 bits: other numbers, no word


class Session(Protocol):
    """An opened network: the names of its inputs, how many outputs it has, and its logits of one unit."""

    inputs: frozenset[str]
    outputs: int

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Return the logits [1 K] of one unit; several threads may call at once."""


def open_session(models: Path, variant: str = DEFAULT, workers: int = 1) -> Session:
    """Open a variant of the network in a bundle's folder `models/` for `workers` threads, one thread per image.

    Raises:
        BundleError: an unknown variant, one that this machine cannot run, or a file that cannot be opened.
    """
    if problem := unusable(variant):
        raise BundleError(problem)
    file = models / FILES[variant]
    if variant.startswith("openvino"):
        return _OpenVino(file, {"fp32": "f32", "bf16": "bf16"}[variant.rpartition("_")[2]], workers)
    return _OnnxRuntime(file)


def feed_of(
    inputs: frozenset[str], images: NDArray[np.float32], position_mm: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """Return what a network takes of images [I C *S], normalised, of one unit, at positions [I] in mm.

    Raises:
        BundleError: several images for a network that takes one.
    """
    if "mask" in inputs:
        count = len(images)
        feed: dict[str, NDArray[Any]] = {"image": images[None], "mask": np.ones((1, count), bool)}
        feed |= {"position_mm": position_mm[None], "kind": np.zeros((1, count), np.int64)}
        return {name: value for name, value in feed.items() if name in inputs}  # a pool may not use all
    if len(images) != 1:
        raise BundleError(f"The preprocessing gives {len(images)} images, the network takes one. Export again.")
    return {"image": images}


def unusable(variant: str) -> str:
    """Return why this machine cannot run a variant, and what to do; "" where it can."""
    if variant not in FILES:
        return f"runtime={variant}: expected one of {', '.join(FILES)}."
    if variant == "onnxruntime_int8" and not _VNNI & _processor_flags():
        return (
            "runtime=onnxruntime_int8 needs a processor with VNNI (AVX512-VNNI or AVX-VNNI, told by /proc/cpuinfo): "
            f"without it products of 8 bits saturate, and the numbers are others. Use runtime={DEFAULT}."
        )
    if not variant.startswith("openvino"):
        return ""
    try:
        import openvino
    except ImportError:
        return f"runtime={variant} needs OpenVINO: pip install 'medvit[openvino]', or use runtime={DEFAULT}."
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if variant.endswith("bf16") and "BF16" not in able:
        return f"runtime={variant} needs a processor with bf16 (AVX512-BF16 or AMX). Use runtime=openvino_fp32."
    return ""


class _OnnxRuntime:
    """One thread per call: several images run beside each other, each always the same way."""

    def __init__(self, file: Path) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf) as error:
            raise BundleError(f"models/{file.name} cannot be opened by onnxruntime. Export again.") from error
        self.inputs = frozenset(item.name for item in self._session.get_inputs())
        self.outputs = int(self._session.get_outputs()[0].shape[-1])

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        return np.asarray(self._session.run(None, dict(feed))[0], np.float64)


class _OpenVino:
    """One stream of one thread per image; a request belongs to the thread that made it."""

    def __init__(self, file: Path, precision: str, workers: int) -> None:
        import openvino

        # the precision is always given: on a processor with bf16 OpenVINO takes it by itself
        threads = {"NUM_STREAMS": workers, "INFERENCE_NUM_THREADS": workers, "INFERENCE_PRECISION_HINT": precision}
        core = openvino.Core()
        try:
            self._network = core.compile_model(core.read_model(str(file)), "CPU", threads)
        except RuntimeError as error:
            raise BundleError(f"models/{file.name} cannot be opened by OpenVINO. Use runtime={DEFAULT}.") from error
        self._names = {port.any_name: port for port in self._network.inputs}
        self.inputs = frozenset(self._names)
        self.outputs = self._network.output(0).partial_shape[-1].get_length()
        self._of_thread = threading.local()

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._network.create_infer_request()
        said = self._of_thread.request.infer({name: np.ascontiguousarray(value) for name, value in feed.items()})
        return np.array(said[self._network.output(0)], np.float64)


def write_int8(file: Path, out: Path) -> None:
    """Write a network with the weights of its matrix products as int8; their inputs are scaled call by call.

    Ranges of activations fixed beforehand on calibration images lose far more for a ViT (benchmarks/runtimes.py).
    """
    import tempfile

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        model = onnx.load_model(str(file))
        del model.graph.value_info[:]  # shapes the exporter kept of weights before they were transposed: refused else
        onnx.save_model(model, str(Path(folder) / "model.onnx"))
        kinds = ["MatMul", "Gemm"]
        quantize_dynamic(Path(folder) / "model.onnx", out, weight_type=QuantType.QInt8, op_types_to_quantize=kinds)


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}
