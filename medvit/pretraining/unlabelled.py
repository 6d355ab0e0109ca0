"""What a training asks of its task, for images without labels: no targets, and the objective's loss as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


class Unlabelled:
    """No label is read; the outputs of the network are losses already, one per image [B 1]."""

    one_label = False
    monitor, mode = "val/loss", "min"

    def encode(self, frame: pd.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return targets and weights of no output [n 0], whatever columns there are."""
        nothing = np.zeros((len(frame), 0), np.float32)
        return nothing, nothing

    def loss(self, outputs: Float[Tensor, "B 1"], target: Tensor, weight: Tensor, epoch: int = 0) -> Float[Tensor, ""]:  # noqa: ARG002
        """Return the mean over the images."""
        return outputs.mean()

    def probabilities_numpy(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Return the losses: there is nothing that could be probable."""
        return outputs

    def scores(self, losses: NDArray[Any], target: NDArray[Any], weight: NDArray[Any]) -> dict[str, float]:  # noqa: ARG002
        """Return no score: `val/loss` says it all."""
        return {}
