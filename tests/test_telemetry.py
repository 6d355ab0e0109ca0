"""No telemetry, medvit's or a library's: what the system is asked for while every command runs, seen by strace."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from tests.test_pipeline import SMALL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (.ci/run installs it)"),
]
_CALLS = "trace=connect,sendto,sendmsg,sendmmsg,openat,open,creat"
_OUTSIDE = re.compile(r'(?:inet_addr\(|inet_pton\(AF_INET6, )"(?!127\.|::1"|::ffff:127\.|0\.0\.0\.0")([^"]+)"')
_WRITTEN = re.compile(r"^(?:openat|open|creat)\(.*(?:O_WRONLY|O_RDWR|O_CREAT).*\) = \d+<(/[^>]+)>$")
VARIANT = ["variants=[openvino_fp32]", "variants_at_most={probability: null, decisions: null, auroc: null}"]
_NOBODYS = ("/dev/", "/proc/", "/memfd:")


class Traced:
    """Commands of a user whose environment says nothing of telemetry; `seen()` is what they reached and wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.count = folder, folder / "home", 0
        for name in ("home", "tmp", "work"):
            (folder / name).mkdir()
        self.environment = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(self.home),
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")))),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        self.count += 1
        tracing = ["strace", "-ff", "--seccomp-bpf", "-qq", "-y", "-s", "16", "-e", _CALLS, "-e", "signal=none"]
        return subprocess.Popen(
            [*tracing, "-o", str(self.folder / f"trace{self.count}"), *command],
            cwd=self.folder / "work",
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str) -> str:
        process = self.start(*command)
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said[-3000:]
        return said

    def medvit(self, command: str, *settings: str) -> str:
        return self.run(sys.executable, "-m", f"medvit.{command}", *settings)

    def serve(self, *command: str, port: int, ask: list[str]) -> None:
        process = self.start(*command)
        try:
            for path in ask:
                _fetch(f"http://127.0.0.1:{port}{path}", process)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def seen(self) -> dict[str, set[str]]:
        """Return addresses outside this machine, port 53 among them, and files written outside the folder."""
        lines = [line for file in self.folder.glob("trace*") for line in file.read_text(errors="replace").splitlines()]
        assert any("connect(" in line or "openat(" in line for line in lines), "nothing was traced"
        reached = {found[1] for line in lines if (found := _OUTSIDE.search(line))}
        written = {found[1] for line in lines if (found := _WRITTEN.match(line))}
        own = (str(self.folder.resolve() / "work"), str(self.folder.resolve() / "tmp"), *_NOBODYS)
        return {"reached": reached, "written": {path for path in written if not path.startswith(own)}}


def _fetch(address: str, process: subprocess.Popen[str]) -> bytes:
    for _ in range(240):
        assert process.poll() is None, process.communicate()[0][-3000:]
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310 - this machine
                return bytes(answer.read())
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{address} does not answer")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_no_command_looks_up_a_name_leaves_this_machine_or_writes_elsewhere(tmp_path: Path) -> None:
    """onnxruntime left a device id and an event database in the user's cache folder and asked for its vendor's host."""
    traced = Traced(tmp_path)
    printed = traced.medvit("train", *SMALL)
    trials = [f"train={{{', '.join(word.replace('=', ': ', 1) for word in SMALL)}}}", "trials=2"]
    traced.medvit("search", *trials, "space={optim.plan.lr: {low: 1e-4, high: 1e-2}}", "tracking.folder=searched")
    traced.medvit("evaluate", "run=latest", "split=test", "bootstrap.draws=100")
    traced.medvit("register", "run=latest", "name=films", "alias=candidate")
    traced.medvit("export", "run=latest", "out=bundle", "acceptance={age_years: null}", *VARIANT)
    traced.medvit("predict", "bundle=bundle", "input=work/phantom_cxr/raw/dicom", "out=predictions")
    traced.medvit("predict", "bundle=bundle", "input=work/phantom_cxr/raw/dicom", "out=faster", "runtime=openvino_fp32")
    opened = next(line for line in printed.splitlines() if "look at it:" in line).partition(":")[2].strip()
    port = free_port()
    traced.serve("sh", "-c", f"exec env {opened.replace('--port 5000', f'--port {port}')}", port=port,
                 ask=["/health", "/", "/ajax-api/3.0/mlflow/ui-telemetry"])  # fmt: skip
    model = next((tmp_path / "work" / "runs" / "artifacts" / "models").glob("*/artifacts/MLmodel")).parent
    port = free_port()
    serve = ["mlflow", "models", "serve", "-m", str(model), "--env-manager", "local", "--port", str(port)]
    traced.serve("env", "MLFLOW_DISABLE_TELEMETRY=true", *serve, port=port, ask=["/ping"])
    seen = traced.seen()
    assert seen["reached"] == set()
    named = {str(traced.home / name) for name in (".config/medvit", ".cache/matplotlib")}  # as SECURITY.md names them
    assert {str(Path(path).parent) for path in seen["written"]} == named
    left = {path.parent.relative_to(traced.home).as_posix() for path in traced.home.rglob("*") if path.is_file()}
    assert left == {".config/medvit", ".cache/matplotlib"}


def test_the_trace_sees_what_onnxruntime_does_without_medvit(tmp_path: Path) -> None:
    """The test above could not fail otherwise."""
    traced = Traced(tmp_path)
    traced.run(sys.executable, "-c", _SESSION)
    assert any(path.endswith(".onnxruntime/onnxruntime.db") for path in traced.seen()["written"])


_SESSION = """
from onnx import TensorProto, helper
one = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", one[:1], one[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
import onnxruntime
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""
