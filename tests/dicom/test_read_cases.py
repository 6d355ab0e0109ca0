"""Every bad or odd single object of the list is handled as the list says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from cases import CASES, QUARANTINE, REFUSE, SKIP, Case

from medvit.dicom.policy import FilmPolicy
from medvit.dicom.read import read_film
from medvit.errors import DicomRefusal

_SECRETS = ("CANARY", "1.2.826.0.1.3680043.10.1", "20010203")


def test_the_table_holds_every_case_from_b001_to_b064() -> None:
    assert {case.id[:4] for case in CASES} == {f"B{n:03d}" for n in range(1, 65)}
    assert len({case.id for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", [c for c in CASES if c.action in (REFUSE, SKIP, QUARANTINE)], ids=lambda c: c.id)
def test_what_must_not_be_read_is_refused_with_its_code(case: Case) -> None:
    with pytest.raises(DicomRefusal) as caught:
        read_film(case.build(), FilmPolicy.of(case.policy))
    assert caught.value.code == case.code
    assert not [secret for secret in _SECRETS if secret in str(caught.value)]


@pytest.mark.parametrize("case", [c for c in CASES if c.truth], ids=lambda c: c.id)
def test_what_can_be_read_shows_the_right_picture(case: Case) -> None:
    film = read_film(case.build(), FilmPolicy.of(case.policy))
    truth = case.truth()
    assert film.samples.shape == truth.shape
    assert np.abs(film.display() - truth).max() <= case.within
    codes = {re.match(r"[A-Z]-[A-Z]+", text)[0] for text in film.warnings}
    assert codes == ({case.code} if case.code else set())
    assert not [secret for secret in _SECRETS if secret in str((film.warnings, film.steps, film.facts))]
