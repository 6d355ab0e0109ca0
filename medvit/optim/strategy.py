"""Fine-tuning strategies: which weights are trained and at what rate, one class per word of `conf/optim`.

All rates are multiples of `optim.plan.lr`. `prepare` freezes (and injects adapters), `groups` gives the optimiser its
parameters, `on_epoch` changes phase, `describe` says it all in a table, and `to_json` is the config node that makes the
same strategy again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from medvit.errors import ConfigError
from medvit.model.network import Network
from medvit.optim.parameter_groups import Layer, layers, parameter_groups, table

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Strategy:
    """Base of all strategies; `head` is the rate of pool, bag and head as a multiple of the plan's."""

    head: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a rate of 0 or below: that would be a frozen layer in disguise."""
        if self.head <= 0:
            raise ConfigError(f"optim.strategy.head={self.head}: expected a multiple of the learning rate above 0")

    def choose(self, studies: int, volumes: bool = False, augmented: bool = False) -> Strategy:  # noqa: ARG002
        """Return the strategy to use for this many training studies: this one; only `Auto` looks at the data."""
        return self

    def refuse_epochs(self, epochs: int) -> None:
        """Raise ConfigError where a phase would not come in `epochs`."""

    def refuse_network(self, network: Network) -> None:
        """Raise ConfigError where this network cannot be trained so; it is left as it is."""

    def prepare(self, network: Network) -> None:
        """Freeze what stays, once, before the optimiser is made and before weights of a run are loaded.

        Raises:
            ConfigError: what `refuse_network` says.
        """
        self.refuse_network(network)
        for layer in layers(network):
            for name, parameter in layer.parameters:
                parameter.requires_grad_(self.trains(name))

    def trains(self, name: str) -> bool:  # noqa: ARG002 (full: all of them)
        """Return whether the parameter of this name is trained."""
        return True

    def factor(self, layer: Layer, depths: int) -> float:  # noqa: ARG002 (the same at every depth)
        """Return the rate of a layer as a multiple of the plan's; `depths` is the depth of the head."""
        return self.head if layer.name == "head" else 1.0

    def groups(self, network: Network, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups of a prepared network, each with its `name`."""
        depths = len(network.backbone.blocks) + 1
        return parameter_groups(network, lr, weight_decay, lambda layer: self.factor(layer, depths))

    def on_epoch(self, network: Network, epoch: int) -> None:  # noqa: ARG002 (one phase)
        """Set the network up for training in `epoch`: a frozen backbone neither drops paths nor patches."""
        network.backbone.train(any(p.requires_grad for p in network.backbone.parameters()))

    def describe(self, network: Network, lr: float, weight_decay: float) -> str:
        """Return the strategy and its table of layers: trained, frozen, learning rate."""
        settings = ", ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
        groups = self.groups(network, lr, weight_decay)
        return f"strategy {type(self).__name__}({settings})\n{table(network, groups)}"

    def to_json(self) -> dict[str, Any]:
        """Return the config node of this strategy."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {key: value.to_json() if isinstance(value, Strategy) else value for key, value in values.items()}
        listed = {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}
        return {"_target_": f"{type(self).__module__}.{type(self).__qualname__}", **listed}


@dataclass(frozen=True)
class Full(Strategy):
    """Every weight moves, all of the backbone at one rate."""


@dataclass(frozen=True)
class LayerDecay(Strategy):
    """Every weight moves; each block's rate is `decay` times that of the one above (BEiT, MAE, EVA-X)."""

    decay: float = 0.65

    def __post_init__(self) -> None:
        """Refuse a decay outside (0, 1]."""
        super().__post_init__()
        if not 0 < self.decay <= 1:
            raise ConfigError(f"optim.strategy.decay={self.decay}: expected 0 < decay <= 1; 0.55 to 0.75 is usual")

    def refuse_network(self, network: Network) -> None:
        """Raise ConfigError for a network whose blocks are not known."""
        if not len(network.backbone.blocks):
            inner: Any = getattr(network.backbone, "network", network.backbone)
            parts = ", ".join(name for name, _ in inner.named_children())
            raise ConfigError(
                "optim=llrd gives every block a rate of its own, and the blocks of this network are not known: name "
                f"them in depth order, model.blocks=[...] of its parts {parts}; or choose optim=full"
            )

    def factor(self, layer: Layer, depths: int) -> float:
        """Return decay^(depths - depth)."""
        return super().factor(layer, depths) * self.decay ** (depths - layer.depth)


@dataclass(frozen=True)
class Probe(Strategy):
    """The backbone stays as it is; pool and head are trained.

    Its features are computed once, without augmentation, and kept on disk as far as `cache_gib` GiB suffice; with 0 the
    backbone runs anew in every epoch, and images may be augmented.
    """

    head: float = 10.0
    cache_gib: float = 16.0

    def trains(self, name: str) -> bool:
        """Return whether the parameter is outside the backbone."""
        return not name.startswith("backbone.")


@dataclass(frozen=True)
class LogisticProbe(Probe):
    """The backbone stays as it is; the head is the logistic regression of the pooled features, solved and not trained.

    The L2 strength is chosen by cross-validation over the training patients (`medvit.optim.probe.fit_path`).
    """

    def __post_init__(self) -> None:
        """Refuse to work without the cache."""
        super().__post_init__()
        if self.cache_gib <= 0:
            raise ConfigError("optim=logistic works on cached features: optim.strategy.cache_gib must be above 0")

    def refuse_network(self, network: Network) -> None:
        """Raise ConfigError for a pool or a bag that has to be trained."""
        if network.bag is not None or not getattr(network.pool, "summary", False):
            raise ConfigError("optim=logistic needs a pool without weights: pool=cls_mean, cls or mean, bag=none")


@dataclass(frozen=True)
class AttentionProjection(Strategy):
    """Only the output projections of attention and the head move (APLA, Sorkhei et al. 2025)."""

    head: float = 10.0

    def trains(self, name: str) -> bool:
        """Return whether the parameter is of the head or of an attention's output projection."""
        return not name.startswith("backbone.") or ".attn.proj." in name

    def refuse_network(self, network: Network) -> None:
        """Raise ConfigError for a backbone without attention."""
        if not any(".attn.proj." in name for name, _ in network.named_parameters()):
            raise ConfigError("optim=attn_proj needs a backbone with attention blocks; choose full, llrd or probe")


@dataclass(frozen=True)
class Lora(Strategy):
    """Low-rank adapters on the backbone's layers named by `targets`, and the head; merged at export."""

    head: float = 10.0
    adapter: float = 3.0
    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] = ("qkv", "proj")

    def __post_init__(self) -> None:
        """Refuse a rate of 0 or below."""
        super().__post_init__()
        if self.adapter <= 0 or self.alpha <= 0:
            raise ConfigError(f"optim.strategy: expected adapter={self.adapter} and alpha={self.alpha} above 0")

    def refuse_network(self, network: Network) -> None:
        """Raise ConfigError for targets that no layer has."""
        from medvit.model.lora import adapted, injected

        if not injected(network):
            adapted(network.backbone, self.rank, self.targets)  # type: ignore[arg-type]

    def prepare(self, network: Network) -> None:
        """Inject the adapters (unless they are there already) and freeze the rest of the backbone."""
        from medvit.model.lora import inject, injected

        if not injected(network):
            inject(network.backbone, self.rank, self.alpha, self.targets)  # type: ignore[arg-type]
        super().prepare(network)

    def trains(self, name: str) -> bool:
        """Return whether the parameter is of the head or of an adapter."""
        return not name.startswith("backbone.") or ".down." in name or ".up." in name

    def factor(self, layer: Layer, depths: int) -> float:
        """Return the adapters' own rate inside the backbone."""
        return self.head if layer.name == "head" else self.adapter * super().factor(layer, depths)


