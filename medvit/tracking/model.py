"""A bundle as an MLflow model: models-from-code, so that nothing is pickled, and a registry version with an alias."""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from medvit.errors import RunError
from medvit.tracking.run import Run

CODE = Path(__file__).with_name("pyfunc_code.py")
_PACKAGE = Path(__file__).parents[1]  # goes along with the model: no index has this very version of medvit
_NEEDS = ("mlflow", "numpy", "pandas", "pillow", "pydicom", "imagecodecs", "opencv-python-headless", "onnxruntime")


@dataclass(frozen=True)
class Logged:
    """A model in MLflow: its id, the address to load it by, and its registry version ("" when not registered)."""

    model_id: str
    uri: str
    version: str = ""


def log(run: Run, bundle: Path, name: str, findings: tuple[str, ...], example: bytes | None = None) -> Logged:
    """Log a bundle as the run's model, loadable with `mlflow.pyfunc.load_model(uri)`; input is a `dicom` bytes column.

    Args:
        run: the run the model comes from.
        bundle: a folder written by `medvit.bundle.contents`.
        name: what MLflow shows, for example "vit_tiny pneumonia".
        findings: the names of the outputs, for the signature.
        example: one synthetic DICOM file; never a patient's, it is stored with the model.

    Raises:
        RunError: MLflow refuses the model.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    client = run.client
    try:
        model = client.create_logged_model(run.experiment_id, name=name, source_run_id=run.id, model_type="medvit")
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "model"
            _save(place, bundle, (run.id, model.model_id), findings, example)
            client.log_model_artifacts(model.model_id, str(place))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run.id, [LoggedModelOutput(model.model_id, step=0)])
    except MlflowException as error:
        raise RunError(f"MLflow refuses the model of run {run.id}: {error.message}") from error
    return Logged(model.model_id, f"models:/{model.model_id}")


def _save(place: Path, bundle: Path, ids: tuple[str, str], findings: tuple[str, ...], example: bytes | None) -> None:
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice on examples; the signature is given
        mlflow.pyfunc.save_model(
            path=str(place),
            python_model=str(CODE),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(_PACKAGE)],
            signature=signature(findings),
            input_example=None if example is None else pd.DataFrame({"dicom": [example]}),
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in _needs(bundle)],
            mlflow_model=Model(artifact_path="model", model_uuid=ids[1], run_id=ids[0], model_id=ids[1]),
        )
    _drop_source(place / "MLmodel")


def _needs(bundle: Path) -> list[str]:
    """Return the packages that the model runs with; a bundle with steps of MONAI names that and torch."""
    told = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))["required_packages_version"]
    return list(dict.fromkeys([*_NEEDS, *told]))


def _drop_source(file: Path) -> None:
    """Take the place the bundle came from out of MLmodel: it is not needed to load, and a path can name a patient."""
    from mlflow.models import Model

    content = Model.load(str(file))
    for artifact in content.flavors["python_function"]["artifacts"].values():
        artifact["uri"] = artifact["path"]
    content.save(str(file))


def signature(findings: tuple[str, ...]) -> Any:
    """Return the model's signature: `dicom` (bytes) in; status, code, reason and per finding two columns out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    fixed = [ColSpec(DataType.string, column, required=True) for column in ("status", "code", "reason")]
    fixed.append(ColSpec(DataType.boolean, "draft", required=True))
    pairs = [("probability", DataType.double), ("decision", DataType.string)]
    outputs = [ColSpec(kind, f"{column}.{name}", required=False) for name in findings for column, kind in pairs]
    return ModelSignature(inputs=Schema([ColSpec(DataType.binary, "dicom")]), outputs=Schema([*fixed, *outputs]))


def refuse_name(name: str, alias: str) -> None:
    """Refuse a name or alias that MLflow would refuse, before anything is made under it.

    Raises:
        RunError: an alias of MLflow's own (latest, v1, v2, ...), or characters that it does not take.
    """
    problems = []
    if not name.strip() or set(name) & set("/:"):
        problems.append(f"name={name!r}: expected a name without / and :")
    if not re.fullmatch(r"[\w-]{1,255}", alias):
        problems.append(f"alias={alias!r}: expected letters, digits, _ and -")
    elif re.fullmatch(r"latest|v\d+", alias.lower()):
        problems.append(f"alias={alias!r}: MLflow keeps latest and v1, v2, ... for itself; take e.g. alias=candidate")
    if problems:
        raise RunError(f"nothing is registered; {'; '.join(problems)}")


def register(
    run: Run, model_id: str, name: str, alias: str, tags: Mapping[str, str] | None = None, description: str = ""
) -> str:
    """Make the model a version of the registered model `name`, point `alias` at it, and return the version number.

    `description` is Markdown that MLflow shows with the version, at most 5,000 characters.

    Raises:
        RunError: the name or alias is not one MLflow accepts.
    """
    from mlflow.exceptions import MlflowException

    refuse_name(name, alias)
    client = run.client
    try:
        if not client.search_registered_models(filter_string=f"name = '{name}'"):
            client.create_registered_model(name)
        # By its place: MLflow looks up "models:/ID" in its default store, which is not ours.
        place = client.get_logged_model(model_id).artifact_location
        more = {"tags": dict(tags or {}), "description": description or None}
        version = client.create_model_version(name, place, run_id=run.id, model_id=model_id, **more)
        client.set_registered_model_alias(name, alias, version.version)
    except MlflowException as error:
        raise RunError(f"MLflow refuses to register the model as {name!r}, alias {alias!r}: {error.message}") from error
    return str(version.version)


def of_run(run: Run) -> str:
    """Return the id of the newest model logged by the run.

    Raises:
        RunError: the run logged none.
    """
    found = run.client.search_logged_models(
        [run.experiment_id], filter_string=f"source_run_id = '{run.id}'", max_results=1
    )
    if not found:
        raise RunError(f"Run {run.id} logged no model. Train again with tracking.log_model=true.")
    return str(found[0].model_id)
