from __future__ import annotations

import numpy as np
import planted
import pytest
import torch
from scipy.stats import spearmanr

from medvit.explain.attribution import METHODS
from medvit.explain.faithfulness import (
    deletion_insertion,
    edge_map,
    passes_sanity,
    random_map,
    rank_correlation,
    sanity,
    shuffle_weights,
    spearman,
)
from medvit.explain.reference import AVERAGE, GREY, choose, grey
from medvit.model.pool import MeanPool


def probability(net):
    return lambda image: net(image)[:, 0].sigmoid()


def difference(net, image, way):
    deletion, insertion = deletion_insertion(probability(net), image, way(net, image, 0), grey(image))
    return float((insertion - deletion).mean())


def test_every_faithful_method_beats_edges_and_noise_and_noise_is_worst(trained):
    image = planted.images(16, 5)[0][1::2]
    found = {name: difference(trained, image, METHODS[name]) for name in ("integrated", "occlusion", "relevance")}
    edges, noise = difference(trained, image, edge_map), difference(trained, image, random_map)
    assert min(found.values()) > max(edges, noise)
    assert abs(noise) < 0.3


def test_the_truth_is_more_faithful_than_its_opposite(trained):
    image, _, mask = planted.images(8, 5)
    cells = torch.nn.functional.adaptive_avg_pool2d(mask[1::2].float(), 8)
    sick = image[1::2]
    gone, come = deletion_insertion(probability(trained), sick, cells, grey(sick))
    late, early = deletion_insertion(probability(trained), sick, -cells, grey(sick))
    assert (come > early).all()
    assert (gone < late).all()


def test_bags_are_ranked_over_all_their_images(trained):
    image = planted.images(6, 5)[0].reshape(2, 3, 1, 48, 48)
    maps = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    share = lambda bags: (bags != 0).float().mean(dim=(1, 2, 3, 4))  # noqa: E731
    deletion, insertion = deletion_insertion(share, image, maps, torch.zeros_like(image), bagged=True)
    np.testing.assert_allclose(deletion, 0.5, atol=0.01)
    np.testing.assert_allclose(insertion, 0.5, atol=0.01)


def test_gradients_and_occlusion_pass_the_sanity_check_and_an_edge_detector_fails(trained, permuted):
    image = planted.images(8, 5)[0][1::2]
    edges = sanity(edge_map, trained, image, 0, permuted=permuted)
    assert edges == pytest.approx({"head": 1.0, "all": 1.0, "labels": 1.0})
    assert not passes_sanity(edges)
    for name in ("integrated", "occlusion"):
        assert passes_sanity(sanity(METHODS[name], trained, image, 0, seeds=range(6), permuted=permuted)), name


def test_rollout_knows_nothing_of_the_head_and_fails(trained):
    found = sanity(METHODS["rollout"], trained, planted.images(4, 5)[0][1::2], 0)
    assert found["head"] == pytest.approx(1)
    assert not passes_sanity(found)


def test_a_map_without_contrast_fails_the_sanity_check():
    net = planted.network(MeanPool())
    found = sanity(METHODS["head_attention"], net, planted.images(2, 5)[0], 0)
    assert np.isnan(found["head"])
    assert not passes_sanity(found)


def test_a_network_that_never_saw_grey_is_measured_against_the_average_image():
    image = planted.images(6, 5)[0]
    answer = lambda given: 1.0 * (given.std(dim=(1, 2, 3)) < 0.2)  # noqa: E731 - an even image is a finding
    average = torch.randn(1, 1, 48, 48)
    assert choose([(answer, image[:3] * 0.1), (answer, image[3:] * 0.1)], average) == (AVERAGE, average, 1.0)
    assert choose([(answer, image * 0.1)], None) == (GREY, None, 0.0)


@pytest.fixture(scope="module")
def permuted():
    def order(target):
        return target[torch.randperm(len(target), generator=torch.Generator().manual_seed(3))]

    return planted.train(planted.network(), order, steps=25)


def test_maps_of_a_network_trained_on_permuted_labels_are_others(trained, permuted):
    image = planted.images(16, 5)[0][1::2]
    both = [METHODS["occlusion"](net, image, 0) for net in (trained, permuted)]
    assert abs(rank_correlation(*both)) < 0.5
    assert rank_correlation(edge_map(trained, image, 0), edge_map(permuted, image, 0)) == pytest.approx(1)


def test_shuffling_keeps_the_values_and_the_original(trained):
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    other = shuffle_weights(trained, "all")
    assert all(torch.equal(before[key], value) for key, value in trained.state_dict().items())
    for key, value in other.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[key].flatten().sort().values)
    head = shuffle_weights(trained, "head").state_dict()
    assert [key for key in head if not torch.equal(head[key], before[key])] == ["head.weight"]


def test_rank_correlation_agrees_with_scipy():
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = random.integers(0, 6, 30), random.normal(size=30)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert spearman(np.ones(5), np.arange(5)) == 0
