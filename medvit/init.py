"""`python -m medvit.init NAME`: write a small project for your own data: recipe, README with commands, .gitignore."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from medvit.errors import ConfigError, MedvitError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")

_RECIPE = """\
# @package _global_
# Purpose:   (what question does this run answer, on which patients?)
# Data:      (where the images and labels come from, and under which licence)
# Command:   medvit train experiment={name}
# Expected:  (metric with its interval, once it is known)
defaults:
  - override /data: folder
  - override /model: vit_compact
  - override /pool: attention
  - override /optim: scratch
  - override /augment: xray
data:
  name: {name}
  folder: work/{name}        # manifest, split and cache; made by index and split
labels:
  target: [finding]          # the column of labels.csv; several: task: multilabel above
  values: {{negative: 0, positive: 1}}  # your words for absent and present
trainer: {{epochs: 30, batch_size: 32}}
"""

_README = """\
# {name}

All commands of medvit run in this folder, where `my_conf/experiment/{name}.yaml` is found.

`labels.csv` needs one column that names the image (here `AccessionNumber`; `labels.on` names another one) and one
with the label (here `finding`).

```bash
medvit doctor
medvit index data.root=IMAGES data.folder=work/{name} labels.csv=labels.csv 'labels.target=[finding]'
medvit split data.folder=work/{name}
medvit train experiment={name}
medvit evaluate run=latest
medvit export run=latest out=work/bundle
medvit predict bundle=work/bundle input=NEW_IMAGES out=work/predictions
```

PNG or JPEG instead of DICOM: `labels.on=path labels.column=file labels.patient=patient`, for columns with the
file's path below IMAGES and with the patient. Your words for the label stand in the recipe (`labels.values`).
"""

_IGNORE = """\
# images, pseudonymised tables, caches and runs stay out of version control
work/
runs/
*.dcm
*.nii
*.nii.gz
labels*.csv
crosswalk.csv
*.key
"""


def init(name: str, parent: Path = Path()) -> Path:
    """Write the project `parent`/`name` and return its folder.

    Raises:
        ConfigError: a name that no recipe can have, or a folder that is there already.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"init {name!r}: expected a name of a-z, 0-9 and _, such as {_suggested(name)}")
    folder = parent / name
    files = {f"my_conf/experiment/{name}.yaml": _RECIPE, "README.md": _README, ".gitignore": _IGNORE}
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError(f"init: {name} is there already; nothing was changed. Give another name.") from None
    except OSError as error:
        raise ConfigError(f"init: the folder cannot be made ({error.strerror})") from error
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text.format(name=name) if file != ".gitignore" else text, encoding="utf-8")
    return folder


def _suggested(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789") or "my_study"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m medvit.init", description="Write a small project for your own data."
    )
    parser.add_argument("name", help="of the project, its folder and its recipe: a-z, 0-9 and _")
    try:
        folder = init(parser.parse_args(arguments).name)
    except MedvitError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    sys.stdout.write(f"{folder}/ is made; cd {folder}, then follow README.md\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
