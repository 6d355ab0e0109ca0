"""Studies of several MR series, from the manifest to logits: the types arrive, what is missing is masked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from medvit.data.cache import Cache
from medvit.data.units import KINDS, Units
from medvit.model.bag import StudyBag
from medvit.model.design import Architecture
from medvit.model.network import Network
from medvit.model.pool import MeanPool
from medvit.model.vit import ViT
from medvit.preprocess import VolumePreprocess

nibabel = pytest.importorskip("nibabel")
STUDIES = {"a": ("T1", "T2", "FLAIR"), "b": ("T2",), "c": ("FLAIR", "T1")}


class Labels:
    def encode(self, frame):
        return np.zeros((len(frame), 1), np.float32), np.ones((len(frame), 1), np.float32)


@pytest.fixture
def units(tmp_path):
    rows = []
    for study, sequences in STUDIES.items():
        for sequence in sequences:
            name, count = f"{study}{sequence}.nii", 2 + len(rows) % 3
            values = np.random.default_rng(len(rows)).integers(0, 99, (16, 16, count)).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 2, 1])), tmp_path / name)
            same = {"patient": study, "study": study, "volume_key": "", "label.x": 0.0}
            rows.append({"uid": f"{len(rows):032x}", "files": [name], "sequence": sequence, "view": "", **same})
    preprocess = VolumePreprocess(size=(0, 16, 16), mode="slices")
    table = pd.DataFrame(rows)
    return Units(
        Cache.build(table, tmp_path, preprocess, tmp_path / "cache", workers=1), np.arange(6), Labels(), "study"
    )


def network() -> Network:
    torch.manual_seed(0)
    made = Network(ViT([16, 16], [8, 8], 1, 24, 1, 2, Architecture()), MeanPool(), 1, StudyBag(queries=2))
    torch.nn.init.normal_(made.bag.kind.weight)
    torch.nn.init.normal_(made.bag.queries)
    return made


def test_every_slice_knows_its_sequence_and_what_is_missing_is_masked(units):
    bag = units.batch(np.arange(3), np.arange(3)).bag
    for place, sequences in enumerate(STUDIES.values()):
        there = bag.kind[place][bag.mask[place]]
        assert [KINDS[kind] for kind in dict.fromkeys(there.tolist())] == list(sequences)
    assert len(KINDS) == len(set(KINDS)) <= StudyBag().kinds


def test_a_study_without_a_series_is_judged_by_what_is_there_whoever_shares_its_batch(units):
    net = network().eval()
    together = units.batch(np.arange(3), np.arange(3))
    logits = net(together.image.float(), together.bag)
    for unit in range(3):
        alone = units.batch(np.array([unit]), np.array([unit]))
        torch.testing.assert_close(net(alone.image.float(), alone.bag)[0], logits[unit], atol=1e-5, rtol=1e-5)


def test_another_sequence_under_the_same_pixels_changes_the_answer(units):
    net, batch = network().eval(), units.batch(np.arange(1), np.array([1]))
    other = batch.bag._replace(kind=torch.full_like(batch.bag.kind, KINDS.index("FLAIR")))
    assert not torch.allclose(net(batch.image.float(), batch.bag), net(batch.image.float(), other), atol=1e-4)


def test_training_leaves_out_whole_series_and_gives_the_rest_a_gradient(units):
    net, batch = network().train(), units.batch(np.arange(3), np.arange(3))
    image = batch.image.float().requires_grad_()
    torch.manual_seed(3)
    net(image, batch.bag).sum().backward()
    used = image.grad.flatten(2).abs().sum(-1) > 0
    assert not (used & ~batch.bag.mask).any()
    left_out = 0
    for mask, kind, seen in zip(batch.bag.mask, batch.bag.kind, used, strict=True):
        series = [seen[mask & (kind == value)] for value in kind[mask].unique()]
        assert all(part.all() or not part.any() for part in series)
        assert any(part.all() for part in series)
        left_out += sum(not part.any() for part in series)
    assert left_out > 0
