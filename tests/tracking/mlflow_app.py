"""What `mlflow server` serves, in one process: `python mlflow_app.py DATABASE ARTIFACTS PORT FAULTS`; prints its port.

FAULTS is a file that a test may write: `{"wait": seconds, "status": 503, "of": "PUT", "token": "..."}`; each request
waits, is answered with that status (only requests of that method), or is refused (401) without that token.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def main() -> None:
    database, artifacts, port, faults = sys.argv[1:]
    os.environ |= {  # as `mlflow server --backend-store-uri ... --artifacts-destination ...` hands them to its workers
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{database}",
        "_MLFLOW_SERVER_REGISTRY_STORE": f"sqlite:///{database}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    import uvicorn
    from mlflow.server.fastapi_app import app

    async def with_faults(scope: Any, receive: Any, send: Any) -> None:
        try:
            asked = json.loads(Path(faults).read_text(encoding="utf-8")) if scope["type"] == "http" else {}
        except FileNotFoundError:
            asked = {}
        await asyncio.sleep(asked.get("wait", 0))
        given = dict(scope.get("headers", ())).get(b"authorization", b"").decode()
        status = 401 if asked.get("token") and given != f"Bearer {asked['token']}" else asked.get("status")
        if not status or asked.get("of", scope["method"]) != scope["method"]:
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"no"})

    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", int(port)))
    bound.listen()
    print(bound.getsockname()[1], flush=True)  # noqa: T201
    uvicorn.Server(uvicorn.Config(with_faults, log_level="warning")).run(sockets=[bound])


if __name__ == "__main__":
    main()
