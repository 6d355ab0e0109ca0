"""Export of the network to one ONNX file with a free batch size."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.atomic_file import replace_file
from medvit.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 20
_APART = 1e-3  # of logits of an untrained network, in float32
_SAME = 1e-4  # of a trained one, whose kept file was compared with it when it was written
_KEY = "medvit.key"
MOST = 4096  # images in one call, slices in one bag


def write_onnx(
    network: nn.Module, shape: tuple[int, ...], file: Path, properties: Mapping[str, Any], kept: Path | None = None
) -> None:
    """Write `network` (eval mode, fp32) as ONNX.

    Args:
        network: `medvit.model.network.Network`; with a bag pool the inputs are image [B I C *S], mask, position_mm and
            kind, otherwise image [B C *S]. The output is logits [B K].
        shape: [C *S] of one image.
        file: where to write; weights are inside.
        properties: what the file says of itself, stored as JSON texts (`metadata_props`).
        kept: a file beside the run that holds its network as ONNX, so that train, register and export trace it once.
            It is used where weights, shape and library versions are the same and it answers as the network does, and
            written where not.

    Raises:
        BundleError: torch cannot trace the network.
    """
    import onnx

    key = _key(network, shape) if kept else ""
    model = _read_kept(kept, key, network, shape) if kept else None
    if model is None:
        model = _traced(network, shape)
        if kept:
            onnx.helper.set_model_props(model, {_KEY: key})
            replace_file(kept, lambda draft: onnx.save_model(model, str(draft)))
    onnx.helper.set_model_props(model, {name: json.dumps(value, sort_keys=True) for name, value in properties.items()})
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(file))


def _traced(network: nn.Module, shape: tuple[int, ...]) -> Any:
    """Return the network as an ONNX model without what the exporter notes of the machine it ran on."""
    import onnx
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
    proto = program.model_proto
    _without_notes(proto)
    onnx.checker.check_model(proto)
    return proto


def _key(network: nn.Module, shape: tuple[int, ...]) -> str:
    """Return a digest of what an ONNX file follows from: weights, shape, opset and the versions of its writers."""
    versions = [metadata.version(package) for package in ("medvit", "torch", "onnx", "onnxscript")]
    digest = hashlib.sha256(json.dumps([OPSET, shape, versions]).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read_kept(kept: Path, key: str, network: nn.Module, shape: tuple[int, ...]) -> Any:
    """Return a kept model of these weights that answers as this network, whose code may have changed; else None."""
    import onnx

    if not kept.is_file():
        return None
    try:
        model = onnx.load_model(str(kept))
        mine = {entry.key: entry.value for entry in model.metadata_props}.get(_KEY) == key
        return model if mine and _apart(network, shape, kept) <= _SAME else None
    except Exception:  # noqa: BLE001 (onnxruntime's errors have no base class of their own) a damaged file is written again
        return None


def refuse_unexportable(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Write an untrained network as ONNX, for the trial: what cannot leave is told before the first epoch.

    Networks of medvit's own parts are spared the 6 s: tests/test_every_word.py exports every word of conf/.

    Raises:
        BundleError: torch cannot write the network, mostly because a batch size became a number while tracing.
    """
    parts = (network.backbone, network.pool, network.bag)
    own = all(part is None or type(part).__module__.startswith("medvit.") for part in parts)
    if own and not getattr(network.backbone, "made_elsewhere", False):
        return
    training = network.training
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_onnx(network, shape, Path(folder) / "model.onnx", {})
            _refuse_other_outputs(network, shape, Path(folder) / "model.onnx")
    except BundleError as error:
        raise BundleError(
            f"This network could be trained and never exported. {error} Let sizes follow from tensors "
            "(image.shape[0], not a number or len) and use operations that ONNX has."
        ) from error
    finally:
        network.train(training)


def _refuse_other_outputs(network: nn.Module, shape: tuple[int, ...], file: Path) -> None:
    """Raise BundleError where the file says something else than the network, of a batch it was not written with."""
    apart = _apart(network, shape, file)
    if not apart <= _APART:
        raise BundleError(f"As ONNX it says something else: logits differ by {apart:.2g}.")


def _apart(network: nn.Module, shape: tuple[int, ...], file: Path) -> float:
    """Return how far the logits of file and network differ for 3 images of noise, relative to them where above 1."""
    import numpy as np
    import onnxruntime
    import torch

    values, names, _ = _inputs(shape, getattr(network, "bag", None) is not None)
    more = [torch.cat([value, value[:1]]) for value in values]
    model = _flat(network.eval()) if len(names) > 1 else network.eval()
    with torch.no_grad():
        expected = model(*more).numpy()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    known = {each.name for each in session.get_inputs()}
    given = {name: value.numpy() for name, value in zip(names, more, strict=True) if name in known}
    return float(np.abs(session.run(None, given)[0] - expected).max() / max(1.0, float(np.abs(expected).max())))


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


def _without_notes(model: Any) -> None:
    """Take out what the exporter notes of the machine it ran on: source paths in every node."""
    for holder in (model.graph, *model.functions):
        holder.doc_string = ""
        del holder.metadata_props[:]
        for part in (*holder.node, *holder.value_info):
            part.doc_string = ""
            del part.metadata_props[:]
    for part in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


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
