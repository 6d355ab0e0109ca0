"""Makes the tables of cases in this folder importable by name, here and in the benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
