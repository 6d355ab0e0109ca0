"""What each variant of a bundle costs and gains: ViT-B/16 at 224 pixels, beside decoding and the runtime alone.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/runtimes.py [FILMS] [ROUNDS]

Generated films, random weights with a steep head: the differences of probabilities are those of a network that was
never trained, and larger than a trained one's; export measures those of a real model. Ratios are medians of rounds in
which the variants take turns. Static int8 (ranges of activations from 6 films) is run here only, to show why it is not
a variant.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvit.bundle.acceptance import envelope
from medvit.bundle.build import export, labels_of
from medvit.bundle.card.markdown import LICENCE
from medvit.bundle.contents import Contents
from medvit.bundle.parity import Trained
from medvit.bundle.runtime import Runtime
from medvit.bundle.session import DEFAULT, FILES, unusable
from medvit.bundle.variants import LIMITS, Validation, Wanted
from medvit.dataset.manifest import fact_columns
from medvit.dicom.read import read_film
from medvit.model.network import Network
from medvit.model.pool import ClsPool
from medvit.model.vit import ViT
from medvit.preprocess import FilmPreprocess

WORKERS = 2


def network() -> Network:
    torch.manual_seed(0)
    backbone = ViT(image_size=(224, 224), patch_size=(16, 16), in_channels=1, width=768, depth=12, heads=12)
    made = Network(backbone, ClsPool(), outputs=1).eval()
    with torch.no_grad():
        made.head.weight.mul_(30)
    return made


def films(folder: Path, count: int) -> list[Path]:
    from medvit.phantom.films import write_films

    write_films(folder, patients=count, seed=1)
    return sorted((folder / "dicom").rglob("IM*"))[:count]


def bundle(folder: Path, files: list[Path], names: list[str]) -> Path:
    import pandas as pd

    preprocess = FilmPreprocess(size=(224, 224))
    facts = pd.DataFrame([fact_columns(read_film(file).facts) for file in files])
    labels = labels_of({"kind": "binary", "names": ["finding"], "settings": {}, "fitted": {}})
    contents = Contents(
        "benchmark", preprocess.to_json(), labels, {"finding": {"threshold": 0.5, "score": "calibrated"}},
        {"finding": {"slope": 1.0, "intercept": 0.0}}, envelope(facts), {}, "benchmark", LICENCE,
    )  # fmt: skip
    made = network()
    trained = Trained(made, preprocess, lambda x: 1 / (1 + np.exp(-x)), [[files[0].read_bytes()]])
    prepared = [preprocess.prepare(preprocess.read(file)) for file in files]
    on = Validation(
        lambda: ((preprocess.normalise(one.pixels), one.position_mm) for one in prepared),
        np.arange(len(files))[:, None] % 2.0, np.arange(len(files)),
    )  # fmt: skip
    limits: dict[str, float | None] = dict.fromkeys(LIMITS)
    export(trained, contents, files[:2], folder / "bundle", variants=Wanted(names, limits, on))
    return folder / "bundle"


def static_int8(model: Path, feeds: list[dict[str, Any]], out: Path) -> float:
    """Return how far probabilities of int8 with fixed ranges of activations lie from those of fp32."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds[:6])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    raw = onnx.load_model(str(model))
    del raw.graph.value_info[:]
    onnx.save_model(raw, str(out / "raw.onnx"))
    quant_pre_process(str(out / "raw.onnx"), str(out / "pre.onnx"), skip_symbolic_shape=True)
    quantize_static(str(out / "pre.onnx"), str(out / "static.onnx"), Reader(), op_types_to_quantize=["MatMul", "Gemm"],
                    per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
    said = []
    for file in (model, out / "static.onnx"):
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        logits = np.concatenate([session.run(None, feed)[0] for feed in feeds]).astype(np.float64)
        said.append(1 / (1 + np.exp(-logits)))
    return float(np.abs(said[0] - said[1]).max())


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(count: int = 24, rounds: int = 5) -> None:
    import json

    names = [name for name in FILES if name != DEFAULT and not unusable(name)]
    with tempfile.TemporaryDirectory() as place:
        files = films(Path(place) / "films", count)
        folder = bundle(Path(place), files, names)
        told = json.loads((folder / "medvit" / "variants.json").read_text())
        opened = {name: Runtime(folder, WORKERS, name) for name in (DEFAULT, *names)}
        preprocess = opened[DEFAULT].preprocess
        prepared = [preprocess.prepare(preprocess.read(file)) for file in files]
        feeds = [opened[DEFAULT].feed(preprocess.normalise(one.pixels), one.position_mm) for one in prepared]
        took: dict[str, list[float]] = {name: [] for name in ("decode", *opened, *(f"{name} alone" for name in opened))}
        for _ in range(rounds):
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(WORKERS) as pool:
                read = seconds(lambda: list(pool.map(lambda f: preprocess.prepare(preprocess.read(f)), files)))
                took["decode"].append(read)
                for name, runtime in opened.items():
                    took[name].append(seconds(lambda runtime=runtime: runtime.predict(files)))
                    took[f"{name} alone"].append(
                        seconds(lambda runtime=runtime: list(pool.map(runtime.session.run, feeds)))
                    )
        middle = {name: statistics.median(each) for name, each in took.items()}
        print(f"{count} films, {WORKERS} threads; decoding alone {1e3 * middle['decode'] / count:.1f} ms a film")
        for name in opened:
            bare = middle["decode"] + middle[f"{name} alone"]
            cost = told.get(name, {})
            print(
                f"{name:18s} {count / middle[name]:6.2f} films/s, {middle[DEFAULT] / middle[name]:.2f} times default; "
                f"{middle[name] / bare:.2f} of decoding plus runtime alone; largest difference of a probability "
                f"{cost.get('probability_max', 0):.2g}, decisions changed {cost.get('decisions_changed', 0)}"
            )
        print(f"static int8 (not a variant): {static_int8(folder / 'models' / 'model.onnx', feeds, Path(place)):.2g}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
