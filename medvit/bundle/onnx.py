"""Export of the network to one ONNX file with a free batch size."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 20
MOST = 4096  # images in one call, slices in one bag


def write_onnx(network: nn.Module, shape: tuple[int, ...], file: Path, properties: Mapping[str, Any]) -> None:
    """Write `network` (eval mode, fp32) as ONNX.

    Args:
        network: `medvit.model.network.Network`; with a bag pool the inputs are image [B I C *S], mask, position_mm and
            kind, otherwise image [B C *S]. The output is logits [B K].
        shape: [C *S] of one image.
        file: where to write; weights are inside.
        properties: what the file says of itself, stored as JSON texts (`metadata_props`).

    Raises:
        BundleError: torch cannot trace the network.
    """
    import torch

    bag = getattr(network, "bag", None) is not None
    inputs, names, dynamic = _inputs(shape, bag)
    model = _flat(network.eval()) if bag else network.eval()
    try:
        with _quiet(), torch.no_grad():
            # Traced here and not by onnx.export, which on trouble falls back to a batch of fixed size without a word.
            traced = torch.export.export(model, inputs, dynamic_shapes=dynamic)
            program = torch.onnx.export(
                traced, dynamo=True, opset_version=OPSET, input_names=names, output_names=["logits"], verbose=False
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise BundleError(f"torch cannot write this network as ONNX: {str(error).splitlines()[0]}") from error
    if program is None:
        raise BundleError("torch wrote no ONNX program for this network.")
    _save(program.model_proto, file, properties)


def refuse_unexportable(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Write an untrained network as ONNX, for the trial: what cannot leave is told before the first epoch.

    Networks of medvit's own parts are spared the 6 s: tests/test_every_word.py exports every word of conf/.

    Raises:
        BundleError: torch cannot write the network, mostly because a batch size became a number while tracing.
    """
    parts = (network.backbone, network.pool, network.bag)
    if all(part is None or type(part).__module__.startswith("medvit.") for part in parts):
        return
    training = network.training
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_onnx(network, shape, Path(folder) / "model.onnx", {})
    except BundleError as error:
        raise BundleError(
            f"This network could be trained and never exported. {error} Let sizes follow from tensors "
            "(image.shape[0], not a number or len) and use operations that ONNX has."
        ) from error
    finally:
        network.train(training)


def _inputs(shape: tuple[int, ...], bag: bool) -> tuple[tuple[Tensor, ...], list[str], Any]:
    """Return two seeded noise units, their names and which axes are free."""
    import torch
    from torch.export import Dim

    generator = torch.Generator().manual_seed(0)
    batch = Dim("batch", min=1, max=MOST)
    if not bag:
        return (torch.randn(2, *shape, generator=generator),), ["image"], ({0: batch},)
    images = Dim("images", min=1, max=MOST)
    mask = torch.ones(2, 3, dtype=torch.bool)
    values = (torch.randn(2, 3, *shape, generator=generator), mask, torch.zeros(2, 3), torch.zeros(2, 3).long())
    return values, ["image", "mask", "position_mm", "kind"], tuple({0: batch, 1: images} for _ in values)


def _save(model: Any, file: Path, properties: Mapping[str, Any]) -> None:
    """Take out what the exporter notes of the machine it ran on (source paths in every node), add our own, write."""
    import onnx

    for holder in (model.graph, *model.functions):
        holder.doc_string = ""
        del holder.metadata_props[:]
        for part in (*holder.node, *holder.value_info):
            part.doc_string = ""
            del part.metadata_props[:]
    for part in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.helper.set_model_props(model, {name: json.dumps(value, sort_keys=True) for name, value in properties.items()})
    onnx.checker.check_model(model)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(file))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from telling about opsets and registries of no interest here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _flat(network: nn.Module) -> nn.Module:
    """Return `network` with the bag's parts as plain inputs, which is what ONNX knows."""
    from torch import nn

    from medvit.types import Bag

    class FlatBag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor, mask: Tensor, position_mm: Tensor, kind: Tensor) -> Tensor:
            logits: Tensor = self.network(image, Bag(mask, position_mm, kind))
            return logits

    return FlatBag()
