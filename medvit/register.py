"""`python -m medvit.register run=RUN_ID name=NAME alias=candidate`: an evaluated run as a version in the registry."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from medvit.config import entry
from medvit.mlflow_server import server_of


def register(run_id: str, name: str, alias: str, runs: Path, options: dict[str, Any] | None = None) -> str:
    """Export the run through the parity gate, log the bundle as a model, register it and return the version.

    Where `options` or MLflow's variable name a server, it is that server's registry, else that of the runs folder.

    Raises:
        RunError: the run was not evaluated, changed since, or MLflow refuses name or alias.
        BundleError: the exported path does not agree with training.
    """
    from medvit.bundle.card.markdown import shortened
    from medvit.release import prepare, publish
    from medvit.tracking import mirror, model, uploader
    from medvit.tracking.tags import bundle_tags

    model.refuse_name(name, alias)
    own = {key: value for key, value in (options or {}).items() if key != "name"}  # here it is the registry's
    release = prepare(run_id, runs, own)
    server = server_of(own.get("tracking") or {})
    with tempfile.TemporaryDirectory() as folder:
        done = release.write(Path(folder) / "bundle")
        tags, text = bundle_tags(done.digest, release.run.id), shortened(release.contents.card)
        with mirror.answers(server) if server else nullcontext():
            run = uploader.run_there(release.run, server) if server else release.run
            logged = publish(run, release.trained, release.contents, done.folder)
            return model.register(run, logged.model_id, name, alias, tags, text)


@entry("register")
def main(settings: dict[str, Any]) -> None:
    """Run the command of conf/register.yaml."""
    from rich.console import Console

    from medvit.tracking.store import store_uri

    runs = Path(settings["tracking"]["folder"])
    version = register(settings["run"], settings["name"], settings["alias"], runs, settings)
    Console().print(
        f"{settings['name']} version {version}, alias {settings['alias']}; in Python:\n"
        f"import medvit, mlflow; mlflow.set_tracking_uri({(server_of(settings['tracking']) or store_uri(runs))!r}); "
        f"model = mlflow.pyfunc.load_model('models:/{settings['name']}@{settings['alias']}')",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
