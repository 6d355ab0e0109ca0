"""The moving average: the closed form, the exchange, and resuming."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medvit.errors import ConfigError, RunError
from medvit.optim.ema import EMA


def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    made[0].weight.requires_grad_(False)
    return made


def test_the_average_is_the_recursion_with_its_warm_up():
    net, ema = model(), None
    ema = EMA(net, 0.5)
    expected = net[2].bias.item()
    for n in range(1, 12):
        with torch.no_grad():
            net[2].bias.fill_(float(n))
        ema.update(net)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert ema.average["2.bias"].item() == pytest.approx(expected, rel=1e-6)


def test_frozen_weights_are_not_copied_and_running_statistics_are():
    ema = EMA(model())
    assert "0.weight" not in ema.average
    assert {"0.bias", "1.running_mean", "1.running_var"} <= ema.average.keys()
    assert "1.num_batches_tracked" not in ema.average


def test_two_swaps_restore_the_weights_bit_for_bit():
    net = model()
    ema = EMA(net, 0.9)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p))
    ema.update(net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    average = {key: value.clone() for key, value in ema.average.items()}
    ema.swap(net)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in average.items())
    assert not torch.equal(net.state_dict()["2.weight"], before["2.weight"])
    ema.swap(net)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert all(torch.equal(ema.average[key], value) for key, value in average.items())


def test_a_resumed_average_goes_on_as_if_never_stopped():
    net = model()
    whole = EMA(net, 0.9)
    whole.update(net)
    stored = {"updates": whole.updates, "average": {k: v.clone() for k, v in whole.average.items()}}
    resumed = EMA(net, 0.9)
    resumed.load_state_dict(stored)
    with torch.no_grad():
        net[2].weight.add_(1)
    whole.update(net)
    resumed.update(net)
    assert all(torch.equal(whole.average[key], resumed.average[key]) for key in whole.average)


def test_an_average_of_other_weights_is_refused():
    other = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(RunError, match="resume with the settings the run was started with"):
        EMA(other).load_state_dict(EMA(model()).state_dict())


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(ConfigError, match="expected 0 < decay < 1"):
        EMA(model(), decay)
