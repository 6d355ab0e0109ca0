"""Images a second of a default run (bf16) beside the fp32 run that a Hugging Face Trainer gives by default.

    python benchmarks/trainer_speed.py [small|base] [steps]

The same images from memory, 16 in a batch, one label, AdamW, 224 pixels, weights at random, no validation, one thread.
The Trainer has its own defaults but for batch, number of steps, and what would write files. Ours is the
LightningModule of `train` with its losses, clipping and averaged weights, in the precision that `train` chooses. CPU
seconds from the second step to the last; the two are run one after the other, twice, and the best counts. Goal: 2.5.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from typing import Any

import torch
from torch import Tensor
from vit_speed import SHAPES, mend_torchvision

BATCH = 16


class Clock:
    """The process time of the end of every step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def rate(self) -> float:
        return BATCH * (len(self.ends) - 1) / (self.ends[-1] - self.ends[0])


def theirs(shape: tuple[int, int, int], image: Tensor, label: Tensor, steps: int) -> float:
    from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification

    width, depth, heads = shape
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    model = ViTForImageClassification(ViTConfig(**sizes, intermediate_size=4 * width, num_labels=2))
    clock, rows = Clock(), [{"pixel_values": x, "labels": int(y)} for x, y in zip(image, label, strict=True)]

    class Tick(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.ends.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        plan = TrainingArguments(folder, per_device_train_batch_size=BATCH, max_steps=steps, save_strategy="no",
                                 report_to="none", disable_tqdm=True, use_cpu=True)  # fmt: skip
        Trainer(model, plan, train_dataset=rows, callbacks=[Tick()]).train()
    return clock.rate()


def ours(shape: tuple[int, int, int], image: Tensor, label: Tensor, steps: int) -> float:
    import pytorch_lightning as pl

    from medvit.engine.callbacks.training import AverageWeights
    from medvit.engine.module import FineTuner
    from medvit.engine.settings.precision import best_precision
    from medvit.model.network import Network
    from medvit.model.pool import AttentionPool
    from medvit.model.vit import ViT
    from medvit.optim.plan import Plan
    from medvit.optim.strategy import Full
    from medvit.task.binary import Binary
    from medvit.types import Batch

    class Tick(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            clock.ends.append(time.process_time())

    width, depth, heads = shape
    backbone = ViT((224, 224), (16, 16), 3, width, depth, heads)
    clock, network, strategy = Clock(), Network(backbone, AttentionPool(), 1), Full()
    strategy.prepare(network)
    plan = Plan()
    module = FineTuner(network, Binary("finding"), strategy, plan, 1.0, 0.0, seed=0)
    uids = tuple(f"{n:032x}" for n in range(BATCH))
    there, wanted = torch.ones(BATCH, 1), label.float()[:, None]
    parts = zip(image.split(BATCH), wanted.split(BATCH), strict=True)
    batches = [Batch(x, y, there, uids, None) for x, y in parts]
    trainer = pl.Trainer(max_steps=steps, accelerator="cpu", precision=best_precision(), gradient_clip_val=plan.clip,
                         callbacks=[AverageWeights(plan.ema), Tick()], logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    return clock.rate()


def main(name: str, steps: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    library = mend_torchvision()
    torch.manual_seed(0)
    image, label = torch.randn(4 * BATCH, 3, 224, 224), torch.arange(4 * BATCH) % 2
    ways = {"medvit": ours, "transformers.Trainer": theirs}
    best = {way: max(run(SHAPES[name], image, label, steps) for _ in range(2)) for way, run in ways.items()}
    report = {"model": name, "images/s": {way: round(rate, 2) for way, rate in best.items()}}
    del library
    print(json.dumps({**report, "times faster": round(best["medvit"] / best["transformers.Trainer"], 2)}))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "small", int(sys.argv[2]) if len(sys.argv) > 2 else 6)
