"""Cached features: the right rows, computed once, never stale, never torn."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from medvit.errors import CacheError, ConfigError
from medvit.model.design import Architecture, TrainingOptions
from medvit.model.feature_cache import FeatureCache, weights_digest
from medvit.model.pool import ClsPool, MeanPool
from medvit.model.vit import ViT

UIDS = [f"{k:032x}" for k in range(7)]


def vit(prefix: int = 1, seed: int = 0) -> ViT:
    torch.manual_seed(seed)
    return ViT([16, 16], [8, 8], 1, 24, 2, 2, Architecture(prefix=prefix), TrainingOptions(drop_path=0.5, keep=0.5))


def images() -> torch.Tensor:
    return torch.randn(7, 1, 16, 16, generator=torch.Generator().manual_seed(1))


class Loader:
    """Batches in a mixed order, counting how often they were read."""

    def __init__(self, order=(3, 1, 6, 0, 2, 5, 4), size: int = 3):
        self.order, self.size, self.reads = list(order), size, 0

    def __iter__(self):
        self.reads += 1
        for first in range(0, len(self.order), self.size):
            rows = self.order[first : first + self.size]
            yield tuple(UIDS[row] if row < 7 else "unknown" for row in rows), images()[[row % 7 for row in rows]]


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_cached_tokens_are_the_backbones_own_in_the_order_asked(tmp_path, prefix):
    net = vit(prefix).train()
    found = FeatureCache(tmp_path).get(net, "p", UIDS, Loader())
    assert net.training  # put back
    expected = net.eval()(images())  # without drop path and dropped patches
    tokens = found.tokens(torch.from_numpy(np.array(found.values)))
    assert tokens.grid == (2, 2)
    torch.testing.assert_close(tokens.prefix, expected.prefix, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(tokens.patches, expected.patches, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_a_summary_is_exact_for_the_pools_that_need_no_more(tmp_path, prefix):
    net = vit(prefix)
    found = FeatureCache(tmp_path).get(net, "p", UIDS, Loader(), keep="summary")
    tokens, expected = found.tokens(torch.from_numpy(np.array(found.values))), net.eval()(images())
    torch.testing.assert_close(MeanPool()(tokens), MeanPool()(expected), atol=1e-6, rtol=1e-5)
    if prefix:
        torch.testing.assert_close(ClsPool()(tokens), ClsPool()(expected), atol=1e-6, rtol=1e-5)
    else:
        with pytest.raises(ConfigError, match="needs a class token"):
            ClsPool()(tokens)


def test_the_second_time_no_image_is_read(tmp_path):
    loader, net = Loader(), vit()
    first = FeatureCache(tmp_path).get(net, "p", UIDS, loader)
    again = FeatureCache(tmp_path).get(vit(), "p", UIDS, loader)
    assert loader.reads == 1
    assert np.array_equal(first.values, again.values)


def test_other_weights_preprocessing_or_images_are_another_cache(tmp_path):
    loader, cache, changed = Loader(), FeatureCache(tmp_path), vit()
    cache.get(vit(), "p", UIDS, loader)
    with torch.no_grad():
        changed.blocks[1].mlp.fc2.bias[3] += 1e-6
    cache.get(changed, "p", UIDS, loader)
    cache.get(vit(), "q", UIDS, loader)
    cache.get(vit(), "p", UIDS[:3], Loader((0, 2, 1)))
    cache.get(vit(), "p", UIDS, loader, keep="summary")
    assert loader.reads == 4
    assert len(list(tmp_path.glob("*.npy"))) == 5


def test_the_digest_sees_names_shapes_and_values():
    assert weights_digest(vit()) == weights_digest(vit())
    assert weights_digest(vit()) != weights_digest(vit(seed=1))
    assert weights_digest(vit()) != weights_digest(vit(prefix=2))


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ((0, 1, 2, 3, 4, 5), "left out 1 of 7"),
        ((0, 1, 2, 3, 4, 5, 6, 7), "1 unknown images and 0 a second time"),
        ((0, 1, 2, 2, 4, 5, 6), "0 unknown images and 1 a second time"),
        ((0, 0, 1, 2, 3, 4, 5, 6), "0 unknown images and 1 a second time"),
        ((), "left out 7 of 7"),
    ],
)
def test_a_loader_that_gives_other_images_leaves_no_cache_behind(tmp_path, order, message):
    with pytest.raises(CacheError, match=message):
        FeatureCache(tmp_path).get(vit(), "p", UIDS, Loader(order))
    assert list(tmp_path.iterdir()) == []


def test_a_pass_that_breaks_off_leaves_nothing_and_the_next_one_is_whole(tmp_path):
    def broken():
        yield from list(Loader())[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path).get(vit(), "p", UIDS, broken())
    assert list(tmp_path.iterdir()) == []
    assert FeatureCache(tmp_path).get(vit(), "p", UIDS, Loader()).values.shape == (7, 5, 24)


def test_a_cache_beyond_the_limit_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(CacheError, match=r"limit is 1e-07 GiB"):
        FeatureCache(tmp_path, limit_gib=1e-7).get(vit(), "p", UIDS, Loader())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_keeps_to_its_limit_and_what_was_used_longest_ago_goes_first(tmp_path):
    one = len(UIDS) * 5 * 24 * 2 / 2**30  # fp16 tokens of seven images
    loader, cache = Loader(), FeatureCache(tmp_path, limit_gib=2.5 * one)
    for age, made_by in ((30, "a"), (20, "b")):
        cache.get(vit(), made_by, UIDS, loader)
        for file in tmp_path.glob("*.npy"):
            os.utime(file, (0, file.stat().st_mtime - age))
    cache.get(vit(), "a", UIDS, loader)  # used again, so b is the one used longest ago
    held = cache.get(vit(), "b", UIDS, loader).values
    cache.get(vit(), "a", UIDS, loader)
    assert loader.reads == 2
    cache.get(vit(), "c", UIDS, loader)
    assert len(list(tmp_path.glob("*.npy"))) == len(list(tmp_path.glob("*.json"))) == 2
    assert np.isfinite(held).all()  # a run that has it open reads on
    cache.get(vit(), "a", UIDS, loader)
    assert loader.reads == 3
    cache.get(vit(), "b", UIDS, loader)
    assert loader.reads == 4


def test_what_a_killed_run_left_half_written_is_removed_a_day_later(tmp_path):
    dead, alive = tmp_path / "aa.77.part", tmp_path / "bb.78.part"
    for file in (dead, alive):
        file.write_bytes(b"torn")
    os.utime(dead, (0, dead.stat().st_mtime - 25 * 3600))
    FeatureCache(tmp_path).get(vit(), "p", UIDS, Loader())
    assert not dead.exists()
    assert alive.exists()


def test_tokens_beyond_fp16_are_refused_instead_of_becoming_infinite(tmp_path):
    net = vit()
    with torch.no_grad():
        net.norm.weight.fill_(1e6)
    with pytest.raises(CacheError, match="beyond fp16"):
        FeatureCache(tmp_path).get(net, "p", UIDS, Loader())
