"""One forward and one backward pass of a network made elsewhere, before anything else is spent on it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from medvit.errors import ConfigError
from medvit.model.network import Network

_SAME = 1e-3  # of the largest logit: a batch of another size may be computed in another order
_TOLD = 4


def refuse_untrainable(network: Network, shape: tuple[int, ...]) -> list[str]:
    """Try a network that was made elsewhere on noise of `shape` [C *S], and leave it as it was; return what to tell.

    Networks of medvit's own parts pass untried: their tests try them.

    Raises:
        ConfigError: all that is wrong: an image that changes another's output, an output that differs from call to
            call, logits or gradients that are not finite, no gradient at all.
    """
    if not getattr(network.backbone, "made_elsewhere", False):
        return []
    tried = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    device = next(network.parameters()).device
    images = torch.randn(2, *shape, generator=generator).to(device)
    with torch.random.fork_rng():
        problems = _in_evaluation(tried.eval(), images)
        told = [] if problems else _in_training(tried.train(), images, problems)
    if problems:
        raise ConfigError("model.network cannot be used:\n" + "\n".join(f"- {problem}" for problem in problems))
    return told


def _in_evaluation(network: Network, images: Tensor) -> list[str]:
    with torch.no_grad():
        both, again = network(images), network(images)
        other = network(torch.stack([images[0], 3 * images[1] + 1]))
    if not torch.isfinite(both).all():
        return ["its features of noise are not finite"]
    scale = _SAME * float(both.abs().max().clamp_min(1e-6))
    problems = []
    if (both - again).abs().max() > scale:
        problems.append("in evaluation it gives another output at every call: dropout that never ends?")
    elif (both[0] - other[0]).abs().max() > scale:
        problems.append(
            "in evaluation one image of a batch changes the output of another: batch statistics that never end? "
            "Use group or instance norm, or running statistics"
        )
    return problems


def _in_training(network: Network, images: Tensor, problems: list[str]) -> list[str]:
    logits = network(images)
    direction = torch.linspace(1, 2, logits.numel(), device=logits.device).reshape(logits.shape)
    (logits * direction).sum().backward()
    parameters = dict(network.backbone.named_parameters())  # type: ignore[attr-defined]
    lacking = [name for name, parameter in parameters.items() if parameter.grad is None]
    if len(lacking) == len(parameters):
        problems.append("no parameter gets a gradient: its forward detaches, or works without gradients")
    if any(p.grad is not None and not torch.isfinite(p.grad).all() for p in parameters.values()):
        problems.append("its gradients of noise are not finite")
    told = []
    if lacking:
        more = f" and {len(lacking) - _TOLD} more" if len(lacking) > _TOLD else ""
        told.append(
            f"{len(lacking)} parameters get no gradient and stay as they are: {', '.join(lacking[:_TOLD])}{more}"
        )
    if count := sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules()):
        told.append(
            f"W-BATCHNORM {count} batch norms: while training, images of a batch change each other's output, and small "
            "batches train badly; group or instance norm does not (norm=instance in most networks of MONAI)"
        )
    return told
