#!/usr/bin/env bash
# Converting a network to half precision with onnxconverter-common replaces every constant above 10000 by 10000, far below what half
# precision holds (65504). A network that divides a 16-bit film by 65535 in its own graph then sees every film 6.55 times too bright.
# One Python warning names a number; the converted model is valid and runs. onnxruntime's converter of the same name keeps the scale.
# Output (2026-11-29, Python 3.11, Linux x86-64):
#   onnxconverter-common 1.16.0 onnxruntime 1.31.1 onnx 1.23.2
#   float32:                        [0.015 0.458 0.916]
#   onnxconverter-common, float16:  [0.1 3.  6. ] warnings: ['the float32 number 65535.0 will be truncated to 10000.0']
#   onnxruntime, float16:           [0.015 0.458 0.916]
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q onnxconverter-common==1.16.0 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
export ORT_DISABLE_TELEMETRY=1
env/bin/python - <<'EOF'
import importlib.metadata, warnings
import numpy, onnx, onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxconverter_common.float16 import convert_float_to_float16
from onnxruntime.transformers.float16 import convert_float_to_float16 as convert_by_onnxruntime

film = helper.make_tensor_value_info("film", TensorProto.FLOAT, [None, 1])
grey = helper.make_tensor_value_info("grey", TensorProto.FLOAT, [None, 1])
full = numpy_helper.from_array(numpy.array(65535, "float32"), "full_scale")
graph = helper.make_graph([helper.make_node("Div", ["film", "full_scale"], ["grey"])], "normalise", [film], [grey], [full])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
pixels = numpy.array([[1000], [30000], [60000]], "float32")
run = lambda m: onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"film": pixels})[0].ravel()

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    half = run(convert_float_to_float16(model, keep_io_types=True))
print("onnxconverter-common", importlib.metadata.version("onnxconverter-common"), "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
print("float32:                       ", run(model).round(3))
print("onnxconverter-common, float16: ", half.round(3), "warnings:", [str(w.message) for w in said])
print("onnxruntime, float16:          ", run(convert_by_onnxruntime(model, keep_io_types=True)).round(3))
assert numpy.allclose(half / run(model).ravel(), 6.5535, rtol=1e-2), "the behaviour has changed"
EOF