@dataclass(frozen=True)
class ProbeThenTune(Strategy):
    """For `probe_epochs` only the head is trained, then all that `then` trains (LP-FT, Kumar et al. 2022)."""

    probe_epochs: int = 10
    then: Strategy = Full()

    def __post_init__(self) -> None:
        """Refuse a rate of the head beside that of the second phase, which is the one for both."""
        _refuse_head(self, "optim.strategy.then.head")

    def refuse_epochs(self, epochs: int) -> None:
        """Raise ConfigError where the second phase would not come in `epochs`."""
        if self.probe_epochs >= epochs:
            raise ConfigError(
                f"optim.strategy.probe_epochs={self.probe_epochs} and trainer.epochs={epochs}: the backbone would stay "
                "frozen; train longer, or choose optim=probe"
            )

    def refuse_network(self, network: Network) -> None:
        """Raise ConfigError for what the second phase cannot train."""
        self.then.refuse_network(network)

    def prepare(self, network: Network) -> None:
        """Prepare as the second phase does: the optimiser and the average must know every weight that will move."""
        self.then.prepare(network)

    def trains(self, name: str) -> bool:
        """Return what is trained in the second phase."""
        return self.then.trains(name)

    def factor(self, layer: Layer, depths: int) -> float:
        """Return the second phase's rates."""
        return self.then.factor(layer, depths)

    def on_epoch(self, network: Network, epoch: int) -> None:
        """Freeze the backbone during the first phase; the schedule warms it up when it is set free."""
        for name, parameter in network.named_parameters():
            if name.startswith("backbone."):
                parameter.requires_grad_(epoch >= self.probe_epochs and self.then.trains(name))
        super().on_epoch(network, epoch)


