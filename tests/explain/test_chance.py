"""Networks of random weights point where chance does; a trained one is far from it."""

from __future__ import annotations

import numpy as np
import planted
import pytest

from medvit.explain import attribution, localisation
from medvit.explain.overlay import upsample

MODELS, SCORES = 24, ("pointing", "energy")
IMAGE, _, MASK = planted.images(32, 5)
IMAGE, TRUTHS = (
    IMAGE[1::2],
    [localisation.Annotation(mask.numpy(), (1.0, 1.0), str(k)) for k, mask in enumerate(MASK[1::2])],
)


def mean_scores(maps):
    scores = [localisation.score(each, truth) for each, truth in zip(maps, TRUTHS, strict=True)]
    return np.array([np.mean([score[name] for score in scores]) for name in SCORES])


def mapped(network, name):
    maps = attribution.method(name, None)(network, IMAGE, 0)
    return mean_scores(upsample(maps, (planted.SIDE, planted.SIDE)).clamp_min(0).numpy())


@pytest.mark.parametrize("name", ["occlusion", "relevance", "gradcam"])
def test_random_weights_give_the_chance_value_of_the_boxes(name, trained):
    """Over random networks the interval of each mean score, three standard errors, holds the score of an even map."""
    chance = mean_scores(np.ones((len(TRUTHS), planted.SIDE, planted.SIDE)))
    drawn = np.stack([mapped(planted.network(seed=1000 + seed), name) for seed in range(MODELS)])
    error = drawn.std(axis=0, ddof=1) / np.sqrt(MODELS)
    assert (np.abs(drawn.mean(axis=0) - chance) < 3 * error).all()
    assert (error < chance / 2).all()  # an interval that is too wide would hold anything
    if name != "gradcam":  # points elsewhere here, as in docs/explanation/maps.md
        assert (mapped(trained, name) > chance + 10 * error).all()
