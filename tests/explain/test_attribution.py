from __future__ import annotations

import planted
import pytest
import torch

from medvit.errors import ConfigError
from medvit.explain import attribution
from medvit.explain.attribution import METHODS, available, method, of_bag
from medvit.model.bag import StudyBag
from medvit.model.cnn import Convolutional
from medvit.model.design import Architecture
from medvit.model.network import Network
from medvit.model.pool import AttentionPool, ClsMeanPool, ClsPool, MeanPool
from medvit.model.vit import ViT
from medvit.types import Bag

SIGNED = ("integrated", "occlusion", "gradcam")
POOLS = {
    "cls": ClsPool,
    "mean": MeanPool,
    "cls and mean": ClsMeanPool,
    "queries": lambda: AttentionPool(2),
    "patches": lambda: AttentionPool(2, cls=False),
    "per class": lambda: AttentionPool("classes"),
    "bag": MeanPool,
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_one_map_per_image_for_every_pool(name, pool):
    net = planted.network(POOLS[pool](), outputs=3, bag=StudyBag(queries=2) if pool == "bag" else None)
    net.requires_grad_(False).train()
    image, _, _ = planted.images(3, 0)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    maps = METHODS[name](net, image, 1)
    assert maps.shape == (3, 8, 8)
    assert torch.isfinite(maps).all()
    assert name in SIGNED or (maps >= 0).all()
    assert not maps.requires_grad
    assert net.training
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    alone = METHODS[name](net, image[1:2], 1)
    assert torch.allclose(alone[0], maps[1], atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_volumes_have_maps_of_three_axes(name):
    torch.manual_seed(0)
    vit = ViT([8, 16, 16], [4, 8, 8], 1, 16, 2, 2, Architecture(prefix=0))
    assert METHODS[name](Network(vit, MeanPool(), 1), torch.randn(2, 1, 8, 16, 16), 0).shape == (2, 2, 2, 2)


@pytest.mark.parametrize("name", ["integrated", "occlusion", "relevance", "grad_attention", "gradcam"])
def test_a_trained_network_is_seen_looking_at_the_square(trained, name):
    image, _, mask = planted.images(16, 7)
    maps = METHODS[name](trained, image[1::2], 0)
    peak = maps.flatten(1).argmax(dim=1)
    cells = torch.nn.functional.adaptive_max_pool2d(mask[1::2].float(), 8).flatten(1)
    assert cells.gather(1, peak[:, None]).mean() >= 0.75


def test_classes_have_maps_of_their_own_where_each_has_a_query():
    net = planted.network(AttentionPool("classes"), outputs=2)
    image, _, _ = planted.images(2, 0)
    share = net.pool.attention(net.backbone(image))
    for output in (0, 1):
        maps = attribution.head_attention(net, image, output)
        assert torch.allclose(maps.flatten(1), share[:, output], atol=1e-6)


def test_mean_pooling_looks_everywhere_alike():
    maps = attribution.head_attention(planted.network(MeanPool()), planted.images(2, 0)[0], 0)
    assert torch.allclose(maps, torch.full_like(maps, 1 / 64))


@pytest.mark.usefixtures("unchecked")
def test_occlusion_of_a_linear_network_is_the_weight_of_each_patch():
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = ViT([16, 16], [4, 4], 1, 8, 1, 1)

        def forward(self, image, bag=None):
            return image[:, 0, 4:8, 8:12].sum((1, 2))[:, None]

    image = torch.zeros(1, 1, 16, 16)
    image[:, :, 4:8, 8:12] = 1
    maps = attribution.occlusion(Sum(), image, 0)
    assert maps[0].argmax() == 1 * 4 + 2
    assert maps[0, 1, 2] == pytest.approx(16 * (1 - 1 / 16))
    dark = attribution.occlusion(Sum(), image, 0, reference=torch.zeros(1, 1, 16, 16))
    assert dark[0, 1, 2] == pytest.approx(16)


def test_integrated_gradients_sum_to_the_difference_of_the_logits():
    net, image, reference = planted.network(), planted.images(4, 3)[0], planted.images(1, 8)[0]
    maps = attribution.integrated(net, image, 0, reference)
    with torch.no_grad():
        change = (net(image) - net(reference))[:, 0]
    assert torch.allclose(maps.flatten(1).sum(dim=1), change, atol=0.02 * float(change.abs().max()))


def test_the_reference_reaches_the_methods_that_take_one(trained):
    image = planted.images(2, 3)[0]
    for name in METHODS:
        plain, other = method(name)(trained, image, 0), method(name, image[:1] * 0 + 2.0)(trained, image, 0)
        assert torch.equal(plain, other) == (name not in attribution.REFERRING)


def test_a_bag_map_sums_to_the_share_of_each_slice():
    net = planted.network(AttentionPool(2), bag=StudyBag(queries=2))
    image = planted.images(6, 0)[0].reshape(2, 3, 1, 48, 48)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    bag = Bag(mask, torch.arange(3.0).expand(2, 3) * 5, torch.zeros(2, 3, dtype=torch.long))
    maps = of_bag(net, image, 0, bag, attribution.relevance)
    assert maps.shape == (2, 3, 8, 8)
    assert torch.allclose(maps.flatten(1).sum(1), torch.ones(2), atol=1e-4)
    signed = of_bag(net, image, 0, bag, attribution.integrated)
    assert torch.allclose(signed.abs().flatten(2).sum(2), maps.flatten(2).sum(2), atol=1e-4)
    assert maps[1, 2].sum() == 0


def test_a_convolutional_network_says_what_it_can_be_asked():
    stage = torch.nn.Conv2d(1, 8, 8, stride=8)
    net = Network(Convolutional([stage], [48, 48], 1, 8, 8), MeanPool(), 1)
    image, _, _ = planted.images(2, 0)
    assert available(net) == ["integrated", "occlusion", "gradcam", "head_attention"]
    assert attribution.gradcam(net, image, 0).shape == (2, 6, 6)
    with pytest.raises(ConfigError, match="no attention to explain; take one of integrated, occlusion, gradcam"):
        attribution.relevance(net, image, 0)


def test_a_misspelt_method_names_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean rollout\?"):
        method("rolout")
