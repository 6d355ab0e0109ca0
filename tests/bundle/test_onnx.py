"""Every kind of network as ONNX: a free batch size, and the numbers that torch gives."""

import numpy as np
import onnxruntime
import pytest
import torch

from medvit.bundle.onnx import write_onnx
from medvit.model import cnn, convnext
from medvit.model.network import Network
from medvit.model.pool import MeanPool

CONVOLUTIONAL = {
    "densenet121": lambda: cnn.densenet121([64, 64]),
    "densenet121_3d": lambda: cnn.densenet121([32, 32, 32]),
    "segresnet_3d": lambda: cnn.segresnet([32, 32, 32], filters=8, blocks=(1, 1)),
    "convnext": lambda: convnext.convnext([64, 64], depths=(1, 1, 1, 1), widths=(8, 8, 16, 16), version=1),
}


SLOW = [pytest.param(name, marks=pytest.mark.slow if "densenet" in name else ()) for name in CONVOLUTIONAL]


@pytest.mark.parametrize("name", SLOW)
def test_a_convolutional_network_leaves_as_onnx_that_takes_any_number_of_images(name, tmp_path):
    if name == "convnext":
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = CONVOLUTIONAL[name]()
    network = Network(backbone, MeanPool(), 2).eval()
    shape = (1, *(cells * side for cells, side in zip(backbone.grid, backbone.divisor, strict=True)))
    write_onnx(network, shape, tmp_path / "model.onnx", {})
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        image = torch.randn(count, *shape)
        with torch.no_grad():
            expected = network(image).numpy()
        (found,) = session.run(None, {"image": image.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-5)
