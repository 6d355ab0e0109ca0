"""Bags: what a mask hides, what positions and kinds mean, and what is left out in training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.errors import ConfigError, DataError
from medvit.model.bag import StudyBag, position_code
from medvit.model.design import Architecture
from medvit.model.network import Network
from medvit.model.pool import AttentionPool, MeanPool
from medvit.model.vit import ViT
from medvit.types import Bag


def network(pool=None, **bag) -> Network:
    torch.manual_seed(0)
    vit = ViT([16, 16], [8, 8], 1, 24, 1, 2, Architecture())
    made = Network(vit, pool or MeanPool(), 3, StudyBag(**{"queries": 2, "kinds": 5, "chunk": 4, **bag}))
    torch.nn.init.normal_(made.bag.queries)  # far from the even start, so that keys matter
    torch.nn.init.normal_(made.bag.kind.weight)
    return made.eval()


def bag_of(mask: list[list[int]]) -> tuple[torch.Tensor, Bag]:
    torch.manual_seed(1)
    there = torch.tensor(mask, dtype=torch.bool)
    position = torch.arange(there.shape[1]).repeat(len(there), 1) * 3.5
    return torch.randn(*there.shape, 1, 16, 16), Bag(there, position, torch.randint(0, 5, there.shape))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), min_size=1, max_size=3))
def test_what_the_mask_hides_changes_nothing_not_even_as_nan(mask):
    net = network()
    image, bag = bag_of(mask)
    expected = net(image, bag)
    hidden = ~bag.mask
    image[hidden] = torch.nan
    spoilt = Bag(bag.mask, bag.position_mm.masked_fill(hidden, torch.nan), bag.kind.masked_fill(hidden, -7))
    assert torch.equal(net(image, spoilt), expected)


def test_a_hidden_image_gets_no_gradient_and_a_shown_one_does():
    image, bag = bag_of([[1, 0, 1]])
    image.requires_grad_()
    network()(image, bag).square().sum().backward()
    assert image.grad[0, 1].abs().sum() == 0
    assert (image.grad[0, [0, 2]].abs() > 0).all()


def test_padding_with_hidden_images_changes_nothing():
    net = network()
    image, bag = bag_of([[1, 1, 1, 0, 0]])
    short = Bag(*(part[:, :3] for part in bag))
    torch.testing.assert_close(net(image, bag), net(image[:, :3], short), atol=1e-6, rtol=1e-5)


def test_the_order_of_images_does_not_matter_but_their_millimetres_and_kinds_do():
    net = network()
    image, bag = bag_of([[1, 1, 1, 1]])
    order = [2, 0, 3, 1]
    moved = Bag(*(part[:, order] for part in bag))
    torch.testing.assert_close(net(image[:, order], moved), net(image, bag), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(net(image, bag._replace(position_mm=bag.position_mm * 2)), net(image, bag), atol=1e-4)
    assert not torch.allclose(net(image, bag._replace(kind=(bag.kind + 1) % 5)), net(image, bag), atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_and_recomputing_change_neither_logits_nor_gradients(chunk):
    image, bag = bag_of([[1, 1, 0], [1, 1, 1]])
    grads = []
    for settings_ in ({"chunk": 4, "checkpointing": False}, {"chunk": chunk, "checkpointing": True}):
        net = network(drop_kinds=0.0, **settings_).train()
        net(image, bag).square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-4)


def test_class_queries_pool_the_images_of_each_output_apart():
    net = network(pool=AttentionPool("classes"))
    image, bag = bag_of([[1, 1, 0], [1, 1, 1]])
    assert net.pooled(image, bag).shape == (2, 3, 24)
    alone = net(image[1:], Bag(*(part[1:] for part in bag)))
    torch.testing.assert_close(net(image, bag)[1:], alone, atol=1e-6, rtol=1e-5)


def test_the_attention_over_images_is_zero_where_none_is():
    net = network()
    image, bag = bag_of([[1, 0, 1]])
    vectors = net.bag.encoded(lambda x: net.from_tokens(net.backbone(x)), image, bag)
    share = net.bag.attention(vectors, bag)
    assert share.shape == (1, 2, 3)
    assert (share[..., 1] == 0).all()
    torch.testing.assert_close(share.sum(-1), torch.ones(1, 2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_training_leaves_out_whole_kinds_and_never_all(seed, drop):
    torch.manual_seed(seed)
    mask = torch.rand(6, 8) < 0.6
    mask[:, 0] = True
    bag = Bag(mask, torch.zeros(6, 8), torch.randint(0, 5, (6, 8)))
    left = StudyBag(kinds=5, drop_kinds=drop).leave_out(bag)
    assert (left <= mask).all()
    assert left.any(dim=1).all()
    for row in range(6):
        for kind in range(5):
            mine = left[row][mask[row] & (bag.kind[row] == kind)]
            assert mine.all() or not mine.any()


def test_kinds_are_left_out_as_often_as_asked():
    torch.manual_seed(0)
    bag = Bag(torch.ones(4000, 5, dtype=torch.bool), torch.zeros(4000, 5), torch.arange(5).repeat(4000, 1))
    share = 1 - StudyBag(kinds=5, drop_kinds=0.3).leave_out(bag).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.02)


def test_nothing_is_left_out_in_evaluation():
    net = network(drop_kinds=0.9)
    image, bag = bag_of([[1, 1, 1, 1]])
    assert torch.equal(net(image, bag), net(image, bag))
    assert (net.eval()(image, bag) - net.train()(image, bag)).abs().max() > 1e-5


def test_empty_bags_and_unknown_kinds_are_told_together():
    image, bag = bag_of([[0, 0], [1, 1]])
    bad = bag._replace(kind=torch.tensor([[0, 0], [1, 9]]))
    with pytest.raises(DataError, match=r"1 of 2 hold no image; 1 images are of a kind outside 0 to 4"):
        network()(image, bad)


@pytest.mark.parametrize("wrong", [{"drop_kinds": 1.0}, {"queries": 0}, {"chunk": 0}, {"kinds": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        StudyBag(**wrong)


def test_a_position_code_tells_millimetres_apart_and_is_not_an_index():
    code = position_code(torch.tensor([[0.0, 1.0, 5.0, 300.0]]), 24)[0]
    assert torch.pdist(code).min() > 0.3
    torch.testing.assert_close(code[0], torch.cat([torch.zeros(12), torch.ones(12)]))  # sin 0, cos 0


def test_a_bag_exports_with_the_same_logits_for_any_mask():
    net = network()
    image, bag = bag_of([[1, 1, 1], [1, 1, 1]])

    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, image, mask, position_mm, kind):
            return self.net(image, Bag(mask, position_mm, kind))

    program = torch.export.export(Flat(), (image, *bag)).module()
    image, bag = bag_of([[1, 0, 1], [0, 1, 0]])
    torch.testing.assert_close(program(image, *bag), net(image, bag), atol=1e-5, rtol=1e-4)
