"""What checks the annotations of medvit while tests run, shapes too (`--jaxtyping-packages` in pyproject.toml)."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand for a float, as it may for mypy
