#!/usr/bin/env bash
# Lightning's BatchSizeFinder (mode "power", the default) doubles the batch until memory is out or max_val is reached. Where max_val is
# reached, it returns the size it was about to try: never run, and above max_val unless that is a doubling of the start. The training that
# follows takes it: with volumes that is out of memory after the search said what fits, and it ignores a limit set for the batch statistics.
# Output (2026-11-30, Python 3.11, Linux x86-64):
#   pytorch-lightning 2.6.6 torch 2.13.0+cpu
#   init_val=24, max_val=64: tried [24, 48], the training gets 96
#   init_val=16, max_val=64: tried [16, 32], the training gets 64
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q pytorch-lightning==2.6.6 torch==2.13.0 numpy==2.4.6
env/bin/python -W ignore - <<'EOF'
import logging
import tempfile

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import BatchSizeFinder

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

class Model(lightning.LightningModule):
    def __init__(self, batch_size):
        super().__init__()
        self.batch_size, self.weight, self.sizes = batch_size, torch.nn.Parameter(torch.zeros(1)), []
    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(1000, 1)), batch_size=self.batch_size)
    def training_step(self, batch, index):
        self.sizes.append(len(batch[0]))
        return (self.weight * batch[0]).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

print("pytorch-lightning", lightning.__version__, "torch", torch.__version__)
found = {}
for start in (24, 16):
    model, finder = Model(start), BatchSizeFinder("power", steps_per_trial=1, init_val=start, max_val=64)
    lightning.Trainer(max_epochs=1, limit_train_batches=1, callbacks=[finder], accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False).fit(model)
    *tried, trained = model.sizes
    assert trained == finder.optimal_batch_size
    print(f"init_val={start}, max_val=64: tried {tried}, the training gets {trained}")
    found[start] = (tried, trained)
assert found == {24: ([24, 48], 96), 16: ([16, 32], 64)}, "the behaviour has changed"
EOF
