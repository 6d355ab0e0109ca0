"""Bags and volumes leave by the same door: a network over slices takes any number of them in the exported file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.mark.slow
def test_a_network_over_slices_says_the_same_exported_for_any_number_of_slices(tmp_path: Path) -> None:
    import onnxruntime
    import torch

    from medvit.bundle.onnx import write_onnx
    from medvit.model.bag import StudyBag
    from medvit.model.network import Network
    from medvit.model.pool import ClsPool
    from medvit.model.vit import ViT
    from medvit.types import Bag

    torch.manual_seed(0)
    backbone = ViT(image_size=(32, 32), patch_size=(16, 16), in_channels=1, width=32, depth=1, heads=2)
    network = Network(backbone, ClsPool(), outputs=2, bag=StudyBag()).eval()
    write_onnx(network, (1, 32, 32), tmp_path / "model.onnx", {})
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for slices in (1, 5, 9):
        image = torch.randn(1, slices, 1, 32, 32)
        position = torch.arange(slices).float()[None] * 4 - 7
        bag = Bag(torch.ones(1, slices, dtype=torch.bool), position, torch.zeros(1, slices, dtype=torch.long))
        with torch.no_grad():
            expected = network(image, bag).numpy()
        feed = {"image": image, "mask": bag.mask, "position_mm": position, "kind": bag.kind}
        used = {item.name for item in session.get_inputs()}
        found = session.run(None, {name: value.numpy() for name, value in feed.items() if name in used})[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_a_network_over_a_volume_says_the_same_exported(tmp_path: Path) -> None:
    import onnxruntime
    import torch

    from medvit.bundle.onnx import write_onnx
    from medvit.model.network import Network
    from medvit.model.pool import MeanPool
    from medvit.model.vit import ViT

    torch.manual_seed(0)
    backbone = ViT(image_size=(8, 32, 32), patch_size=(4, 16, 16), in_channels=1, width=24, depth=1, heads=2)
    network = Network(backbone, MeanPool(), outputs=1).eval()
    write_onnx(network, (1, 8, 32, 32), tmp_path / "model.onnx", {})
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for batch in (1, 3):
        image = torch.randn(batch, 1, 8, 32, 32)
        with torch.no_grad():
            expected = network(image).numpy()
        np.testing.assert_allclose(session.run(None, {"image": image.numpy()})[0], expected, atol=1e-5)
