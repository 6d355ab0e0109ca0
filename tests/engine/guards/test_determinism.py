"""`trainer.determinism`: what each level promises, and that a processor keeps it to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medvit.bundle.card.facts import Facts
from medvit.bundle.card.markdown import card
from medvit.engine.guards.determinism import LEVELS, described, level_of

GOLDEN = Path(__file__).with_name("golden_losses.json")  # of torch 2.13 on an AVX2 processor
WORDS = ("augment=xray", "optim.plan.ema=0", "trainer.limit_train_batches=3", "trainer.workers=0")


@pytest.fixture(autouse=True)
def as_it_was() -> Any:
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


@pytest.mark.parametrize("level", LEVELS)
def test_a_training_repeated_on_a_processor_has_the_same_bits_and_the_losses_on_record(level: str, fitted: Any) -> None:
    first, again = (fitted(*WORDS, f"trainer.determinism={level}", name=name)[1] for name in ("first", "again"))
    assert first == again
    recorded = json.loads(GOLDEN.read_text(encoding="utf-8"))
    for key, losses in recorded.items():
        assert [numbers[key] for numbers in first] == pytest.approx(losses, rel=1e-3)  # other processors add otherwise


@pytest.mark.parametrize(
    ("level", "flags"), [("bitwise", (True, False)), ("seeded", (False,) * 2), ("fast", (False, True))]
)
def test_the_level_is_what_torch_is_told(level: str, flags: tuple[bool, bool], fitted: Any, caplog: Any) -> None:
    caplog.set_level("INFO", "medvit")
    fitted("trainer.epochs=1", "trainer.limit_train_batches=1", f"trainer.determinism={level}")
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == flags
    assert f"determinism: {level} ({LEVELS[level]})" in caplog.messages


def test_a_run_from_before_the_levels_keeps_what_it_said() -> None:
    assert [level_of(node) for node in ({"deterministic": True}, {"deterministic": False}, {})] == [
        "bitwise",
        "seeded",
        "seeded",
    ]


def test_the_model_card_says_how_far_a_training_can_be_repeated() -> None:
    told = described({"determinism": "fast"})
    assert f"- trained again with the same settings: {told}" in card(
        Facts("x", {"definitions": {}}, {"determinism": told})
    )
