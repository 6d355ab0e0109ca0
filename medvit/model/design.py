"""What a Vision Transformer may be (Design: decides the weights) and how it is trained (Regime: changes none)."""

from __future__ import annotations

from dataclasses import dataclass

from medvit.errors import ConfigError
from medvit.model.positions import INTERPOLATIONS, ROPES

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu")


@dataclass(frozen=True)
class Architecture:
    """What tells one descendant of the ViT from another; the defaults are the plain pre-norm encoder of the paper.

    `prefix` is the number of tokens without a place; `mlp` the hidden width (None: four times the width), of the gated
    half where `gated`; `layer_scale` the initial value of the residual gains, or None; `positions` is "learned",
    "sincos" (learned, started from sines) or "none"; `interpolation` and `offset` how the family resizes its table;
    `rope` "centred", "index" or None, with `theta` and the grid `reference`; `relative` BEiT's bias per block;
    `stem` "patch" or "conv"; `pre_norm` CLIP's norm before the blocks, `norm` the one after them.
    """

    prefix: int = 1
    mlp: int | None = None
    act: str = "gelu"
    gated: bool = False
    mlp_norm: bool = False
    attn_norm: bool = False
    qk_norm: bool = False
    qkv_bias: bool = True
    patch_bias: bool = True
    layer_scale: float | None = None
    pre_norm: bool = False
    norm: bool = True
    eps: float = 1e-6
    positions: str = "learned"
    interpolation: str = "bicubic"
    offset: float = 0.0
    rope: str | None = None
    theta: float = 10000.0
    reference: tuple[int, ...] | None = None
    relative: bool = False
    stem: str = "patch"

    def __post_init__(self) -> None:
        """Refuse switches that name nothing, all in one message."""
        choices = {
            "act": ACTIVATIONS,
            "positions": ("learned", "sincos", "none"),
            "interpolation": INTERPOLATIONS,
            "rope": (None, *ROPES),
            "stem": ("patch", "conv"),
        }
        wrong = [
            f"{key}={getattr(self, key)!r} is none of {ok}"
            for key, ok in choices.items()
            if getattr(self, key) not in ok
        ]
        if wrong:
            raise ConfigError("design: " + "; ".join(wrong))


@dataclass(frozen=True)
class TrainingOptions:
    """How the encoder is trained; changes no weight and nothing in evaluation.

    `drop_path` is the rate of the last block (linear from 0), `keep` the fraction of patches kept per image,
    `checkpointing` recomputes every block in the backward pass, `compile_blocks` compiles each block once.
    """

    drop_path: float = 0.0
    keep: float = 1.0
    checkpointing: bool = False
    compile_blocks: bool = False

    def __post_init__(self) -> None:
        """Refuse rates outside their range."""
        if not 0 <= self.drop_path < 1 or not 0 < self.keep <= 1:
            raise ConfigError(f"drop_path={self.drop_path} must be in [0, 1) and keep={self.keep} in (0, 1]")
