#!/usr/bin/env bash
# ReduceLROnPlateau steps at the end of an epoch, after the checkpoint of that epoch is written; resumed from it, Lightning goes on with the
# next epoch and never takes the step that was due. Every stop of a long training so gives one epoch at twice the rate (here), and an early stop or a best
# epoch that an unbroken training does not have.
# Output (2026-11-30, Python 3.11, Linux x86-64):
#   pytorch-lightning 2.6.6 torch 2.13.0+cpu
#   unbroken: [1.0, 1.0, 0.5, 0.25, 0.125, 0.0625]
#   stopped after three epochs and resumed: [1.0, 1.0, 0.5] [0.5, 0.25, 0.125]
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
quiet = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0)

class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.rates = torch.nn.Parameter(torch.zeros(1)), []
    def on_train_epoch_start(self):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
    def training_step(self, batch, index):
        return (self.weight * batch[0]).mean()
    def validation_step(self, batch, index):
        self.log("val_loss", 1.0)                        # a plateau from the first epoch on
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss", "interval": "epoch"}}

def rates(epochs, keep=None, start=None):
    model = Model()
    lightning.Trainer(max_epochs=epochs, callbacks=keep, enable_checkpointing=bool(keep), **quiet).fit(model, batches, batches, ckpt_path=start)
    return model.rates

print("pytorch-lightning", lightning.__version__, "torch", torch.__version__)
batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 1)), batch_size=1)
whole = rates(6)
print(f"unbroken: {whole}")
for at_end in (True, False):                             # of the training epoch, or of validation
    with tempfile.TemporaryDirectory() as place:
        first = rates(3, [ModelCheckpoint(place, filename="last", save_on_train_epoch_end=at_end)])
        second = rates(6, start=f"{place}/last.ckpt")
    assert (first, second) == ([1.0, 1.0, 0.5], [0.5, 0.25, 0.125]), "the behaviour has changed"
print(f"stopped after three epochs and resumed: {first} {second}")
assert whole == [1.0, 1.0, 0.5, 0.25, 0.125, 0.0625], "the behaviour has changed"
EOF
