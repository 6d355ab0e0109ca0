#!/usr/bin/env bash
# MONAI's 95 % Hausdorff distance of a lesion that was missed altogether is NaN (the plain distance is infinite), and the mean leaves
# NaN out: the network that misses a case has a better mean than one that finds it badly. The count that aggregate can return shows it.
# Output (2026-11-29, Python 3.11, Linux x86-64):
#   monai 1.6.1
#   third lesion found 30 pixels aside: HD of each [1.0, 3.0, 30.0], mean 11.3 over 3
#   third lesion found 30 pixels aside: HD95 of each [1.0, 3.0, 30.0], mean 11.3 over 3
#   third lesion missed: HD of each [1.0, 3.0, inf], mean inf over 3
#   third lesion missed: HD95 of each [1.0, 3.0, nan], mean 2.0 over 2
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q monai==1.6.1 torch==2.13.0 numpy==2.4.6 scipy==1.17.1
env/bin/python -W ignore - <<'EOF'
import monai, torch
from monai.metrics import HausdorffDistanceMetric

truth = torch.zeros(3, 1, 64, 64)
truth[:, :, 10:14, 10:14] = 1
found_badly, missed = torch.zeros_like(truth), torch.zeros_like(truth)
for prediction in (found_badly, missed):
    prediction[0, :, 10:14, 11:15] = 1   # one pixel aside
    prediction[1, :, 10:14, 13:17] = 1   # three
found_badly[2, :, 10:14, 40:44] = 1      # the third lesion: thirty pixels aside, or nothing
mean = {}
print("monai", monai.__version__)
for name, prediction in (("third lesion found 30 pixels aside", found_badly), ("third lesion missed", missed)):
    for percentile in (None, 95):
        metric = HausdorffDistanceMetric(percentile=percentile, reduction="mean", get_not_nans=True)
        metric(prediction, truth)
        each = [round(x, 1) for x in metric.get_buffer().ravel().tolist()]
        value, count = metric.aggregate()
        mean[name, percentile] = value.item()
        print(f"{name}: {'HD' if percentile is None else 'HD95'} of each {each}, mean {value.item():.1f} over {count.item():.0f}")
assert mean["third lesion missed", 95] == 2 and mean["third lesion missed", None] == float("inf"), "the behaviour has changed"
assert mean["third lesion found 30 pixels aside", 95] > 10, "the behaviour has changed"
EOF
