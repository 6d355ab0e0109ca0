"""Weights for a network made elsewhere: by the names of its own state_dict, all of them accounted for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from medvit.errors import WeightsError
from medvit.model.pretrained import from_run, store

log = logging.getLogger(__name__)
_OF_A_RUN = "backbone.network."


@dataclass(frozen=True)
class Found:
    """Tensors of a checkpoint by name, and where they come from."""

    source: str
    tensors: dict[str, Tensor]
    revision: str
    sha256: str


def read(source: str) -> Found:
    """Return the tensors of a safetensors file, a directory or a hub id on this machine, or of a run's best network.

    Raises:
        WeightsError: not here, a pickle, a truncated file, or a run of another kind of network.
    """
    place = store.locate(source)
    run = from_run.is_run(place)
    if run and not (place / from_run.BEST).is_file():
        raise WeightsError(f"weights: the run lacks {from_run.BEST}: it did not finish; resume it or take another")
    tensors, _, sha256 = store.read(place / from_run.BEST if run else place)
    if run:
        tensors = {name.removeprefix(_OF_A_RUN): v for name, v in tensors.items() if name.startswith(_OF_A_RUN)}
        if not tensors:
            raise WeightsError("weights: the run's network is not of model=custom or model=monai_bundle")
    return Found(source, tensors, store.revision(source, place), sha256)


def fill(network: nn.Module, found: Found) -> tuple[set[str], list[str]]:
    """Copy every tensor that fits; return the names that were filled, and those of the network that were not."""
    own = network.state_dict()
    fits = {name: v for name, v in found.tensors.items() if name in own and own[name].shape == v.shape}
    network.load_state_dict({**own, **fits})
    return set(fits), [name for name in own if name not in fits]


def account(
    found: Found, filled: tuple[set[str], list[str]], network: nn.Module, removed: Sequence[str]
) -> dict[str, str]:
    """Return where the weights come from; what is left behind is named in the log.

    A tensor may be left behind where it belongs to a part that was taken off, or to one that the network lacks whole.

    Raises:
        WeightsError: a tensor that the features need is missing or of another shape, or one of a part they need is not
            used.
    """
    needed, empty = network.state_dict(), filled[1]
    used = filled[0] & set(needed)
    parts = {name.partition(".")[0] for name in needed}
    left = sorted(set(found.tensors) - used)
    gone = tuple(f"{name}." for name in removed)
    lost = [name for name in left if name.partition(".")[0] in parts and not name.startswith(gone)]
    expected = {name: tensor for name, tensor in needed.items() if name in empty}
    given = {name: found.tensors[name] for name in left if name in expected or name in lost}
    store.refuse_misfits(expected, given, f"weights {store.public_name(found.source)}")
    heads = sorted({name.rpartition(".")[0] or name for name in left})
    more = f" and {len(heads) - 4} more" if len(heads) > 4 else ""
    report = f"weights {store.public_name(found.source)}: {len(used)} of {len(found.tensors)} tensors matched" + (
        f", left behind: {', '.join(heads[:4])}{more}" if heads else ""
    )
    log.info("%s", report)
    return {
        "weights": store.public_name(found.source),
        "revision": found.revision,
        "sha256": found.sha256,
        "family": type(network).__name__,
        "licence": "of the checkpoint",
        "citation": "of the checkpoint",
        "report": report,
    }
