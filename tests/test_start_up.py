"""What a command imports: a cold start is mostly imports, and Lightning alone takes longer than torch."""

import subprocess
import sys

import pytest

_HEAVY = ("pytorch_lightning", "lightning_fabric", "torchmetrics", "monai")
_USED = {
    "evaluate": ("medvit.evaluation.run", "medvit.evaluation.inference", "medvit.engine.checkpoint"),
    "export and register": ("medvit.release", "medvit.bundle.build", "medvit.bundle.parity", "medvit.tracking.model"),
    "embed": ("medvit.engine.embedding.table",),
    "what follows signals": ("medvit.run_lifecycle", "medvit.engine.guards.stop"),
}


@pytest.mark.parametrize("command", _USED)
def test_commands_that_do_not_train_start_without_lightning(command):
    code = f"import sys, {', '.join(_USED[command])}; print(*[name for name in {_HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
