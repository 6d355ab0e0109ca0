"""Small images with a bright square at a known place, and a network trained in seconds to find it."""

from __future__ import annotations

import torch

from medvit.model.design import Architecture
from medvit.model.network import Network
from medvit.model.pool import AttentionPool
from medvit.model.vit import ViT

SIDE, PATCH, SQUARE = 48, 6, 10


def images(count, seed):
    """Return images [n 1 H W], targets [n], and the mask of each square [n H W]; every other image has one."""
    random = torch.Generator().manual_seed(seed)
    image = 0.5 * torch.randn(count, 1, SIDE, SIDE, generator=random)
    image[:, :, 4:8, :] += 1.0  # an edge that means nothing
    mask = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for n in range(1, count, 2):
        top, left = torch.randint(10, SIDE - SQUARE, (2,), generator=random).tolist()
        mask[n, top : top + SQUARE, left : left + SQUARE] = True
    image[:, 0][mask] += 1.2
    return image, (torch.arange(count) % 2).float(), mask


def network(pool=None, outputs=1, bag=None, seed=0):
    torch.manual_seed(seed)
    backbone = ViT([SIDE, SIDE], [PATCH, PATCH], 1, 32, 2, 2, Architecture(positions="sincos"))
    return Network(backbone, pool or AttentionPool("classes"), outputs, bag).eval()


def train(net, target_of=lambda target: target, steps=70):
    image, target, _ = images(256, 1)
    target = target_of(target)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    net.train()
    for step in range(steps):
        rows = torch.arange(32) + 32 * (step % 8)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(image[rows])[:, 0], target[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()
