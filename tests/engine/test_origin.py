"""Where a network's first weights came from goes with the run: into its folder, and in words a tracker may hold."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvit.bundle.card.facts import Facts
from medvit.bundle.card.markdown import card
from medvit.engine.checkpoint import BEST, load_run
from medvit.errors import RunError, WeightsError
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


PLAIN = ("model.width=48", "model.heads=3", "~model.stem", "~model.positions", "~model.mlp", "trainer.epochs=1")


def published(folder, **config):
    """Write a small checkpoint in timm's names, as somebody publishes it, with what they say of it."""
    from medvit.model.backbone import vit
    from medvit.model.pretrained import store

    state = vit([32, 32], None, 1, [8, 8], 48, 2, 3, positions="learned", prefix=1).state_dict()
    names = {"prefix_token": "cls_token", "patch_embed.weight": "patch_embed.proj.weight",
             "patch_embed.bias": "patch_embed.proj.bias"}  # fmt: skip
    store.write(
        folder, {names.get(key, key): value for key, value in state.items()}, {"num_attention_heads": 3, **config}
    )
    return (*PLAIN, f"model.weights={folder}")


def test_weights_of_unknown_licence_train_only_where_a_person_accepts_it(fitted, tmp_path):
    given = published(tmp_path / "w", medvit_licence="unknown", image_mean=[0.5], image_std=[0.25])
    with pytest.raises(WeightsError, match=r"nobody states a licence of these weights.*weights\.accept_licence=true"):
        fitted(*given)
    found, _, folder = fitted(*given, "weights.accept_licence=true", name="accepted")
    assert json.loads((folder / "weights.json").read_text())["licence"] == found.weights["licence"] == "unknown"


def test_weights_of_unknown_normalisation_train_only_where_the_settings_say_it(fitted, tmp_path):
    given = published(tmp_path / "w", medvit_licence="MIT")
    unsaid = ("preprocess.mean=null", "preprocess.std=null")
    with pytest.raises(WeightsError, match=r"neither the files nor the catalogue say what images were normalised with"):
        fitted(*given, *unsaid)
    found, _, _ = fitted(*given, "preprocess.mean=0.4", "preprocess.std=0.2", name="said")
    assert (found.preprocess.mean, found.preprocess.std) == (0.4, 0.2)


def test_a_data_set_the_weights_were_pretrained_on_is_told_in_log_run_and_card_also_of_what_is_made_of_them(
    fitted, tmp_path, caplog
):
    seen = {"medvit_pretrained_on": "NIH ChestX-ray14; CheXpert", "medvit_licence": "MIT"}
    given = published(tmp_path / "w", image_mean=[0.5], image_std=[0.25], **seen)
    found, _, folder = fitted(*given, "data.name=nih_chestxray14", name="first")
    told = "the starting weights were pretrained on NIH ChestX-ray14"
    assert told in caplog.text
    assert told in found.data.hashes["leakage"]
    text = card(Facts("x", {"definitions": {}}, {"weights": found.weights}))
    assert "- they were pretrained on: NIH ChestX-ray14; CheXpert" in text
    assert "- their licence: MIT" in text
    again, _, _ = fitted(*PLAIN, f"model.weights={folder}", name="second")
    assert again.weights["pretrained_on"] == "NIH ChestX-ray14; CheXpert"
