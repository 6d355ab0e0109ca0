#!/usr/bin/env bash
# Build the wheel, install it in a clean environment, and use it from a folder that holds no checkout.
set -euo pipefail
python=${1:-python3}
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/.venv/bin/python" -m build --wheel --outdir "$work/dist" "$here" >/dev/null
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check "pip>=26"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check -c "$here/constraints.txt" "$work"/dist/medvit-*.whl
mkdir "$work/elsewhere" && cd "$work/elsewhere"
"$work/venv/bin/python" - <<'PY'
import medvit.config
folder = medvit.config.conf_dir()
assert folder.parent.name == "medvit" and (folder / "train.yaml").is_file(), folder
PY
"$work/venv/bin/python" -m medvit.train --help >"$work/help"
grep -q tracking "$work/help"
if "$work/venv/bin/python" -m medvit.train modle=vit_tiny_16 2>"$work/err"; then echo "a misspelt key was accepted"; exit 1; fi
grep -q "did you mean" "$work/err"
echo "the wheel works: 1 passed, 0 failed"
