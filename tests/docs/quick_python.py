"""`python` and `medvit` as the command blocks see them in tests: with what quick.yaml appends, and ids of runs."""

import os
import sys
from pathlib import Path

import yaml

words = sys.argv[1:]
if words[:2] == ["-m", "medvit"]:
    command = words[2] if len(words) > 2 else ""
elif words[:1] == ["-m"] and words[1].startswith("medvit."):
    command = words[1].removeprefix("medvit.")
else:
    command = ""
quick = yaml.safe_load(Path(__file__).with_name("quick.yaml").read_text(encoding="utf-8"))
added = list(quick.get(command, []))
if command == "train" and not any(word.startswith(("data", "experiment", "resume")) for word in words):
    added += quick["train on generated data"]
if "--help" in words or "resume" in " ".join(words):
    added = []
made = sorted(Path("runs").glob("*/config.json"), key=lambda file: file.stat().st_mtime)
for name, place in (("OTHER_RUN_ID", -2), ("RUN_ID", -1)):
    if len(made) >= -place:
        words = [word.replace(name, made[place].parent.name) for word in words]
flags = [place for place, word in enumerate(words) if place > 1 and word.startswith("--")]
words[flags[0] if flags else len(words) : 0] = added  # Hydra takes no settings behind a flag
os.execv(sys.executable, [sys.executable, *words])  # noqa: S606 - the interpreter itself
