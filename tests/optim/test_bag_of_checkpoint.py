"""A bag of slices on the encoder of an earlier run: adapters and layer decay learn, and what is frozen stays."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from medvit.config import build
from medvit.model import lora
from medvit.model.backbone import vit
from medvit.model.bag import StudyBag
from medvit.model.network import Network
from medvit.model.pool import AttentionPool
from medvit.types import Bag

LORA = {"_target_": "medvit.optim.strategy.Lora", "rank": 4, "alpha": 8.0, "targets": ["qkv", "proj"]}
LLRD = {"_target_": "medvit.optim.strategy.LayerDecay", "decay": 0.65}
STEPS = 25


def of_a_run(folder):
    """Return a bag network on the encoder of a run's folder."""
    spec = importlib.util.spec_from_file_location(
        "own_runs", Path(__file__).parents[1] / "model" / "pretrained" / "test_from_run.py"
    )
    runs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runs)
    runs.run_of(folder)
    torch.manual_seed(1)
    backbone = vit(image_size=[16, 16], weights=str(folder), patch_size=None)
    return Network(backbone, AttentionPool(queries=4), 1, StudyBag(queries=4, drop_kinds=0.0, chunk=5))


def bags():
    """Return eight bags of up to four slices; in half of them one slice has a bright corner."""
    torch.manual_seed(2)
    image, sick = torch.randn(8, 4, 1, 16, 16), torch.arange(8) % 2
    for bag in range(8):
        image[bag, bag % 3, 0, :8, :8] += 3.0 * sick[bag]
    mask = torch.ones(8, 4, dtype=torch.bool)
    mask[::3, 3] = False
    place = torch.arange(4.0).expand(8, 4) * 6.5
    return image, Bag(mask, place, torch.zeros(8, 4, dtype=torch.long)), sick.float()[:, None]


@pytest.mark.parametrize("node", [LORA, LLRD], ids=["lora", "llrd"])
def test_a_bag_of_a_loaded_encoder_learns_and_frozen_tensors_stay(tmp_path, node):
    network, strategy = of_a_run(tmp_path), build(node)
    strategy.prepare(network)
    before = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    optimizer = torch.optim.AdamW(strategy.groups(network, 1e-3, 0.0))
    (image, bag, target), losses = bags(), []
    for _ in range(STEPS):
        loss = functional.binary_cross_entropy_with_logits(network(image, bag), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    moved = {name for name, tensor in network.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, tensor in network.named_parameters() if tensor.requires_grad}
    frozen = set(before) - moved
    assert bool(frozen) == (node is LORA)
    assert {name for name in frozen if not name.startswith("backbone.")} == set()


def test_adapters_of_a_bag_merge_into_the_same_logits(tmp_path):
    network, strategy = of_a_run(tmp_path), build(LORA)
    strategy.prepare(network)
    for name, tensor in network.named_parameters():
        if ".up." in name:
            torch.nn.init.normal_(tensor, std=0.1)
    image, bag, _ = bags()
    network.eval()
    with torch.no_grad():
        adapted = network(image, bag)
        merged = lora.merge(network)(image, bag)
    assert not any(isinstance(module, lora.Lora) for module in network.modules())
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=1e-5)
