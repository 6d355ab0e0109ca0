"""The same batches for any number of workers and ranks and after a resume; bags; the test split stays shut."""

from __future__ import annotations

import os
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from medvit.data.cache import Cache
from medvit.data.datamodule import DataModule
from medvit.data.loader import BatchLoader, Plan
from medvit.data.sampler import Sampler
from medvit.data.units import Units
from medvit.errors import ConfigError, DataError, SplitError
from medvit.preprocess import FilmPreprocess, VolumePreprocess
from medvit.task.multiclass import Multiclass
from medvit.task.ordinal import Ordinal

PRE = FilmPreprocess(size=(16, 16), mean=0.4, std=0.2)


class Labels:
    """The smallest task: one column, missing where null."""

    def encode(self, frame):
        value = frame[["label.x"]].to_numpy(np.float32)
        return np.nan_to_num(value), (~np.isnan(value)).astype(np.float32)


def jitter(images, seed, epoch, position, member):
    """An augmentation whose outcome tells its draw: a shift of grey that depends on (seed, epoch, position, member)."""
    shift = (position * 7 + member * 3 + epoch * 11 + seed) % 50
    return images + shift.astype(np.uint8).reshape(-1, 1, 1, 1)


def write_rows(root, count, per_patient=4):
    root.mkdir(exist_ok=True)
    generator = np.random.default_rng(1)
    for n in range(count):
        cv2.imwrite(str(root / f"{n}.png"), generator.integers(0, 200, (20, 20), dtype=np.uint8))
    number = np.arange(count)
    return pd.DataFrame(
        {
            "uid": [f"{n:032x}" for n in number],
            "patient": [f"p{n // per_patient}" for n in number],
            "study": [f"s{n // 2}" for n in number],
            "files": [[f"{n}.png"] for n in number],
            "volume_key": "",
            "view": ["PA" if n % 2 else "LL" for n in number],
            "label.x": (number // 2 % 2).astype(float),
            "_side": ["train" if n < count - 8 else "val" if n < count - 4 else "test" for n in number],
        }
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    root = tmp_path_factory.mktemp("films")
    return write_rows(root, 30), root


@pytest.fixture(scope="module")
def units(rows, tmp_path_factory):
    cache = Cache.build(rows[0], rows[1], PRE, tmp_path_factory.mktemp("cache"), workers=1)
    return Units(cache, np.arange(22), Labels())


def plan(**changes):
    return Plan(**{"batch_size": 4, "seed": 5, "sampler": Sampler(), "augment": jitter, **changes})


def same(first, second):
    return (
        first.uid == second.uid
        and torch.equal(first.image, second.image)
        and torch.equal(first.target, second.target)
        and torch.equal(first.weight, second.weight)
    )


def epoch_of(loader, epoch):
    loader.set_epoch(epoch)
    return list(loader)


@pytest.mark.parametrize("kind", ["plain", "weighted", "patient"])
def test_batches_are_the_same_for_0_1_and_4_workers(units, kind):
    found = [epoch_of(BatchLoader(units, plan(sampler=Sampler(kind)), workers), 3) for workers in (0, 1, 4)]
    assert len(found[0]) == 6
    assert all(same(a, b) and same(a, c) for a, b, c in zip(*found, strict=True))


def test_two_ranks_see_together_what_one_sees(units):
    whole = epoch_of(BatchLoader(units, plan(batch_size=8)), 2)
    halves = [epoch_of(BatchLoader(units, plan(rank=rank, ranks=2)), 2) for rank in (0, 1)]
    for one, left, right in zip(whole, *halves, strict=True):
        assert one.uid == left.uid + right.uid
        assert torch.equal(one.image, torch.cat([left.image, right.image]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_with_the_very_next_batch(units, workers):
    whole = epoch_of(BatchLoader(units, plan()), 4)
    first = BatchLoader(units, plan(), workers)
    first.set_epoch(4)
    batches = iter(first)
    assert all(same(next(batches), whole[n]) for n in range(2))
    resumed = BatchLoader(units, plan(), workers)
    resumed.load_state_dict(first.state_dict())
    resumed.set_epoch(4)
    rest = list(resumed)
    assert len(rest) == 4
    assert all(same(a, b) for a, b in zip(rest, whole[2:], strict=True))
    assert resumed.epoch == 5
    assert len(list(resumed)) == 6


def test_a_loop_that_stops_early_starts_the_next_pass_at_the_beginning(units):
    """Lightning's sanity check takes two validation batches and leaves."""
    loader = BatchLoader(units, plan(sampler=None, augment=None))
    next(iter(loader))
    assert [uid for batch in loader for uid in batch.uid] == units.uid.tolist()


def test_every_unit_comes_once_and_epochs_differ(units):
    loader = BatchLoader(units, plan(augment=None))
    epochs = [[uid for batch in loader for uid in batch.uid] for _ in range(3)]
    assert all(sorted(uids) == sorted(units.uid) for uids in epochs)
    assert len({tuple(uids) for uids in epochs}) == 3


def test_a_sample_drawn_twice_is_augmented_differently(units):
    loader = BatchLoader(units, plan(sampler=Sampler("weighted"), batch_size=22))
    batch = epoch_of(loader, 1)[0]
    twice = next(uid for uid in batch.uid if batch.uid.count(uid) > 1)
    a, b = [n for n, uid in enumerate(batch.uid) if uid == twice][:2]
    assert not torch.equal(batch.image[a], batch.image[b])


def test_images_and_labels_belong_to_their_uid(units, rows):
    for batch in BatchLoader(units, plan(augment=None)):
        for uid, image, target in zip(batch.uid, batch.image, batch.target, strict=True):
            assert np.array_equal(image.numpy(), PRE.integers(rows[1] / f"{int(uid, 16)}.png"))
            assert target.item() == int(uid, 16) // 2 % 2


def test_weighted_and_patient_sampling_balance_what_they_say():
    target = np.array([[1.0]] * 5 + [[0.0]] * 45, np.float32)
    patient = np.array(["many"] * 40 + [f"p{n}" for n in range(10)], object)
    known = np.ones_like(target)
    known[49] = 0
    chance = Sampler("weighted").weights(target, known, patient)
    assert chance[:5].sum() == pytest.approx(0.5)
    assert chance[49] == 0
    chance = Sampler("patient").weights(target, known, patient)
    assert chance[:40].sum() == pytest.approx(1 / 11)
    drawn = np.concatenate([Sampler("patient").order(0, epoch, 50, chance) for epoch in range(200)])
    assert (drawn < 40).mean() == pytest.approx(1 / 11, abs=0.01)


@pytest.mark.parametrize("task", [Multiclass("c", [0, 1, 2, 3]), Ordinal("c", [0, 1, 2, 3])])
def test_weighted_sampling_draws_each_class_and_each_level_equally_often(rows, tmp_path, task):
    """Column by column, a rare class among several came too seldom, and the levels in the middle as well."""
    table, root = rows
    level = np.minimum(np.arange(len(table)) // 3, 3).astype(float)
    level[-1] = np.nan
    cache = Cache.build(table.assign(**{"label.c": level}), root, PRE, tmp_path, workers=1)
    loader = BatchLoader(Units(cache, np.arange(len(table)), task), plan(sampler=Sampler("weighted")))
    assert [loader._chance[level == k].sum() for k in range(4)] == pytest.approx([0.25] * 4)
    assert loader._chance[-1] == 0


def test_weighted_sampling_refuses_what_has_no_classes():
    target = np.arange(50, dtype=np.float32)[:, None]
    with pytest.raises(ConfigError, match="classes"):
        Sampler("weighted").weights(target, np.ones_like(target), np.arange(50).astype(object))
    with pytest.raises(ConfigError, match="missing"):
        Sampler("weighted").weights(target, np.zeros_like(target), np.arange(50).astype(object))
    with pytest.raises(ConfigError, match="plain, weighted or patient"):
        Sampler("balanced")


def test_an_error_while_augmenting_names_the_uid(units):
    def broken(images, *draw):
        raise RuntimeError("no such thing")

    for workers in (0, 2):
        with pytest.raises(RuntimeError) as caught:
            list(BatchLoader(units, plan(augment=broken, sampler=None), workers))
        assert units.uid[0] in "".join(caught.value.__notes__)


def test_studies_become_bags_with_a_mask(rows, tmp_path):
    cache = Cache.build(rows[0].iloc[:5], rows[1], PRE, tmp_path, workers=1)
    studies = Units(cache, np.arange(5), Labels(), bag="study")
    batch = studies.batch(np.arange(3), np.arange(3))
    assert batch.uid == ("s0", "s1", "s2")
    assert batch.image.shape == (3, 2, 1, 16, 16)
    assert batch.bag.mask.tolist() == [[True, True], [True, True], [True, False]]
    assert batch.bag.kind.tolist() == [[3, 1], [3, 1], [3, 0]]
    assert torch.equal(batch.image[1, 0], torch.from_numpy(cache.gather([2])[0]))
    assert batch.image[2, 1].max() == 0
    assert batch.target.tolist() == [[0.0], [1.0], [0.0]]


def test_the_same_picture_has_the_same_digest_in_any_unit_and_another_has_not(rows, tmp_path):
    cache = Cache.build(rows[0], rows[1], PRE, tmp_path, workers=1)
    single = Units(cache, np.arange(22), Labels()).with_digests()["pixel_sha256"]
    study = Units(cache, np.arange(6), Labels(), bag="study").with_digests()["pixel_sha256"]
    assert single.nunique() == 22
    assert list(study) == [f"{single[n]}|{single[n + 1]}" for n in (0, 2, 4)]


def test_units_whose_labels_disagree_are_refused_together(rows, tmp_path):
    table = rows[0].iloc[:6].assign(**{"label.x": [0, 1, 1, 1, 1, 0]})
    cache = Cache.build(table, rows[1], PRE, tmp_path, workers=1)
    with pytest.raises(DataError, match=r"2 units .* s0, s2"):
        Units(cache, np.arange(6), Labels(), bag="study")
    with pytest.raises(ConfigError, match="study, series or patient"):
        Units(cache, np.arange(6), Labels(), bag="exam")


def test_a_unit_of_several_patients_is_refused(rows, tmp_path):
    cache = Cache.build(rows[0].iloc[:6].assign(study="s0", **{"label.x": 1.0}), rows[1], PRE, tmp_path, workers=1)
    with pytest.raises(DataError, match=r"1 units \(by study\) hold images of several patients"):
        Units(cache, np.arange(6), Labels(), bag="study")


def test_series_of_slices_are_bags_by_themselves(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    for number, count in enumerate((3, 5)):
        values = np.random.default_rng(number).integers(0, 99, (12, 10, count)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 2, 1])), tmp_path / f"{number}.nii")
    table = pd.DataFrame(
        {
            "uid": ["a" * 32, "b" * 32],
            "patient": ["p", "q"],
            "files": [["0.nii"], ["1.nii"]],
            "volume_key": "",
            "label.x": [0.0, np.nan],
        }
    )
    pre = VolumePreprocess(size=(0, 8, 8), mode="slices")
    units = Units(Cache.build(table, tmp_path, pre, tmp_path / "cache", workers=1), np.arange(2), Labels())
    batch = units.batch(np.arange(2), np.arange(2))
    assert batch.image.shape == (2, 5, 1, 8, 8)
    assert batch.bag.mask.sum(dim=1).tolist() == [3, 5]
    assert batch.bag.position_mm[0].tolist() == [-2, 0, 2, 0, 0]
    assert batch.weight.tolist() == [[1], [0]]


@pytest.fixture
def module(rows, tmp_path):
    def make(**options):
        data = DataModule(tmp_path, PRE, Labels(), augment=jitter, batch_size=5, build_workers=1, **options)
        shown = rows[0] if options.get("allow_test") else rows[0][rows[0]["_side"] != "test"]
        data.prepare_rows(shown, rows[1])
        return data

    return make


def test_a_label_the_task_does_not_know_is_told_before_any_image_is_decoded(rows, tmp_path):
    data = DataModule(tmp_path, PRE, Multiclass("x", classes=[0, 2, 3]), build_workers=1)
    with pytest.raises(DataError, match=r"(?s)E-LABEL label x: .*task\.classes"):
        data.prepare_rows(rows[0], rows[1])
    assert not (tmp_path / "cache").exists()


def test_films_written_after_they_were_indexed_are_told(rows, tmp_path, caplog):
    """Another patient's film at an indexed place was trained with the labels of the one before, without a word."""
    root = tmp_path / "films"
    shutil.copytree(rows[1], root)
    data = DataModule(tmp_path, PRE, Labels(), build_workers=1)
    data.prepare_rows(rows[0], root)
    indexed = max(path.stat().st_mtime_ns for path in root.iterdir())
    data._tell_written_since(indexed)
    assert caplog.text == ""
    (root / "3.png").write_bytes((root / "9.png").read_bytes())
    os.utime(root / "3.png", ns=(indexed + 10**9,) * 2)
    data = DataModule(tmp_path, PRE, Labels(), build_workers=1)
    data.prepare_rows(rows[0], root)
    data._tell_written_since(indexed)
    assert "1 of 30 images were written after they were indexed" in caplog.text


def test_training_never_reads_the_test_split(module):
    data = module()
    assert len(data.train_dataloader()) == 5
    assert [len(batch.uid) for batch in data.val_dataloader()] == [4]
    with pytest.raises(SplitError, match="test split"):
        data.test_dataloader()
    opened = list(module(allow_test=True).test_dataloader())
    assert [batch.uid for batch in opened] == [tuple(f"{n:032x}" for n in range(26, 30))]


def test_the_device_normalises_as_the_preprocessing_does(module, rows):
    batch = next(iter(module().val_dataloader()))
    assert batch.image.dtype == torch.uint8
    expected = np.stack([PRE(rows[1] / f"{int(uid, 16)}.png") for uid in batch.uid])
    data = module()
    assert np.array_equal(data.normalise(batch.image).numpy(), expected)
    assert np.array_equal((batch.image.float() * data.scale + data.shift).numpy(), expected)


def test_the_audit_runs_before_every_training_epoch(module, monkeypatch):
    data, seen = module(audit_share=0.5), []
    monkeypatch.setattr(data.cache, "audit", lambda *arguments: seen.append(arguments) or 1)
    loader = data.train_dataloader()
    list(loader)
    list(loader)
    list(data.val_dataloader())
    assert seen == [(0, 0.5, 0), (1, 0.5, 0)]


def test_wrong_settings_are_named_with_the_nearest_right_one(tmp_path):
    with pytest.raises(ConfigError, match="did you mean workers"):
        DataModule(tmp_path, PRE, Labels(), worker=3)
    wrong = {"batch_size": 0, "workers": -1, "prefetch": 0, "pin": "yes", "audit_share": 2, "on_bad": "ignore"}
    with pytest.raises(ConfigError) as caught:
        DataModule(tmp_path, PRE, Labels(), **wrong)
    assert all(word in str(caught.value) for word in wrong)


def test_threads_and_batches_ahead_are_measured_and_said(units, caplog, monkeypatch):
    """The clock is a stand-in: what a busy machine measures is no property of the loader."""

    def measured(took):  # seconds of a batch, by threads; the first batch made alone takes five times as long
        alone = []

        def seconds(loader, trial, workers):
            loader.workers = workers
            alone.append(len(trial) == 1)
            return took[workers] * len(trial) * (5 if alone[-1] and sum(alone) == 1 else 1)

        monkeypatch.setattr("medvit.data.loader_tuning._seconds", seconds)
        return BatchLoader(units, plan(), "auto", "auto", None, "auto")

    caplog.set_level("DEBUG", "medvit.data.loader_tuning")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    quick = measured({0: 1e-5})
    assert quick.workers == 0
    assert torch.cuda.is_available() or not quick.pin
    chosen = measured({0: 0.01, 1: 0.01, 2: 0.005, 4: 0.0049, 8: 0.0049})
    assert chosen.workers == 2  # the fewest within a tenth of the fastest
    assert chosen.prefetch == 5
    assert "threads, " in caplog.text
    assert "ms per batch by threads 0: " in caplog.text
    given = BatchLoader(units, plan(), 1, False, None, 7)
    assert (given.workers, given.prefetch) == (1, 7)
    assert all(same(a, b) for a, b in zip(epoch_of(chosen, 1), epoch_of(given, 1), strict=True))


def test_no_more_batches_wait_than_memory_allows(units, monkeypatch):
    monkeypatch.setattr("medvit.data.loader_tuning._MOST_BYTES", 3 * 4 * 256)  # three batches of four 16 x 16 films
    assert BatchLoader(units, plan(), 1, False, None, "auto").prefetch <= 2


def test_lightning_trains_and_validates_with_it(module):
    import pytorch_lightning as pl

    seen = {"train": [], "val": []}

    class Mean(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.ones(1))

        def training_step(self, batch, index):
            seen["train"].append((self.current_epoch, batch.uid))
            return (self.trainer.datamodule.normalise(batch.image).mean() * self.factor).square()

        def validation_step(self, batch, index):
            seen["val"].append(batch.uid)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(max_epochs=2, accelerator="cpu", **options).fit(Mean(), datamodule=module())
    expected = BatchLoader(module().units("train"), Plan(5, 0, Sampler()))
    assert seen["train"] == [(epoch, batch.uid) for epoch in (0, 1) for batch in epoch_of(expected, epoch)]
    assert seen["val"] == [tuple(f"{n:032x}" for n in range(22, 26))] * 3


def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_with_the_next_batch(module, tmp_path):
    import pytorch_lightning as pl

    class Listening(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.factor, self.seen = torch.nn.Parameter(torch.ones(1)), []

        def training_step(self, batch, index):
            self.seen.append((self.current_epoch, batch.uid, batch.image.sum().item()))
            return batch.image.float().mean() * self.factor

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    quiet |= {"enable_checkpointing": False, "limit_val_batches": 0}
    whole, first, rest = Listening(), Listening(), Listening()
    pl.Trainer(max_epochs=2, **quiet).fit(whole, datamodule=module())

    class SaveAtSeven(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 7:
                trainer.save_checkpoint(tmp_path / "stopped.ckpt")

    pl.Trainer(max_steps=7, callbacks=[SaveAtSeven()], **quiet).fit(first, datamodule=module())
    pl.Trainer(max_epochs=2, **quiet).fit(
        rest, datamodule=module(workers=2), ckpt_path=tmp_path / "stopped.ckpt", weights_only=True
    )
    assert len(whole.seen) == 10
    assert first.seen + rest.seen == whole.seen
