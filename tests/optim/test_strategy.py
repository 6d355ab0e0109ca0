"""Every strategy of conf/optim: what moves, what stays, and at which rate."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest
import torch
import yaml

from medvit.config import build, conf_dir
from medvit.errors import ConfigError
from medvit.model.design import Architecture
from medvit.model.network import Network
from medvit.model.pool import AttentionPool, MeanPool
from medvit.model.vit import ViT
from medvit.optim.parameter_groups import decayed, layers
from medvit.optim.strategy import (
    AttentionProjection,
    Auto,
    Full,
    LayerDecay,
    Lora,
    Probe,
    ProbeThenTune,
    Strategy,
)

CONFIGS = sorted(conf_dir().glob("optim/*.yaml"))
CHOOSING = [path for path in CONFIGS if path.stem != "auto"]


def network(depth: int = 3, pool=None, **design) -> Network:
    torch.manual_seed(0)
    return Network(ViT([16, 16], [8, 8], 1, 24, depth, 2, Architecture(**design)), pool or AttentionPool(4), 2)


def fitting(path) -> Network:
    """A network that the strategy of a config can work on."""
    return network(pool=MeanPool() if path.stem == "logistic" else None)


def strategy_of(path) -> Strategy:
    return build(yaml.safe_load(path.read_text())["strategy"])


def optimiser(strategy: Strategy, net: Network, lr: float = 1e-2):
    return torch.optim.AdamW(strategy.groups(net, lr, 0.1), lr=lr)


def step(net: Network, optimizer) -> None:
    optimizer.zero_grad()
    net(torch.randn(4, 1, 16, 16)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_optim_config_names_a_strategy_and_the_whole_plan(path):
    node = yaml.safe_load(path.read_text())
    assert sorted(node) == ["plan", "strategy"]
    assert path.stem == "logistic" or sorted(node["plan"]) == [
        "betas",
        "clip",
        "ema",
        "final_lr",
        "lr",
        "warmup_epochs",
        "weight_decay",
    ]
    strategy = build(node["strategy"])
    given = {field.name for field in dataclasses.fields(strategy)}
    assert path.stem in {"auto", "lp_ft", "logistic"} or given == set(node["strategy"]) - {"_target_"}
    again = build(json.loads(json.dumps(strategy.to_json())))
    assert again.to_json() == strategy.to_json()


@pytest.mark.parametrize("path", CHOOSING, ids=lambda p: p.stem)
def test_what_is_trained_gets_a_gradient_and_moves_and_what_is_frozen_does_neither(path):
    net, strategy = fitting(path), strategy_of(path)
    strategy.prepare(net)
    if isinstance(strategy, ProbeThenTune):
        strategy.on_epoch(net, strategy.probe_epochs)
    optimizer = optimiser(strategy, net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for _ in range(2):  # the first step moves `up` of an adapter, the second `down`
        step(net, optimizer)
    for name, p in net.named_parameters():
        if p.requires_grad:
            assert p.grad.abs().sum() > 0, name
            assert not torch.equal(p, before[name]), name
        else:
            assert p.grad is None, name
            assert torch.equal(p, before[name]), name


@pytest.mark.parametrize("path", CHOOSING, ids=lambda p: p.stem)
def test_the_groups_hold_every_trained_parameter_once_and_no_frozen_one(path):
    net, strategy = fitting(path), strategy_of(path)
    strategy.prepare(net)
    held = [id(p) for group in strategy.groups(net, 1e-3, 0.05) for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in net.parameters() if p.requires_grad}


@pytest.mark.parametrize("weight_decay", [0.05, 0.0])
def test_weight_decay_touches_matrices_only(weight_decay):
    net = network(layer_scale=0.1, prefix=2, relative=False)
    groups = Full().groups(net, 1e-3, weight_decay)
    names = {id(p): name for name, p in net.named_parameters()}
    spared = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    if weight_decay == 0:
        assert spared == set(names.values())
        return
    kept = {names[id(p)] for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    assert spared >= {"backbone.pos_embed", "backbone.prefix_token", "pool.queries", "backbone.blocks.0.ls1.gamma"}
    assert all(name.endswith(".weight") and "norm" not in name for name in kept)
    assert {"backbone.patch_embed.weight", "head.weight", "backbone.blocks.2.mlp.fc2.weight"} <= kept
    assert not [name for name in kept if name.endswith("bias")]


def test_layers_come_in_depth_order_and_hold_everything():
    net = network()
    found = layers(net)
    assert [layer.name for layer in found] == ["stem", "block 0", "block 1", "block 2", "last norm", "head"]
    assert [layer.depth for layer in found] == [0, 1, 2, 3, 4, 4]
    assert sorted(n for layer in found for n, _ in layer.parameters) == sorted(n for n, _ in net.named_parameters())
    assert {n for n, _ in found[4].parameters} == {"backbone.norm.weight", "backbone.norm.bias"}
    assert "backbone.pos_embed" in {n for n, _ in found[0].parameters}


def test_layer_decay_falls_with_depth_by_its_factor():
    net = network()
    rates = {group["name"]: group["lr"] for group in LayerDecay(head=5.0, decay=0.5).groups(net, 1e-3, 0.05)}
    assert rates == pytest.approx(
        {
            "stem": 1e-3 / 16,
            "block 0": 1e-3 / 8,
            "block 1": 1e-3 / 4,
            "block 2": 1e-3 / 2,
            "last norm": 1e-3,
            "head": 5e-3,
        }
    )


def test_a_pretrained_norm_before_the_blocks_belongs_to_the_stem():
    net = network(pre_norm=True)
    stem = {name for name, _ in layers(net)[0].parameters}
    assert any("pre" in name and "norm" in name for name in stem)


def test_a_frozen_backbone_is_as_in_evaluation_and_comes_back():
    net, strategy = network(), ProbeThenTune(probe_epochs=2, then=Full())
    strategy.prepare(net)
    net.train()
    strategy.on_epoch(net, 1)
    assert not net.backbone.training
    assert net.pool.training
    strategy.on_epoch(net, 2)
    assert net.backbone.training


def test_probe_then_tune_moves_the_head_alone_first_and_then_the_backbone():
    net, strategy = network(), ProbeThenTune(probe_epochs=1, then=LayerDecay(decay=0.5))
    strategy.prepare(net)
    optimizer = optimiser(strategy, net)
    start = net.backbone.blocks[0].mlp.fc1.weight.detach().clone()
    head = net.head.weight.detach().clone()
    strategy.on_epoch(net, 0)
    step(net, optimizer)
    assert torch.equal(net.backbone.blocks[0].mlp.fc1.weight, start)
    assert not torch.equal(net.head.weight, head)
    strategy.on_epoch(net, 1)
    step(net, optimizer)
    assert not torch.equal(net.backbone.blocks[0].mlp.fc1.weight, start)


def test_lora_after_a_probe_keeps_the_base_frozen_in_both_phases():
    net, strategy = network(), ProbeThenTune(probe_epochs=1, then=Lora(rank=2))
    strategy.prepare(net)
    for epoch, adapters in ((0, False), (1, True)):
        strategy.on_epoch(net, epoch)
        moving = {name for name, p in net.named_parameters() if p.requires_grad and name.startswith("backbone.")}
        assert bool(moving) == adapters
        assert not [name for name in moving if ".up." not in name and ".down." not in name]


def test_preparing_twice_injects_once():
    net, strategy = network(), Lora(rank=2)
    strategy.prepare(net)
    names = list(net.state_dict())
    strategy.prepare(net)
    assert list(net.state_dict()) == names


def test_the_table_says_what_is_trained_frozen_and_how_fast():
    net, strategy = network(), Lora(head=10.0, adapter=3.0, rank=2)
    strategy.prepare(net)
    text = strategy.describe(net, 1e-4, 0.01)
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in net.parameters() if not p.requires_grad)
    assert f"{trained:,}" in text.splitlines()[-1]
    assert f"{frozen:,}" in text.splitlines()[-1]
    assert "3.00e-04" in text
    assert "1.00e-03" in text
    assert "Lora(" in text
    assert "rank=2" in text
    stem = next(line for line in text.splitlines() if line.startswith("stem"))
    assert stem.split()[1] == "0"
    assert stem.split()[-1] == "-"


@pytest.mark.parametrize(
    ("studies", "volumes", "expected"),
    [
        (1, False, Probe),
        (200, False, Probe),
        (201, False, ProbeThenTune),
        (2000, False, ProbeThenTune),
        (2001, False, Lora),
        (20000, False, Lora),
        (20001, False, LayerDecay),
        (50, True, Lora),
        (1001, True, ProbeThenTune),
    ],
)
def test_auto_chooses_by_the_number_of_training_studies_and_says_so(studies, volumes, expected, caplog):
    with caplog.at_level(logging.INFO):
        chosen = Auto().choose(studies, volumes)
    assert type(chosen) is expected
    assert f"{studies} training studies" in caplog.text
    assert expected.__name__ in caplog.text
    net = network()
    chosen.prepare(net)
    assert chosen.groups(net, 1e-4, 0.05)


def test_auto_unresolved_is_refused():
    with pytest.raises(ConfigError, match="choose"):
        Auto().prepare(network())


def test_attention_projections_need_attention():
    class Plain(torch.nn.Module):
        width, prefix, grid, divisor = 4, 0, (2, 2), (1, 1)

        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList([torch.nn.Conv2d(1, 4, 1)])

        def forward(self, image):
            raise NotImplementedError

    with pytest.raises(ConfigError, match="choose full, llrd or probe"):
        AttentionProjection().prepare(Network(Plain(), MeanPool(), 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: LayerDecay(decay=0.0),
        lambda: LayerDecay(decay=1.5),
        lambda: Full(head=0.0),
        lambda: Lora(adapter=0.0),
        lambda: Lora(alpha=-1.0),
    ],
)
def test_rates_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match="expected"):
        make()


def test_no_parameter_counts_as_a_matrix_twice():
    net = network()
    Lora(rank=2).prepare(net)
    matrices = decayed(net)
    assert len(matrices) == sum(isinstance(m, (torch.nn.Linear, torch.nn.Conv2d)) for m in net.modules())


@pytest.mark.parametrize("make", [lambda: ProbeThenTune(head=5.0), lambda: Auto(head=5.0)])
def test_a_rate_of_the_head_that_would_not_be_used_is_refused(make):
    with pytest.raises(ConfigError, match=r"head=5.0 would not be used here; give .*head=\.\.\."):
        make()


def test_a_second_phase_that_would_never_come_is_refused():
    """With optim=auto and 10 epochs the backbone stayed frozen to the end, and nothing said so."""
    chosen = Auto().choose(500)
    chosen.refuse_epochs(11)
    with pytest.raises(ConfigError, match=r"probe_epochs=10 and trainer.epochs=10: the backbone would stay frozen"):
        chosen.refuse_epochs(10)
    Full().refuse_epochs(1)
