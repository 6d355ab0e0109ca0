"""Every two words of conf/ that may stand together are trained, evaluated, exported and predicted: by hand, 20 minutes.

    MEDVIT_PAIRS=1 python -m pytest -s tests/test_pairs_of_words.py

One model stands for its kind (a plain ViT, one with every switch, a volume's, a convolutional one). A pair is tried in
several cases until one runs; a pair whose every case is refused, before a run is opened, is listed with the refusal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import combinations, islice, product
from pathlib import Path

import pytest
from test_every_word import Case, asked_of
from whole_path import furthest, whole_path, words

from medvit.errors import ConfigError, MedvitError

MODELS = ("vit_pico", "vit_modern_16", "vit_pico_3d", "segresnet_3d")
GROUPS = {"task": words("task"), "model": MODELS, "pool": words("pool"), "optim": words("optim"), "bag": words("bag")}
TRIES = 60  # cases that are tried for a pair before it counts as refused: all of them
Pair = frozenset[tuple[str, str]]  # of group and word


def pairs(case: Case) -> set[Pair]:
    return {frozenset(two) for two in combinations(sorted(case.items()), 2)}


def candidates(pair: Pair, open_pairs: set[Pair]) -> Iterator[Case]:
    """Yield cases that hold a pair, those with most pairs that were not tried yet first."""
    given = dict(pair)
    rest = [name for name in GROUPS if name not in given]
    cases = [given | dict(zip(rest, chosen, strict=True)) for chosen in product(*(GROUPS[name] for name in rest))]
    yield from sorted(cases, key=lambda case: -len(pairs(case) & open_pairs))


def opened(place: Path) -> int:
    return len(list((place / "runs").glob("*/config.json")))


def distance_or_refusal(case: Case, place: Path) -> float | str:
    """Take a case along the whole path; return how far its bundle lies from its evaluation, or why it is refused."""
    asked, images = asked_of(case, place)
    before = opened(place)
    try:
        return furthest(*whole_path(place, asked, images, register=False))
    except MedvitError as error:
        early = isinstance(error, ConfigError) and opened(place) == before
        return str(error).splitlines()[0] if early else f"LATE: {error}"


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("MEDVIT_PAIRS"), reason="20 minutes; by hand with MEDVIT_PAIRS=1")
def test_every_two_words_that_may_stand_together_go_the_whole_path_and_others_are_refused(tmp_path: Path) -> None:
    open_pairs = {frozenset(two) for a, b in combinations(GROUPS, 2)
                  for two in product(((a, word) for word in GROUPS[a]), ((b, word) for word in GROUPS[b]))}  # fmt: skip
    whole, ran, refused, wrong = len(open_pairs), 0, {}, []
    known: dict[Pair, float | str] = {}
    while open_pairs:
        pair = min(open_pairs, key=sorted)
        for case in islice(candidates(pair, open_pairs), TRIES):
            key = frozenset(case.items())
            known[key] = known.get(key) or distance_or_refusal(case, tmp_path)
            if isinstance(known[key], float):
                ran += 1
                wrong += [(case, known[key])] * (known[key] >= 1e-4)
                open_pairs -= pairs(case)
                break
        else:
            refused[" + ".join(f"{a}={b}" for a, b in sorted(pair))] = known[key]
            open_pairs.discard(pair)
        sys.stdout.write(f"\r{ran} cases, {len(open_pairs)} pairs left ")
        sys.stdout.flush()
    sys.stdout.write(f"\n{ran} cases hold {whole - len(refused)} of {whole} pairs; refused:\n")
    sys.stdout.writelines(f"  {pair}: {reason}\n" for pair, reason in refused.items())
    assert not wrong
    assert not {key: said for key, said in known.items() if str(said).startswith("LATE")}
