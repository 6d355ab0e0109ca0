"""Where a network's first weights came from goes with the run: into its folder, and in words a tracker may hold."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvit.engine.checkpoint import BEST, load_run
from medvit.errors import RunError
from medvit.tracking.allow_list import check_tags
from medvit.tracking.tags import checkpoint_tags


def test_the_checkpoint_a_run_began_with_is_told_in_its_folder(fitted):
    scratch, numbers, first = fitted("trainer.epochs=1", name="first")
    assert {"train/loss", "train/lr", "val/loss"} <= numbers[0].keys()  # of this epoch, not of the one before
    assert scratch.weights == load_run(first).weights == {}
    found, _, folder = fitted("trainer.epochs=1", f"model.weights={first}", name="second")
    told = json.loads((folder / "weights.json").read_text())
    assert told == found.weights == load_run(folder).weights
    assert told["sha256"] == hashlib.sha256((first / BEST).read_bytes()).hexdigest()
    assert str(first) not in json.dumps(told)
    assert told["report"].count("matched") == 1


def test_images_normalised_otherwise_than_the_checkpoint_was_are_told(fitted, caplog):
    """The preset of a data set may state constants; a checkpoint then got images it does not know, without a word."""
    _, _, first = fitted("trainer.epochs=1", name="first")
    again = ("trainer.epochs=1", f"model.weights={first}")
    fitted(*again, name="same")
    assert "normalised" not in caplog.text
    fitted(*again, "preprocess.mean=0.3", name="other")
    assert "normalised by mean 0.3, std 0.25 and not as the checkpoint's were, by mean 0.5, std 0.25" in caplog.text


def test_a_run_is_not_resumed_on_another_checkpoint_of_the_same_name(fitted):
    """A probe keeps its head alone: it would go on above features that its head has never seen."""
    _, _, first = fitted("trainer.epochs=1", name="first")
    probe = ("optim=probe", f"model.weights={first}")
    _, _, folder = fitted(*probe, "trainer.epochs=2", name="probe")
    last = folder / "checkpoints" / "last.ckpt"
    fitted(*probe, "trainer.epochs=3", name="probe", resume=last)
    other = {name: torch.roll(tensor, 1, 0) for name, tensor in load_file(first / BEST).items()}
    save_file(other, first / BEST)
    with pytest.raises(RunError, match=r"model\.weights changed since this run began"):
        fitted(*probe, "trainer.epochs=4", name="probe", resume=last)


def test_tags_hold_the_id_licence_and_citation_of_every_kind_of_checkpoint():
    from medvit.model.pretrained import families

    for family in families.table().families.values():
        given = {
            "weights": "microsoft/rad-dino",
            "revision": "a" * 40,
            "sha256": "b" * 64,
            "report": "x",
            "family": family.name,
            "licence": family.licence,
            "citation": family.citation,
        }
        tags = checkpoint_tags(given)
        check_tags(tags)
        assert tags["medvit.weights.id"] == "microsoft--rad-dino"
        assert tags["medvit.weights.family"]
        assert {"medvit.weights.licence", "medvit.weights.sha256", "medvit.weights.revision"} <= tags.keys()
    assert "medvit.weights.revision" not in checkpoint_tags({**given, "revision": ""})
