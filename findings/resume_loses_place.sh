#!/usr/bin/env bash
# A loader that remembers its place (state_dict, load_state_dict) is set back to it by Lightning on a resume within an epoch. Whoever asks
# trainer.estimated_stepping_batches in configure_optimizers, as its documentation shows for OneCycleLR, loses it: the loader
# is set up before the checkpoint's place is known, and not again. The resumed epoch has the right number of steps and the first images
# twice, the last ones never: no error, no warning, a curve that looks right.
# Output (2026-11-30, Python 3.11, Linux x86-64):
#   pytorch-lightning 2.6.6 torch 2.13.0+cpu
#   fixed schedule: stopped after [0, 1, 2, 3, 4], resumed with [5, 6, 7]
#   schedule as long as estimated_stepping_batches: stopped after [0, 1, 2, 3, 4], resumed with [0, 1, 2]
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q pytorch-lightning==2.6.6 torch==2.13.0 numpy==2.4.6
env/bin/python -W ignore - <<'EOF'
import logging
import tempfile

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
quiet = dict(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)

class Loader:
    """Eight batches of one number each."""
    def __init__(self):
        self.place = 0
    def __len__(self):
        return 8
    def __iter__(self):
        for number in range(self.place, 8):
            self.place = number + 1
            yield torch.tensor([float(number)])
        self.place = 0
    def state_dict(self):
        return {"place": self.place}
    def load_state_dict(self, state):
        self.place = state["place"]

class Model(lightning.LightningModule):
    def __init__(self, asks):
        super().__init__()
        self.weight, self.asks, self.seen = torch.nn.Parameter(torch.zeros(1)), asks, []
    def training_step(self, batch, index):
        self.seen.append(int(batch.item()))
        return self.weight.sum()
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        steps = int(self.trainer.estimated_stepping_batches) if self.asks else 8
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

print("pytorch-lightning", lightning.__version__, "torch", torch.__version__)
found = []
for asks, name in ((False, "fixed schedule"), (True, "schedule as long as estimated_stepping_batches")):
    with tempfile.TemporaryDirectory() as place:
        stopped, resumed = Model(asks), Model(asks)
        keep = ModelCheckpoint(place, filename="stop", every_n_train_steps=5)
        lightning.Trainer(max_steps=5, callbacks=[keep], **quiet).fit(stopped, Loader())
        lightning.Trainer(enable_checkpointing=False, **quiet).fit(resumed, Loader(), ckpt_path=f"{place}/stop.ckpt")
    print(f"{name}: stopped after {stopped.seen}, resumed with {resumed.seen}")
    found.append(resumed.seen)
assert found == [[5, 6, 7], [0, 1, 2]], "the behaviour has changed"
EOF
