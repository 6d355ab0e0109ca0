"""What a training needs of memory, told before it begins, and what is said and done where there is too little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.profiler import ProfilerActivity, profile

from medvit.config import build, conf_dir
from medvit.engine.build import prepare
from medvit.engine.checkpoint import BEST
from medvit.engine.finders import find
from medvit.engine.fit import fit
from medvit.engine.guards.memory import Need, advice, need_of, smaller, tell
from medvit.engine.module import FineTuner
from medvit.errors import OutOfMemory
from medvit.model.network import Network
from medvit.model.pool import MeanPool
from medvit.optim.plan import Plan

TINY = ("trainer.epochs=1", "trainer.workers=0", "trainer.batch_size=32", "trainer.accumulate=1")


def settings(*words: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(words)), resolve=True)


def network_of(*words: str) -> Network:
    made = Network(build(settings(*words)["model"]), MeanPool(), 1)
    made.backbone.train()
    return made


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (("model=vit_pico",), (1, 96, 96)),
        (("model=vit_pico_3d",), (1, 32, 32, 32)),
        (("model=densenet121",), (1, 64, 64)),
    ],
)
def test_what_an_image_keeps_for_its_gradient_is_what_torch_allocates(
    words: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    network = network_of(*words)
    counted = need_of(network, Plan(), shape, "32-true").activations
    image = torch.zeros(1, *shape)
    network.eval()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        held = network.backbone(image)
    allocated = sum(event.self_cpu_memory_usage for event in watched.key_averages())
    assert held is not None
    assert counted == pytest.approx(allocated, rel=0.15)


def test_narrowed_copies_of_the_weights_are_counted_once_and_not_with_every_image() -> None:
    network = network_of("model=vit_pico")
    wide, narrow = (need_of(network, Plan(), (1, 96, 96), each) for each in ("32-true", "bf16-mixed"))
    blocks = sum(each.nbytes for each in network.backbone.blocks.parameters() if each.ndim == 2)
    assert narrow.activations < wide.activations
    assert blocks / 2 <= narrow.copies <= sum(each.nbytes for each in network.backbone.parameters()) / 2
    assert narrow.bytes(9) - narrow.bytes(0) == 9 * narrow.activations
    assert wide.copies < 0.05 * blocks


def test_to_measure_leaves_draws_and_modes_as_they_are() -> None:
    network = network_of("model=densenet121")
    network.backbone.blocks[0].eval()
    modes = [module.training for module in network.modules()]
    before, state = torch.get_rng_state(), {key: each.clone() for key, each in network.state_dict().items()}
    need_of(network, Plan(), (1, 64, 64), "bf16-mixed")
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(each, state[key]) for key, each in network.state_dict().items())


@pytest.mark.parametrize(("optimizer", "numbers"), [("adamw", 2), ("sgd", 1), ("lion", 1)])
def test_the_optimiser_needs_its_moments_of_what_is_learnt(optimizer: str, numbers: int) -> None:
    network = network_of("model=vit_pico")
    network.backbone.blocks.requires_grad_(False)
    asked = settings(f"optimizer={optimizer}", "optim.plan.ema=0.9")
    need = need_of(network, Plan.of(asked), (1, 96, 96), "32-true")
    learnt = sum(each.nbytes for each in network.parameters() if each.requires_grad)
    assert need.gradients == learnt < need.weights == need.averages
    assert need.optimizer == pytest.approx(numbers * learnt, rel=1e-3)
    assert need.bytes(3) - need.bytes(2) == need.activations


def test_a_smaller_batch_makes_the_same_steps() -> None:
    assert [smaller(*each) for each in ((32, 1), (24, 2), (9, 1), (7, 3), (1, 8))] == [
        (16, 2), (12, 4), (3, 3), (1, 21), None,
    ]  # fmt: skip
    assert "a single image does not fit" in advice(1, 8)


def test_too_little_memory_is_told_before_the_first_step(caplog: pytest.LogCaptureFixture) -> None:
    need = Need(10, 10, 20, 10, activations=int(1e9))
    caplog.set_level("INFO", "medvit")
    asked = {"batch_size": 8, "accumulate": 1}
    tell(need, asked, int(9e9))
    assert caplog.records[-1].levelname == "INFO"
    tell(need, asked, int(7e9))
    assert caplog.messages[-1].startswith("7.0 GB are free, and that is too little: give trainer.batch_size=4")


def short_of_memory(monkeypatch: pytest.MonkeyPatch, holds: int) -> None:
    step: Callable[..., Any] = FineTuner.training_step

    def limited(self: Any, batch: Any, batch_idx: int) -> Any:
        if len(batch.uid) > holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(FineTuner, "training_step", limited)


def test_a_training_out_of_memory_says_what_to_give(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, 10)
    with pytest.raises(OutOfMemory, match=r"32 images a step: give trainer.batch_size=16 trainer.accumulate=2,"):
        fitted(*TINY)


@pytest.mark.parametrize(("holds", "found"), [(10, (8, 4)), (100, (32, 1))])
def test_the_batch_is_halved_until_it_fits_and_the_steps_stay_the_same(
    holds: int, found: tuple[int, int], films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    small = ("model.image_size=[32,32]", "model.patch_size=[8,8]", "model.depth=2", "trainer.overlay_every=0")
    quiet = ("trainer.progress_bar=false", "trainer.accelerator=cpu", "trainer.precision=32-true")
    words = [*TINY, *small, *quiet, f"data.folder={films}"]
    asked = settings(*words, "trainer.auto_batch=true")
    with monkeypatch.context() as patched:
        short_of_memory(patched, holds)
        begun = prepare(asked)
        find(asked, begun)
        assert (asked["trainer"]["batch_size"], asked["trainer"]["accumulate"]) == found
        fit(asked, tmp_path / "found", lambda *_: None, parts=begun)
    told = settings(*words, f"trainer.batch_size={found[0]}", f"trainer.accumulate={found[1]}")
    fit(told, tmp_path / "told", lambda *_: None)
    assert (tmp_path / "found" / BEST).read_bytes() == (tmp_path / "told" / BEST).read_bytes()


def test_where_no_image_fits_it_is_told(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings(*TINY, f"data.folder={films}", "trainer.auto_batch=true", "trainer.accelerator=cpu")
    short_of_memory(monkeypatch, 0)
    with pytest.raises(OutOfMemory, match="a single image does not fit"):
        find(asked, prepare(asked))
