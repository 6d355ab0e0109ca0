"""Every kind of network as ONNX: a free batch size, and the numbers that torch gives."""

import numpy as np
import onnxruntime
import pytest
import torch

from medvit.bundle import onnx
from medvit.bundle.onnx import refuse_unexportable, write_onnx
from medvit.errors import BundleError
from medvit.model import cnn, convnext
from medvit.model.network import Network
from medvit.model.pool import MeanPool
from medvit.types import Tokens

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


class OwnBackbone(torch.nn.Module):
    """A backbone as a user writes one; `fixed` makes the size of the traced batch a number."""

    width, prefix, grid, divisor = 8, 0, (2, 2), (16, 16)

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.patch, self.blocks, self.fixed = torch.nn.Conv2d(1, 8, 16, 16), torch.nn.ModuleList(), fixed

    def forward(self, image):
        patches = self.patch(image).flatten(2).transpose(1, 2)
        images = len(image) if self.fixed else image.shape[0]
        return Tokens(patches.new_zeros(images, 0, 8), patches, self.grid)


def test_a_network_of_the_users_that_cannot_be_exported_is_refused_untrained_and_a_good_one_is_left_as_it_was():
    """It ended as FAILED after the whole training."""
    with pytest.raises(BundleError, match=r"could be trained and never exported.*image\.shape\[0\]"):
        refuse_unexportable(Network(OwnBackbone(fixed=True), MeanPool(), 1), (1, 32, 32))
    network = Network(OwnBackbone(fixed=False), MeanPool(), 1)
    refuse_unexportable(network, (1, 32, 32))
    assert all(module.training for module in network.modules())


def test_networks_of_medvits_own_parts_are_not_traced_before_training(monkeypatch):
    monkeypatch.setattr(onnx, "write_onnx", lambda *_: pytest.fail("6 s for what test_every_word.py has shown"))
    refuse_unexportable(Network(cnn.segresnet([32, 32, 32], filters=4, blocks=(1, 1)), MeanPool(), 1), (1, 32, 32, 32))


def test_a_kept_onnx_file_is_traced_once_and_again_where_weights_code_or_the_file_have_changed(tmp_path, monkeypatch):
    """Train, register and export traced one network three times, 6 s each; what is kept must never be another's."""
    torch.manual_seed(0)
    backbone = OwnBackbone(fixed=False)
    network, shape, kept = Network(backbone, MeanPool(), 1).eval(), (1, 32, 32), tmp_path / "network.onnx"
    traced, count = onnx._traced, []
    monkeypatch.setattr(onnx, "_traced", lambda *given: count.append(1) or traced(*given))

    def written(**properties):
        write_onnx(network, shape, tmp_path / "model.onnx", properties, kept)
        return (tmp_path / "model.onnx").read_bytes()

    first = written(a=1)
    assert written(a=1) == first != written(a=2)
    assert len(count) == 1
    write_onnx(network, shape, tmp_path / "new.onnx", {"a": 1})
    assert (tmp_path / "new.onnx").read_bytes() == first

    with torch.no_grad():
        backbone.patch.weight.mul_(2)
    doubled, _ = written(a=1), count.clear()
    assert doubled != first
    forward = OwnBackbone.forward
    monkeypatch.setattr(OwnBackbone, "forward", lambda self, image: forward(self, image * 3))  # the same weights
    assert written(a=1) != doubled
    kept.write_bytes(kept.read_bytes()[:100])
    assert written(a=1) != doubled
    assert len(count) == 2
