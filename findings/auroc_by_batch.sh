#!/usr/bin/env bash
# torchmetrics decides for each batch whether its scores are logits (any of them outside 0 to 1) and only then applies a sigmoid.
# A batch whose logits all happen to lie in 0 to 1, common for a young network and small batches of volumes, is taken as probabilities
# and ranked against the others on another scale: the AUROC and sensitivity of the same logits change with the batch size. No warning.
# Output (2026-11-29, Python 3.11, Linux x86-64):
#   torchmetrics 1.9.0 torch 2.13.0+cpu
#   batches of   1: AUROC 0.727, sensitivity at 0.5 0.523
#   batches of   2: AUROC 0.747, sensitivity at 0.5 0.648
#   batches of   4: AUROC 0.807, sensitivity at 0.5 0.781
#   batches of   8: AUROC 0.803, sensitivity at 0.5 0.781
#   batches of 400: AUROC 0.803, sensitivity at 0.5 0.781
#   counted over all pairs of the logits: 0.803; sensitivity at a logit of 0: 0.781
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
env/bin/python - <<'EOF'
import torch, torchmetrics
from torchmetrics.classification import BinaryAUROC, BinaryRecall

draw = torch.Generator().manual_seed(0)
truth = (torch.rand(400, generator=draw) < 0.3).int()
logits = -0.3 + 0.6 * torch.randn(400, generator=draw) + 0.8 * truth
positive, negative = logits[truth == 1], logits[truth == 0]
exact = (positive[:, None] > negative).float().mean().item()
print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
auroc, recall = {}, {}
for size in (1, 2, 4, 8, 400):
    a, r = BinaryAUROC(), BinaryRecall(threshold=0.5)
    for i in range(0, 400, size):
        a.update(logits[i : i + size], truth[i : i + size])
        r.update(logits[i : i + size], truth[i : i + size])
    auroc[size], recall[size] = a.compute().item(), r.compute().item()
    print(f"batches of {size:3d}: AUROC {auroc[size]:.3f}, sensitivity at 0.5 {recall[size]:.3f}")
print(f"counted over all pairs of the logits: {exact:.3f}; sensitivity at a logit of 0: {(positive > 0).float().mean():.3f}")
assert abs(auroc[400] - exact) < 1e-3 and exact - auroc[1] > 0.02 and recall[400] - recall[1] > 0.1, "the behaviour has changed"
EOF
