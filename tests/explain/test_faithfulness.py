from __future__ import annotations

import numpy as np
import planted
import pytest
import torch
from scipy.stats import spearmanr

from medvit.explain import faithfulness
from medvit.explain.attribution import METHODS
from medvit.explain.faithfulness import agreement, curves, edge_map, passes, random_map, sanity, shuffled, spearman


def difference(net, image, way):
    deletion, insertion = curves(net, image, way(net, image, 0), lambda logits: logits[:, 0].sigmoid())
    return float((insertion - deletion).mean())


def test_every_faithful_method_beats_edges_and_noise_and_noise_is_worst(trained):
    image = planted.images(16, 5)[0][1::2]
    found = {name: difference(trained, image, METHODS[name]) for name in ("grad_attention", "relevance", "occlusion")}
    edges, noise = difference(trained, image, edge_map), difference(trained, image, random_map)
    assert min(found.values()) > max(edges, noise)
    assert abs(noise) < 0.3


def test_the_truth_is_more_faithful_than_its_opposite(trained):
    image, _, mask = planted.images(8, 5)
    cells = torch.nn.functional.adaptive_avg_pool2d(mask[1::2].float(), 8)
    probability = lambda logits: logits[:, 0].sigmoid()  # noqa: E731
    gone, come = curves(trained, image[1::2], cells, probability)
    late, early = curves(trained, image[1::2], -cells, probability)
    assert (come > early).all()
    assert (gone < late).all()


def test_an_edge_detector_fails_the_sanity_check_and_occlusion_passes(trained):
    image = planted.images(8, 5)[0][1::2]
    edges, covered = sanity(edge_map, trained, image, 0), sanity(METHODS["occlusion"], trained, image, 0, seeds=(0, 1))
    assert edges == pytest.approx({"head": 1.0, "all": 1.0})
    assert not passes(edges)
    assert covered["all"] < faithfulness.ALL_BOUND


def test_maps_of_a_network_trained_on_permuted_labels_are_others(trained):
    permuted = planted.train(
        planted.network(), lambda t: t[torch.randperm(len(t), generator=torch.Generator().manual_seed(3))], steps=25
    )
    image = planted.images(16, 5)[0][1::2]
    both = [METHODS["occlusion"](net, image, 0) for net in (trained, permuted)]
    assert abs(agreement(*both)) < 0.5
    assert agreement(edge_map(trained, image, 0), edge_map(permuted, image, 0)) == pytest.approx(1)


def test_shuffling_keeps_the_values_and_the_original(trained):
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    other = shuffled(trained, "all")
    assert all(torch.equal(before[key], value) for key, value in trained.state_dict().items())
    for key, value in other.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[key].flatten().sort().values)
    head = shuffled(trained, "head").state_dict()
    assert [key for key in head if not torch.equal(head[key], before[key])] == ["head.weight"]


def test_rank_correlation_agrees_with_scipy():
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = random.integers(0, 6, 30), random.normal(size=30)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert spearman(np.ones(5), np.arange(5)) == 0
