#!/usr/bin/env bash
# Lightning's accumulate_grad_batches divides every batch by the number to accumulate, also in the last step of an epoch where fewer
# batches are left: nine equal batches, accumulated by four, give steps of 1, 1 and a quarter. With the few studies of a radiology set
# and large accumulation (volumes) a good part of the steps is too small, and the last batch of each epoch counts less than the others.
# Output (2026-11-29, Python 3.11, Linux x86-64):
#   pytorch-lightning 2.6.6 torch 2.13.0+cpu
#   9 batches, accumulate_grad_batches=1: gradients at the steps [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
#   9 batches, accumulate_grad_batches=4: gradients at the steps [1.0, 1.0, 0.25]
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q pytorch-lightning==2.6.6 torch==2.13.0 numpy==2.4.6
env/bin/python -W ignore - <<'EOF'
import logging
import pytorch_lightning as lightning
import torch

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

class Slope(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.gradients = torch.nn.Parameter(torch.zeros(1)), []
    def training_step(self, batch, index):
        return (self.weight * batch[0]).mean()   # the gradient of every batch is 1
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)
    def on_before_optimizer_step(self, optimizer):
        self.gradients.append(self.weight.grad.item())

print("pytorch-lightning", lightning.__version__, "torch", torch.__version__)
batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(9, 1)), batch_size=1)
found = {}
for accumulate in (1, 4):
    model = Slope()
    lightning.Trainer(max_epochs=1, accumulate_grad_batches=accumulate, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False).fit(model, batches)
    found[accumulate] = model.gradients
    print(f"9 batches, accumulate_grad_batches={accumulate}: gradients at the steps {model.gradients}")
assert found == {1: [1.0] * 9, 4: [1.0, 1.0, 0.25]}, "the behaviour has changed"
EOF