@dataclass(frozen=True)
class Auto(Strategy):
    """The strategy that fits the number of training studies; `choose` says which and why.

    Up to 200 studies a probe; up to 2,000 a probe, then adapters of rank 8; up to 20,000 adapters of rank 16 with a
    gentler head; above, all weights with layer decay. Volumes: adapters of rank 8 also on the patch embedding, up to
    1,000 studies. Evidence: conf/optim/auto.yaml.
    """

    def __post_init__(self) -> None:
        """Refuse a rate of the head: it is part of the choice."""
        _refuse_head(self, "a strategy of your own, such as optim=lora optim.strategy.head")

    def choose(self, studies: int, volumes: bool = False, augmented: bool = False) -> Strategy:
        """Return the choice for `studies` in the training split, and log it; with augmentation nothing is cached."""
        if volumes and studies <= 1000:
            chosen: Strategy = Lora(head=10.0, adapter=1.0, rank=8, targets=("qkv", "proj", "patch_embed"))
        elif studies <= 200:
            chosen = Probe(cache_gib=0.0) if augmented else Probe()
        elif studies <= 2000:
            chosen = ProbeThenTune(probe_epochs=10, then=Lora(rank=8, alpha=16.0))
        elif studies <= 20000:
            chosen = Lora(head=10.0, adapter=2.0, rank=16, alpha=32.0)
        else:
            chosen = LayerDecay(head=2.5, decay=0.65)
        kind = "volumes" if volumes else "images"
        logger.info("strategy auto: %d training studies of %s -> %s", studies, kind, type(chosen).__name__)
        return chosen

    def prepare(self, network: Network) -> None:  # noqa: ARG002 (refuses)
        """Refuse: nothing is chosen yet.

        Raises:
            ConfigError: always; `choose` comes first.
        """
        raise ConfigError("optim=auto must be resolved by choose(number of training studies) before training")


def _refuse_head(strategy: Strategy, instead: str) -> None:
    if strategy.head != Strategy.head:
        raise ConfigError(f"optim.strategy.head={strategy.head} would not be used here; give {instead}=...")
