"""Take off a network made elsewhere what its features do not need: classifiers, decoders, branches that never run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medvit.errors import ConfigError
from medvit.model.custom.features import Features, run_to

_OF_A_FORWARD = (RuntimeError, ValueError, TypeError, AssertionError, IndexError, AttributeError, NotImplementedError)


@dataclass(frozen=True)
class Used:
    """The features of one image, whether the network runs `through` to their layer, and the parts taken off it."""

    features: Tensor
    through: bool
    removed: tuple[str, ...]


class _Removed(nn.Module):
    """Stands where a part stood that the features do not need."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, *_arguments: Any, **_settings: Any) -> Any:
        """Refuse to run.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"model.network: {self.name} runs in training and not in evaluation; it cannot be taken off")


def keep_used(network: nn.Module, features: Features, image: Tensor) -> Used:
    """Run the network in evaluation, and take off what neither ran nor got a gradient of the features of `image`.

    What runs behind the layer stays for the sake of the export, without weights that could be trained or stored.

    Raises:
        ConfigError: the network does not take such an image, or gives no features.
    """
    was = network.training
    network.eval()
    try:
        with _all_trainable(network):
            found, through, ran = _features(network, features, image)
            parameters = list(network.parameters())
            grads = torch.autograd.grad(found.float().sum(), parameters, allow_unused=True)
            behind = _ran_behind(network, image) if through else set()
    except _OF_A_FORWARD as error:
        if isinstance(error, ConfigError):
            raise
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"model.network: {type(network).__name__} does not take an image of {list(image.shape)}: {said[0][:300]}"
        ) from error
    finally:
        network.train(was)
    idle = {id(parameter) for parameter, grad in zip(parameters, grads, strict=True) if grad is None}
    return Used(found.detach(), through, tuple(_take_off(network, ran, idle, behind)))


def _features(network: nn.Module, features: Features, image: Tensor) -> tuple[Tensor, bool, set[nn.Module]]:
    """Return the features, whether their layer lies inside the network, and the parts that ran for them.

    A layer that gives of the image itself what it gives inside the network needs nothing else of it.
    """
    if features.layer not in dict(network.named_modules()):  # a method, or the network itself
        with _running(network) as ran:
            return run_to(network, features, image), False, ran
    with _running(network) as ran:
        inside = run_to(network, features, image, through=True)
    with _running(network) as alone:
        try:
            own = run_to(network, features, image)
        except _OF_A_FORWARD:
            return inside, True, ran
    if own.shape == inside.shape and (own.is_meta or bool((own == inside).all())):
        return own, False, alone
    return inside, True, ran


@contextmanager
def _running(network: nn.Module) -> Iterator[set[nn.Module]]:
    """Give the set of parts that run meanwhile."""
    ran: set[nn.Module] = set()
    handles = [part.register_forward_pre_hook(lambda part, _inputs: ran.add(part)) for part in network.modules()]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _all_trainable(network: nn.Module) -> Iterator[None]:
    """Let every parameter ask for a gradient meanwhile."""
    needed = {parameter: parameter.requires_grad for parameter in network.parameters()}
    network.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, was in needed.items():
            parameter.requires_grad_(was)


def _ran_behind(network: nn.Module, image: Tensor) -> set[nn.Module]:
    with _running(network) as ran, torch.no_grad():
        network(image)
    return ran


def _take_off(network: nn.Module, ran: set[nn.Module], idle: set[int], behind: set[nn.Module]) -> list[str]:
    """Take off every largest part that neither ran for the features nor lent them a parameter; return their names."""
    removed: list[str] = []
    for name, part in list(network.named_modules()):
        own = list(part.parameters())
        inside = any(name.startswith(f"{above}.") for above in removed)
        if not name or inside or not own or not ran.isdisjoint(part.modules()) or not all(id(p) in idle for p in own):
            continue
        above, _, last = name.rpartition(".")
        if behind.isdisjoint(part.modules()):
            network.get_submodule(above)._modules[last] = _Removed(name)
        else:
            _set_aside(part)
        removed.append(name)
    return removed


def _set_aside(part: nn.Module) -> None:
    """Turn parameters and buffers into buffers that no state_dict holds: the part still runs, with any numbers."""
    for module in part.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                _as_buffer(module, name, persistent=False)
        module._non_persistent_buffers_set.update(module._buffers)


def keep_frozen(network: nn.Module) -> int:
    """Turn what the network's own code froze into buffers, which no strategy sets free; return how many there were."""
    frozen = [
        (module, name)
        for module in network.modules()
        for name, parameter in list(module._parameters.items())
        if parameter is not None and not parameter.requires_grad
    ]
    for module, name in frozen:
        _as_buffer(module, name, persistent=True)
    return len(frozen)


def _as_buffer(module: nn.Module, name: str, persistent: bool) -> None:
    value = module._parameters.pop(name)
    if value is not None:
        module.register_buffer(name, value.detach(), persistent=persistent)
