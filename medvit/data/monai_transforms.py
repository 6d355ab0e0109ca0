"""medvit's preprocessing as MONAI transforms for any Compose; the tensor is the same, bit for bit."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai.transforms.transform import MapTransform, Transform

from medvit.data.cache_layout import Preprocess
from medvit.preprocess import FilmPreprocess

if TYPE_CHECKING:
    from torch import Tensor


class Preprocessed(Transform):
    """Turn a file, its bytes, a list of files (a series), a Film or a Volume into the model's input [C *S], float32.

    In mode "slices" a volume becomes [I 1 H W]. Raises DicomRefusal for what cannot be read.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, data: Any) -> Tensor:
        """Return the tensor."""
        import torch

        source: Any = Path(data) if isinstance(data, str) else data
        if isinstance(source, list | tuple):
            source = [Path(part) if isinstance(part, str) else part for part in source]
            source = source[0] if isinstance(self.preprocess, FilmPreprocess) and len(source) == 1 else source
        return torch.from_numpy(self.preprocess(source))


class Preprocessedd(MapTransform):
    """`Preprocessed` on the entries `keys` of a dictionary."""

    def __init__(
        self, keys: Hashable | Sequence[Hashable], preprocess: Preprocess, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = Preprocessed(preprocess)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of `data` whose `keys` hold tensors."""
        found = dict(data)
        for key in self.key_iterator(found):
            found[key] = self.transform(found[key])
        return found
