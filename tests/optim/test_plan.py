"""Every word of conf/optimizer and conf/scheduler, and what torch has beside them."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medvit.config import conf_dir
from medvit.config_targets import trust_only
from medvit.errors import ConfigError
from medvit.model.network import Network
from medvit.model.pool import MeanPool
from medvit.model.vit import ViT
from medvit.optim.lion import Lion
from medvit.optim.plan import Plan
from medvit.optim.schedule import warmup_cosine
from medvit.optim.strategy import LayerDecay
from medvit.optim.training_length import TrainingLength
from medvit.train import _used

OPTIMIZERS, SCHEDULERS = (sorted(p.stem for p in conf_dir().glob(f"{group}/*.yaml")) for group in Plan.PARTS)
EPOCHS, PER_EPOCH = 4, 5
OWN = ("params", "betas", "name")  # of a group: looked at by themselves, or only for people
COURSE = TrainingLength(EPOCHS * PER_EPOCH, PER_EPOCH)


@pytest.fixture(autouse=True)
def nothing_is_trusted():
    trust_only([])
    yield
    trust_only([])


def settings(*words: str) -> dict:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(words)), resolve=True)


def plan(*words: str) -> Plan:
    return Plan.of(_used(settings(*words), words))


def network() -> Network:
    torch.manual_seed(0)
    return Network(ViT((8, 8), (4, 4), 1, 8, 2, 2), MeanPool(), 1)


def groups(net: Network, how: Plan) -> list[dict]:
    return LayerDecay(head=10.0, decay=0.5).groups(net, how.lr, how.weight_decay)


class Training:
    """Steps of one plan as Lightning makes them."""

    def __init__(self, how: Plan) -> None:
        self.net = network()
        self.optimizer = how.make_optimizer(groups(self.net, how))
        self.course = how.make_scheduler(self.optimizer, COURSE)
        self.rates = []

    def go(self, first: int, last: int) -> Training:
        schedule = self.course["scheduler"]
        for step in range(first, last):
            torch.manual_seed(step)
            self.rates.append([group["lr"] for group in self.optimizer.param_groups])
            self.optimizer.zero_grad()
            self.net(torch.randn(4, 1, 8, 8)).square().mean().backward()
            self.optimizer.step()
            if self.course["interval"] == "step":
                schedule.step()
            elif (step + 1) % PER_EPOCH == 0:
                schedule.step(*([1.0] if "monitor" in self.course else []))
        return self

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.net.parameters()])


PAIRS = [(o, "warmup_cosine") for o in OPTIMIZERS] + [("adamw", s) for s in SCHEDULERS if s != "warmup_cosine"]


@pytest.mark.parametrize(("optimizer", "scheduler"), PAIRS, ids=lambda word: word)
def test_every_word_moves_every_weight_and_goes_on_after_a_stop_as_if_never_stopped(optimizer, scheduler):
    how = plan(f"optimizer={optimizer}", f"scheduler={scheduler}")
    how.refuse_unusable()
    whole = Training(how).go(0, 20)
    assert (whole.weights() != Training(how).weights()).float().mean() > 0.9  # a small step may round to none
    part, stored = Training(how).go(0, 10), io.BytesIO()
    torch.save([part.net.state_dict(), part.optimizer.state_dict(), part.course["scheduler"].state_dict()], stored)
    stored.seek(0)
    resumed = Training(how)
    for thing, state in zip(
        (resumed.net, resumed.optimizer, resumed.course["scheduler"]),
        torch.load(stored, weights_only=True),
        strict=True,
    ):
        thing.load_state_dict(state)
    assert torch.equal(resumed.go(10, 20).weights(), whole.weights())


def rates(scheduler: str, *words: str) -> np.ndarray:
    return np.array(Training(plan(f"scheduler={scheduler}", "optim.plan.lr=1e-3", *words)).go(0, 20).rates)


def test_schedules_keep_the_multiples_of_the_strategy():
    start = np.array([group["lr"] for group in groups(network(), plan("optim.plan.lr=1e-3"))])
    for name in SCHEDULERS:
        if name in {"cosine", "warm_restarts"}:  # torch's go to one last rate for all groups
            continue
        found = rates(name)
        np.testing.assert_allclose(found / found[:, :1], np.tile(start / start[0], (20, 1)), rtol=1e-6, err_msg=name)


def test_a_schedule_whose_length_is_left_open_is_as_long_as_the_training():
    assert rates("one_cycle").argmax(axis=0) == pytest.approx(5)  # 0.3 of 20 steps, the first being 0
    assert rates("one_cycle").max() == pytest.approx(1e-2)  # head: 10 times the plan's
    assert rates("linear")[-1] == pytest.approx(rates("linear")[0] * (1 - 0.99 * 19 / 20))
    assert rates("cosine")[10, -1] == pytest.approx((1e-2 + 1e-6) / 2)
    by_epoch = rates("cosine", "scheduler.interval=epoch")
    assert len(np.unique(by_epoch[:, -1])) == EPOCHS
    assert rates("step", "scheduler.step_size=1")[:, -1] == pytest.approx(np.repeat([1e-2, 1e-3, 1e-4, 1e-5], 5))


def test_without_a_word_it_is_the_plan_of_every_run_so_far():
    """Settings of 0.1 have no optimiser and no schedule of their own."""
    now, earlier = settings(), settings()
    del earlier["optimizer"], earlier["scheduler"]
    net = network()
    found, then = (Plan.of(each).make_optimizer(groups(net, Plan.of(each))) for each in (now, earlier))
    assert type(found) is type(then) is torch.optim.AdamW
    expected = torch.optim.AdamW(groups(net, Plan.of(now)), lr=5e-4, betas=(0.9, 0.95), fused=True)
    for each in (found, then):
        for group, other in zip(each.param_groups, expected.param_groups, strict=True):
            assert {key: value for key, value in group.items() if key not in OWN} == {
                key: value for key, value in other.items() if key not in OWN
            }
            assert tuple(group["betas"]) == other["betas"]
    course = TrainingLength(380, 10)
    made = [Plan.of(each).make_scheduler(found, course)["scheduler"].lr_lambdas[0] for each in (now, earlier)]
    reference = warmup_cosine(expected, 20, 380, 1e-6 / 5e-4).lr_lambdas[0]
    for step in range(0, 380, 7):
        assert made[0](step) == made[1](step) == reference(step)


def test_lion_is_program_1_of_its_paper():
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(5, 3, 4))
    weight, momentum, lr, decay, (b1, b2) = start.copy(), np.zeros((3, 4)), 0.01, 0.3, (0.9, 0.99)
    for g in gradients:
        update = np.sign(b1 * momentum + (1 - b1) * g)
        weight = weight - lr * (update + decay * weight)
        momentum = b2 * momentum + (1 - b2) * g
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = Lion([p], lr=lr, betas=(b1, b2), weight_decay=decay)
    for g in gradients:
        p.grad = torch.from_numpy(g)
        optimizer.step()
    np.testing.assert_allclose(p.detach().numpy(), weight, rtol=1e-12)


CANNOT = {
    "LBFGS": "does ?n.t support per-parameter options",
    "Muon": "only supports 2D parameters",
    "SparseAdam": "does not support dense gradients",
    "Rprop": "has no weight decay: give optim.plan.weight_decay=0",
}


def test_every_optimiser_of_torch_is_a_word_or_says_why_it_cannot_train_here():
    words = {yaml.safe_load((conf_dir() / f"optimizer/{name}.yaml").read_text())["_target_"] for name in OPTIMIZERS}
    every = {name for name, kind in vars(torch.optim).items() if isinstance(kind, type)} - {"Optimizer"}
    assert every == {name.rpartition(".")[2] for name in words if name.startswith("torch.")} | set(CANNOT)
    trust_only([f"trust=[{','.join(f'torch.optim.{name}' for name in CANNOT)}]"])
    for name, said in CANNOT.items():
        decay = 0.05 if name == "Rprop" else 0.0
        with pytest.raises(ConfigError, match=said):
            Plan(weight_decay=decay, optimizer={"_target_": f"torch.optim.{name}"}).refuse_unusable()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer=sgd", "+optimizer.betas=[0.9,0.9]"], "SGD cannot be built: .*betas"),
        (["scheduler=step", "+scheduler.warmup=3"], "StepLR cannot be built: .*warmup"),
        (["scheduler=step", "scheduler.interval=batch"], "scheduler.interval=batch: expected step or epoch"),
        (["optimizer=lion", "optimizer.betas=[0.9,1.5]"], "two betas in"),
        (["optimizer._target_=torch.optim.Muon"], r"none of the classes .* add trust=\[torch.optim.Muon\]"),
        (["optimizer=sgd", "optim.plan.betas=[0.8,0.9]"], "betas=.* is not used by SGD: leave it out"),
        (["scheduler=constant", "optim.plan.warmup_epochs=3"], "warmup_epochs=3 is not used by ConstantLR"),
        (["optimizer.betas=[0.5,0.6]", "optim.plan.betas=[0.8,0.9]"], "betas=.* is not used by AdamW"),
        (["optim=logistic", "optimizer=sgd"], "optimizer=sgd is not used by optim=logistic"),
    ],
)
def test_a_setting_that_is_not_used_is_refused_by_name(words, said):
    with pytest.raises(ConfigError, match=said):
        plan(*words).refuse_unusable()


def test_what_the_plan_shows_is_what_trained():
    assert set(_used(settings("optimizer=sgd", "scheduler=step"), [])["optim"]["plan"]) == {
        *("lr", "weight_decay", "clip", "ema"),
    }
    assert json.dumps(_used(settings(), [])) == json.dumps(settings())
