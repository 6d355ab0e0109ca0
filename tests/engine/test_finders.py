"""Batch-size and learning-rate finder of Lightning, and accumulation that changes from epoch to epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medvit.config import conf_dir
from medvit.engine.build import prepare
from medvit.engine.checkpoint import BEST
from medvit.engine.finders import _batch_size, find
from medvit.engine.fit import fit
from medvit.engine.module import FineTuner
from medvit.errors import ConfigError, RunError
from medvit.optim.training_length import TrainingLength

SMALL = [
    *("model.image_size=[32,32]", "model.patch_size=[8,8]", "model.depth=2", "trainer.epochs=2", "trainer.workers=0"),
    *("trainer.progress_bar=false", "trainer.accelerator=cpu", "trainer.overlay_every=0", "trainer.precision=32-true"),
    *("optim=llrd", "model.weights=random"),
]
BOTH = ["callbacks=[batch_size_finder,lr_finder]", "callbacks.lr_finder.num_training_steps=40"]


def settings(films: Path, *words: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", [*SMALL, f"data.folder={films}", *words])
    return OmegaConf.to_container(composed, resolve=True)


def memory_of(images: int, tried: list[int]) -> Callable[[int, int], bool]:
    def fits(size: int, steps: int) -> bool:
        tried.append(size)
        return size <= images

    return fits


@pytest.mark.parametrize(
    ("given", "holds", "found", "sizes"),
    [
        ({}, 50, 32, [2, 4, 8, 16, 32, 64]),
        ({}, 1000, 100, [2, 4, 8, 16, 32, 64, 100]),  # all there are
        ({"max_val": 20}, 1000, 20, [2, 4, 8, 16, 20]),  # Lightning's own gives 32, which it never tried
        ({"max_trials": 3}, 1000, 8, [2, 4, 8]),
        ({"init_val": 64}, 20, 16, [64, 32, 16]),
        ({"mode": "binsearch", "margin": 0.0}, 50, 50, [2, 4, 8, 16, 32, 64, 48, 56, 52, 50, 51]),
        ({"mode": "binsearch", "margin": 0.1}, 50, 45, [2, 4, 8, 16, 32, 64, 48, 56, 52, 50, 51]),
    ],
)
def test_the_size_found_was_tried_and_fits(given: dict[str, Any], holds: int, found: int, sizes: list[int]) -> None:
    tried: list[int] = []
    assert _batch_size({"_target_": "x", **given}, memory_of(holds, tried), 100) == found
    assert tried == sizes


def test_what_does_not_fit_at_all_is_told() -> None:
    with pytest.raises(RunError, match="1 images of a step do not fit into the memory"):
        _batch_size({"_target_": "x"}, memory_of(0, []), 100)


def test_a_training_with_finders_is_the_one_that_is_told_what_they_found(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, sizes = FineTuner.training_step, []

    def short_of_memory(self: Any, batch: Any, batch_idx: int) -> Any:
        sizes.append(len(batch.uid))
        if len(batch.uid) > 10:
            raise RuntimeError("CUDA out of memory")
        return step(self, batch, batch_idx)

    asked = settings(films, *BOTH)
    begun = prepare(asked)
    with monkeypatch.context() as patched:
        patched.setattr(FineTuner, "training_step", short_of_memory)
        find(asked, begun)
    size, rate = asked["trainer"]["batch_size"], asked["optim"]["plan"]["lr"]
    assert size == 8
    assert {2, 4, 8, 16} <= set(sizes)
    assert 1e-7 < rate < 0.1
    fit(asked, tmp_path / "found", lambda *_: None, parts=begun)
    told = settings(films, f"trainer.batch_size={size}", f"optim.plan.lr={rate}")
    fit(told, tmp_path / "told", lambda *_: None)
    assert (tmp_path / "found" / BEST).read_bytes() == (tmp_path / "told" / BEST).read_bytes()


def test_groups_keep_their_multiples_of_the_rate_that_is_tried(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = torch.optim.AdamW.step

    def watched(self: Any, **given: Any) -> Any:
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, **given)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    asked = settings(films, *BOTH[1:], "callbacks=lr_finder")
    find(asked, prepare(asked))
    ratios = [[rate / max(rates) for rate in rates] for rates in seen[1:]]
    assert len(ratios) >= 30
    assert len(set(ratios[0])) >= 3  # stem, two blocks, head
    for each in ratios:
        assert each == pytest.approx(ratios[0], rel=1e-6)
    assert max(seen[-1]) > 100 * max(seen[1])


def test_cached_features_need_no_finder(films: Path) -> None:
    asked = settings(films, *BOTH, "optim=probe")
    with pytest.raises(ConfigError, match="BatchSizeFinder and LearningRateFinder: the backbone is frozen"):
        find(asked, prepare(asked))


def test_accumulation_that_changes_is_planned_for(fitted: Any) -> None:
    _, numbers, folder = fitted(
        "callbacks=accumulation", "++callbacks.accumulation.scheduling={0:3,2:1}", "trainer.batch_size=3",
        "trainer.accumulate=1", "optim.plan.warmup_epochs=2", "optim.plan.final_lr=0", "trainer.epochs=4",
    )  # fmt: skip
    found, _, _ = fitted("trainer.batch_size=3", "trainer.epochs=1", "trainer.accumulate=1", name="one")
    batches = len(found.data.train_dataloader())
    steps = 2 * -(-batches // 3) + 2 * batches
    stored = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == steps
    rates = [epoch["train/lr"] for epoch in numbers]
    assert rates[1] == max(rates)  # the warm-up ends with the second epoch, after its few steps
    assert rates[-1] < 0.15 * rates[1]  # and the cosine with the last step


def test_the_length_of_uneven_epochs() -> None:
    length = TrainingLength(30, 5, (5, 5, 20))
    assert [length.within(epochs) for epochs in (0, 0.5, 1, 2, 2.5, 3, 9)] == [0, 2, 5, 10, 20, 30, 30]
    assert length.epochs == 3
    assert TrainingLength(20, 5, (5, 5, 20)).epochs == 2.5
