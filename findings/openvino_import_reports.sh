#!/usr/bin/env bash
# Importing OpenVINO leaves a random id in the home folder and asks for a host of a usage statistics service, in a process that loads no model
# and with DO_NOT_TRACK=1 set. A program that promises to stay within the hospital and has OpenVINO as an optional runtime breaks the
# promise with `import openvino`. Without the package openvino_telemetry, which OpenVINO does not need, nothing is written.
# Output (2026-11-30, Python 3.11, Linux x86-64):
#   openvino 2026.4.1
#   left in the home folder by an import:  ['intel/openvino_ga_cid']
#   without openvino_telemetry:            []
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q openvino==2026.4.1 openvino-telemetry==2025.2.0
cat > look.py <<'EOF'
import os
import subprocess
import sys
from pathlib import Path


def left_by(code: str, home: str) -> list[str]:
    """Return the files in a fresh home folder after a program has ended; no build server's variables are set."""
    Path(home).mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(Path(home).resolve()), "DO_NOT_TRACK": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    return sorted(path.relative_to(home).as_posix() for path in Path(home).rglob("*") if path.is_file() and path.name != "stats")


plain = left_by("import openvino", "home1")
without = left_by("import sys; sys.modules['openvino_telemetry'] = None; import openvino; openvino.Core()", "home2")
print("openvino 2026.4.1")
print("left in the home folder by an import: ", plain)
print("without openvino_telemetry:           ", without)
assert plain == ["intel/openvino_ga_cid"] and not without, "the behaviour has changed"
EOF
env/bin/python look.py
