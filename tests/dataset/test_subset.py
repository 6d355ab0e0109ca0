"""Shares of the training patients: nested, whole patients, the labels of the whole, another seed other patients."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from medvit.dataset.subset import learnt, patient_order

SHARES = (0.01, 0.05, 0.1, 0.25, 0.6, 1.0)


def rows(patients: int = 300, rare: float = 0.1) -> pd.DataFrame:
    """Return one to three images per patient, of one label per patient, a tenth of them rare."""
    rng = np.random.default_rng(2)
    patient = np.repeat([f"{n:03d}" for n in rng.permutation(patients)], rng.integers(1, 4, patients))
    label = pd.Series(patient).map(lambda name: "rare" if int(name) < rare * patients else "usual")
    return pd.DataFrame({"patient": patient, "label.finding": label})


def part(share: float, seed: int = 0) -> pd.DataFrame:
    return learnt(rows(), {"share": share, "seed": seed})


def test_a_larger_share_holds_every_smaller_one_and_one_is_all() -> None:
    parts = [set(part(share)["patient"]) for share in SHARES]
    assert all(small < large for small, large in pairwise(parts))
    assert [len(each) for each in parts] == [3, 15, 30, 75, 180, 300]
    pd.testing.assert_frame_equal(part(1.0), rows())
    pd.testing.assert_frame_equal(learnt(rows(), None), rows())


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("seed", range(5))
def test_each_label_has_its_share_of_the_patients_to_one_patient(share: float, seed: int) -> None:
    counts = part(share, seed).drop_duplicates("patient")["label.finding"].value_counts()
    assert abs(counts.get("rare", 0) - 30 * share) <= 1
    assert abs(counts["usual"] - 270 * share) <= 1


def test_a_patient_comes_with_all_images_or_not_at_all() -> None:
    whole, some = rows()["patient"].value_counts(), part(0.25)["patient"].value_counts()
    assert (some == whole[some.index]).all()


def test_another_seed_gives_other_patients_and_every_patient_is_drawn_equally_often() -> None:
    drawn = [set(patient_order(rows(40), seed)[:10]) for seed in range(400)]
    assert len({frozenset(each) for each in drawn}) > 390
    often = pd.Series([name for each in drawn for name in each]).value_counts()
    assert len(often) == 40
    assert often.between(65, 140).all()  # 100 expected, standard deviation 8.7


def test_measurements_are_balanced_by_quartile_and_the_order_of_rows_changes_nothing() -> None:
    table = pd.DataFrame({"patient": [f"{n:03d}" for n in range(200)], "label.size": np.arange(200.0)})
    some = learnt(table, {"share": 0.2, "seed": 3})
    assert abs(np.bincount((some["label.size"] // 50).astype(int), minlength=4) - 10).max() <= 1
    assert patient_order(table.sample(frac=1, random_state=1), 3) == patient_order(table, 3)
