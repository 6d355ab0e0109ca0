"""Pools and heads: every pool of conf/pool on a real encoder, and what a network promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.config import build, conf_dir
from medvit.errors import ConfigError
from medvit.model.bag import StudyBag
from medvit.model.design import Architecture
from medvit.model.network import Network
from medvit.model.pool import AttentionPool, ClsMeanPool, ClsPool, MeanPool
from medvit.model.vit import ViT
from medvit.types import Bag, Tokens

POOLS = sorted(conf_dir().glob("pool/*.yaml"))


def encoder(prefix: int = 1, width: int = 48) -> ViT:
    torch.manual_seed(0)
    return ViT([16, 24], [8, 8], 1, width, 2, 3, Architecture(prefix=prefix))


def tokens(prefix: int = 1, batch: int = 3) -> Tokens:
    torch.manual_seed(1)
    return Tokens(torch.randn(batch, prefix, 48), torch.randn(batch, 6, 48), (2, 3))


def pool_of(path: Path):
    return build(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", POOLS, ids=lambda p: p.stem)
def test_every_pool_of_conf_gives_raw_logits_and_gradients_to_all_its_parameters(path):
    network = Network(encoder(), pool_of(path), outputs=5)
    logits = network(torch.randn(2, 1, 16, 24))
    assert logits.shape == (2, 5)
    assert network.embed(torch.randn(2, 1, 16, 24)).shape == (2, 96 if path.stem == "cls_mean" else 48)
    (logits * torch.randn(2, 5)).sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    allowed = [n for n in without if path.stem == "mean" and ("prefix" in n)]  # the last class token is not read
    assert [n for n in without if n not in allowed] == []


@pytest.mark.parametrize("path", POOLS, ids=lambda p: p.stem)
def test_one_image_of_a_batch_never_changes_the_logits_of_another(path):
    network = Network(encoder(), pool_of(path), outputs=5).eval()
    image = torch.randn(3, 1, 16, 24)
    other = image.clone()
    other[1] = 100 * torch.randn(1, 16, 24)
    assert torch.equal(network(image)[[0, 2]], network(other)[[0, 2]])


@pytest.mark.parametrize("path", POOLS, ids=lambda p: p.stem)
def test_every_pixel_moves_some_logit(path):
    network = Network(encoder(), pool_of(path), outputs=5).eval()
    image = torch.randn(1, 1, 16, 24, requires_grad=True)
    network(image).square().sum().backward()
    assert (image.grad.abs() > 0).all()


def test_the_attention_of_a_pool_is_the_share_its_output_is_made_of():
    pool = AttentionPool(queries=1, cls=False)
    pool.attach(48, 5)
    torch.nn.init.normal_(pool.queries, std=2.0)
    found = tokens()
    share = pool.attention(found)
    assert share.shape == (3, 1, 6)
    torch.testing.assert_close(share.sum(-1), torch.ones(3, 1))
    torch.testing.assert_close(pool(found), (share @ found.patches)[:, 0])  # values start as the tokens


@pytest.mark.parametrize("queries", [4, "classes"])
def test_the_class_token_is_one_more_token_to_look_at(queries):
    found = tokens(prefix=2)
    without = Tokens(found.prefix[:, :0], torch.cat([found.prefix[:, :1], found.patches], dim=1), found.grid)
    pools = [AttentionPool(queries, cls=True), AttentionPool(queries, cls=False)]
    for pool in pools:
        torch.manual_seed(3)
        pool.attach(48, 5)
        torch.nn.init.normal_(pool.queries, std=2.0)
    torch.testing.assert_close(pools[0](found), pools[1](without))
    torch.testing.assert_close(pools[0].attention(found), pools[1].attention(without)[..., 1:])


def test_class_queries_give_one_map_and_one_vector_per_output():
    pool = AttentionPool(queries="classes")
    pool.attach(48, 5)
    assert pool(tokens()).shape == (3, 5, 48)
    share = pool.attention(tokens())
    assert share.shape == (3, 5, 6)
    assert (share.sum(-1) < 1).all()  # the class token took the rest


def test_each_logit_of_class_queries_reads_its_own_vector_only():
    network = Network(encoder(), AttentionPool("classes"), outputs=4).eval()
    pooled = torch.randn(2, 4, 48)
    changed = pooled.clone()
    changed[:, 2] += 1 + torch.randn(48)
    moved = (network.classify(pooled) - network.classify(changed)).abs() > 1e-6
    assert moved.any(0).tolist() == [False, False, True, False]


def test_an_attention_pool_starts_near_the_mean_of_its_tokens():
    pool, mean = AttentionPool(queries=8, cls=False), MeanPool()
    pool.attach(48, 5)
    torch.testing.assert_close(pool(tokens()), mean(tokens()), atol=0.1, rtol=0)
    torch.testing.assert_close(mean.attention(tokens()), torch.full((3, 1, 6), 1 / 6))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)))
def test_pools_do_not_depend_on_the_order_of_the_patches(order):
    found = tokens()
    pool = AttentionPool(queries=4)
    pool.attach(48, 3)
    moved = found._replace(patches=found.patches[:, list(order)])
    torch.testing.assert_close(pool(found), pool(moved), atol=1e-5, rtol=1e-5)


def test_a_class_token_that_is_not_there_is_refused_with_the_alternatives():
    with pytest.raises(ConfigError, match=r"pool=mean or pool=attention"):
        ClsPool()(tokens(prefix=0))


@pytest.mark.parametrize("queries", [0, -1, "class", "8"])
def test_queries_that_are_no_number_or_word_are_refused(queries):
    with pytest.raises(ConfigError, match="expected a number of at least 1, or 'classes'"):
        AttentionPool(queries=queries)


def test_queries_that_do_not_divide_the_width_name_the_nearest_that_do():
    with pytest.raises(ConfigError, match="the nearest that does is 6"):
        Network(encoder(), AttentionPool(queries=7), outputs=2)


def test_a_bag_given_to_a_network_for_single_images_is_refused():
    network = Network(encoder(), MeanPool(), outputs=2)
    bag = Bag(torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2), torch.zeros(1, 2).long())
    with pytest.raises(ConfigError, match="bag=study"):
        network(torch.randn(1, 2, 1, 16, 24), bag)


def test_a_single_image_is_a_bag_of_one():
    network = Network(encoder(), MeanPool(), outputs=2, bag=StudyBag(queries=2, kinds=4)).eval()
    image = torch.randn(3, 1, 16, 24)
    bag = Bag(torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 1), torch.zeros(3, 1).long())
    torch.testing.assert_close(network(image), network(image[:, None], bag))


def test_norm_and_head_work_in_fp32_under_autocast():
    network = Network(encoder(), MeanPool(), outputs=2).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.randn(2, 1, 16, 24)).dtype == torch.float32
        pooled = torch.randn(2, 48)
        low = network.classify(pooled)
    assert torch.equal(low, network.classify(pooled))


def test_a_class_token_head_is_exactly_the_checkpoints_own_linear_classifier():
    network = Network(encoder(), ClsPool(), outputs=3).eval()
    image = torch.randn(2, 1, 16, 24)
    expected = network.backbone(image).prefix[:, 0] @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(image), expected)


def test_class_token_and_mean_stand_side_by_side_and_share_the_attention_evenly():
    given, pool = tokens(), ClsMeanPool()
    both = pool(given)
    assert torch.equal(both, torch.cat([ClsPool()(given), MeanPool()(given)], dim=1))
    assert pool.attention(given).sum(-1) == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="needs a class token"):
        pool(tokens(prefix=0))
