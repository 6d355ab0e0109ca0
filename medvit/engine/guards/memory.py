"""How much memory a training needs, told before it begins, and what to change where there is too little."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.memory import is_oom_error
from torch import Tensor, nn

from medvit.errors import OutOfMemory
from medvit.optim.plan import Plan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Need:
    """Bytes of a training on one device: `activations` of one image are what its gradient is computed from.

    `copies` are what is kept once whatever the number of images: weights in half precision, beside the weights.
    What kernels need for themselves, and what the allocator leaves unused between blocks, is not counted.
    """

    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    copies: int = 0

    def bytes(self, images: int) -> int:
        """Return the bytes of a step of `images`."""
        fixed = self.weights + self.gradients + self.optimizer + self.averages + self.copies
        return fixed + images * self.activations

    def described(self, images: int) -> str:
        """Return one line for the log."""
        fixed = ("weights", "gradients", "optimizer", "averages", "copies")
        parts = [f"{name} {_mb(getattr(self, name))}" for name in fixed if getattr(self, name)]
        parts.append(f"activations {_mb(self.activations)} an image")
        return f"memory: {', '.join(parts)}; about {_mb(self.bytes(images))} with {images} images a step"


def need_of(network: nn.Module, plan: Plan, shape: Sequence[int], precision: str) -> Need:
    """Measure what training `network` (with a `backbone`) on images [C *S] needs, by one and by two of them.

    precision: of the training, as Lightning names it. Weights that do not require a gradient count as frozen.
    """
    weights = list({id(each): each for each in network.parameters()}.values())
    learnt = sum(each.nbytes for each in weights if each.requires_grad)
    one, two = (_kept(network, (count, *shape), precision) for count in (1, 2))
    return Need(
        sum(each.nbytes for each in weights),
        learnt,
        round(learnt * _states(plan)),
        sum(each.nbytes for each in weights) if plan.ema else 0,
        two - one,
        max(0, 2 * one - two),
    )


def _states(plan: Plan) -> float:
    """Return how many numbers the optimiser keeps beside each weight of a matrix."""
    side = 64
    matrix = nn.Parameter(torch.zeros(side, side))
    group = {"params": [matrix], "name": "matrix", "lr": plan.lr, "weight_decay": plan.weight_decay}
    optimizer = plan.make_optimizer([group])
    matrix.grad = torch.ones_like(matrix)
    optimizer.step()
    kept = [each for each in optimizer.state[matrix].values() if isinstance(each, Tensor)]
    return float(sum(each.numel() for each in kept)) / side**2


def _kept(network: nn.Module, shape: Sequence[int], precision: str) -> int:
    """Return the bytes that the backbone keeps of images [B C *S], and of its weights where autocast narrows them.

    Its state, and random generators, stay as they are.
    """
    backbone: Any = network.backbone
    own = {each.untyped_storage().data_ptr() for each in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    modes = {module: module.training for module in network.modules()}
    network.eval()  # dropout draws, and batch statistics move, in training alone
    try:
        device = next(backbone.parameters()).device
        narrow = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(str(precision))
        with (
            torch.autocast(device.type, narrow, enabled=narrow is not None),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            tokens = backbone(torch.zeros(*shape, device=device))  # held, so that no address is used twice
    finally:
        for module, mode in modes.items():
            module.training = mode
    del tokens
    return sum(kept.values())


def tell(need: Need, trainer: Mapping[str, Any], free: int | None) -> None:
    """Say what a training with the settings of conf/trainer needs; warn where that is more than is `free`."""
    images = trainer["batch_size"]
    logger.info("%s", need.described(images))
    if free is not None and need.bytes(images) > free:
        logger.warning("%s are free, and that is too little: %s", _mb(free), advice(images, trainer["accumulate"]))


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU, or of the machine; None where that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None


def smaller(batch_size: int, accumulate: int) -> tuple[int, int] | None:
    """Return the next smaller batch with as many batches a step as make the same step; None below one image."""
    for images in range(batch_size // 2, 0, -1):
        if batch_size % images == 0:
            return images, accumulate * (batch_size // images)
    return None


def advice(batch_size: int, accumulate: int) -> str:
    """Return what to change where a step of `batch_size` images does not fit."""
    if (less := smaller(batch_size, accumulate)) is None:
        return "a single image does not fit: take a smaller model.image_size, a smaller model, or optim=lora"
    return (
        f"give trainer.batch_size={less[0]} trainer.accumulate={less[1]}, which learns from as many images a step, or "
        "trainer.auto_batch=true, which tries what fits"
    )


@contextmanager
def out_of_memory_told(trainer: Mapping[str, Any]) -> Iterator[None]:
    """Turn a lack of memory within a training into an OutOfMemory that says what to change."""
    try:
        yield
    except RuntimeError as error:
        if not is_oom_error(error):
            raise
        images = trainer["batch_size"]
        said = advice(images, trainer["accumulate"])
        raise OutOfMemory(f"the memory of the device is too small for {images} images a step: {said}") from None


def _mb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
