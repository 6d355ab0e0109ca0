"""The precision a network trains in: bf16 where it is fast and right, else float32."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from medvit.errors import ConfigError

log = logging.getLogger(__name__)


def on_gpu(accelerator: str) -> bool:
    """Return whether `trainer.accelerator` puts the network on a GPU of CUDA here."""
    return torch.cuda.is_available() and accelerator in {"auto", "gpu", "cuda"}


def best_precision(accelerator: str = "auto") -> Any:
    """Return "bf16-mixed" where what trains, the processor or a GPU, multiplies bf16; else "32-true"."""
    if on_gpu(accelerator):
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"


def precision_of(trainer: Mapping[str, Any], network: nn.Module) -> Any:
    """Return the precision that `trainer` (conf/trainer) asks for, "auto" being resolved for this network and machine.

    On a processor, torch 2.13 leaves part of the weight gradient of a padded Conv3d of stride 1 unwritten in bf16 where
    its input has 2 slices: NaN, or any number (findings/conv3d_bf16_gradient.sh). Such networks train in float32 there.

    Raises:
        ConfigError: bf16 was asked for by name for such a network on a processor.
    """
    accelerator, asked = trainer["accelerator"], trainer["precision"]
    chosen = best_precision(accelerator) if asked == "auto" else asked
    processor = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if chosen != "bf16-mixed" or not processor or not _has_unreliable_gradient(network):
        return chosen
    if asked != "auto":
        raise ConfigError(
            "trainer.precision=bf16-mixed: on a processor, 3-D convolutions have wrong gradients in bf16 (torch 2.13); "
            "give 32-true or auto"
        )
    log.info("trained in float32: on a processor, 3-D convolutions have wrong gradients in bf16")
    return "32-true"


def _has_unreliable_gradient(network: nn.Module) -> bool:
    parts = (part for part in network.modules() if isinstance(part, nn.Conv3d))
    return any(max(part.kernel_size) > 1 and 1 in part.stride and part.padding not in {0, (0, 0, 0)} for part in parts)
