#!/usr/bin/env bash
# A safetensors file with more than one metadata entry has another byte order, and so another SHA-256, from write to write:
# the same weights saved twice cannot be told from changed ones by the hash of the file. One entry is always written alike.
# Output (2026-11-29, Python 3.11, Linux x86-64):
#   safetensors 0.8.0
#   20 files of one tensor and 2 metadata entries: 2 different hashes
#   20 files of one tensor and 1 metadata entry:   1 hash
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q safetensors==0.8.0 numpy==2.4.6
env/bin/python - <<'PY'
import hashlib, numpy, safetensors
from safetensors.numpy import save

weights = {"head.weight": numpy.arange(6, dtype=numpy.float32)}
hashes = lambda metadata: {hashlib.sha256(save(weights, metadata)).hexdigest() for _ in range(20)}
two, one = hashes({"format": "pt", "name": "chest films"}), hashes({"format": "pt"})
print("safetensors", safetensors.__version__)
print(f"20 files of one tensor and 2 metadata entries: {len(two)} different hashes")
print(f"20 files of one tensor and 1 metadata entry:   {len(one)} hash")
assert len(two) > 1 and len(one) == 1, "the behaviour has changed"
PY
