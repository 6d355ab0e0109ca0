"""Record logits, tokens and attention of one forward pass, with gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from medvit.errors import ConfigError
from medvit.model.network import Network, single_image_bags
from medvit.types import Tokens

NO_ATTENTION = ("integrated", "occlusion", "gradcam")  # methods that every network can be asked for


class Activations(NamedTuple):
    """A forward pass that can be asked for gradients: image, logits [B K], tokens, attention of every block."""

    image: Tensor
    logits: Tensor
    tokens: Tokens
    attention: list[Tensor]


@contextmanager
def record_activations(network: Network, image: Float[Tensor, "B C *S"], full: bool = True) -> Iterator[Activations]:
    """Give one forward pass in evaluation mode with a graph, also of a frozen network; `full` with attention.

    Raises:
        ConfigError: attention was asked of a backbone without any.
    """
    if full and not hasattr(network.backbone, "forward_features"):
        name = type(network.backbone).__name__
        raise ConfigError(f"{name} has no attention to explain; take one of {', '.join(NO_ATTENTION)}")
    with torch.enable_grad(), evaluation_mode(network), torch.autocast(image.device.type, enabled=False):
        seen = image.detach().float().requires_grad_()  # so that a network without trainable weights has a graph too
        backbone: Any = network.backbone
        tokens, maps = backbone.forward_features(seen, attention="full") if full else (backbone(seen), [])
        pooled = network.from_tokens(tokens)
        if network.bag is not None:  # the vectors stand for their images: a bag of one each
            pooled = network.bag(
                lambda vectors: vectors, pooled.unsqueeze(1), single_image_bags(len(pooled), pooled.device)
            )
        yield Activations(seen, network.classify(pooled), tokens, maps)


@contextmanager
def evaluation_mode(network: Network) -> Iterator[None]:
    """Put the network into evaluation mode for a while."""
    was = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was)
