"""`python -m medvit.pretrain`: pretrain an encoder on images without labels; any training can start from it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit import generated, resume, run_lifecycle
from medvit.command_line import anywhere, command_line
from medvit.config import entry
from medvit.config_words import nearest
from medvit.engine.settings.contradictions import of_device, of_loading, of_sizes, ranges

if TYPE_CHECKING:
    from medvit.engine.pretraining import Pretrained
    from medvit.tracking.run import Run

_SIDES = ("train", "val", "test")


def check(settings: dict[str, Any]) -> list[str]:
    """Return numbers that make no sense and what is missing on the disk, before anything heavy is imported."""
    wrong = [*ranges(settings), *of_device(settings["trainer"]), *of_sizes(settings), *of_loading(settings)]
    wrong += resume.problems(settings)
    if settings["trainer"]["patience"] is not None:
        wrong.append(
            "trainer.patience: the loss of a pretext task does not say which epoch serves; give trainer.epochs"
        )
    if settings["trainer"]["auto_batch"]:
        wrong.append("trainer.auto_batch: pretraining does not try what fits; give trainer.batch_size and accumulate")
    if settings["tracking"]["register"] or not settings["tracking"]["log_model"]:
        wrong.append("tracking.register, tracking.log_model: pretraining logs and registers no model; leave them out")
    wrong += [*_data(settings["data"]), *_include(settings), *_monitor(settings)]
    return [*wrong, *generated.absent(settings["data"])]


def _monitor(settings: dict[str, Any]) -> list[str]:
    """Return why the number that a schedule looks at is none of this pretraining."""
    if (monitor := settings["scheduler"].get("monitor")) is None:
        return []
    if monitor != "val/loss":
        return [f"scheduler.monitor={monitor}: pretraining has val/loss alone"]
    if "val" in settings["include"]:
        return ["scheduler.monitor=val/loss: with include=[train,val] no side is left to validate on"]
    return []


def _include(settings: dict[str, Any]) -> list[str]:
    include = settings["include"]
    if unknown := [side for side in include if side not in _SIDES]:
        return [f"include={include}: expected some of {', '.join(_SIDES)}{nearest(unknown[0], _SIDES)}"]
    if not include:
        return ["include=[]: expected at least one side of the split, such as include=[train]"]
    if "test" in include and not settings["data"]["allow_leaks"]:
        told = (
            f"include={include}: images of the test side would be learnt from before they are tested on; leave test "
            "out. data.allow_leaks=true does it all the same; a training that starts from this run and tests on these "
            "patients is then refused (E-LEAK) unless it allows leaks too"
        )
        return [told]
    return []


def _data(data: dict[str, Any]) -> list[str]:
    wrong = []
    if data["unit"] is not None:
        wrong.append(f"data.unit={data['unit']}: pretraining looks at each image by itself; give data.unit=null")
    if data["sampler"] == "weighted":
        wrong.append("data.sampler=weighted: it weights labels, and pretraining reads none; give plain or patient")
    return wrong


def pretrain(settings: dict[str, Any], given: Sequence[str] = ()) -> str:
    """Pretrain and track one encoder, and return the run's id; arguments as of `medvit.train.train`.

    Raises:
        MedvitError: settings, data or weights that cannot be used; the run is then marked FAILED.
    """
    from medvit.engine import pretraining
    from medvit.engine.checkpoint_file import newest
    from medvit.tracking import provenance

    place = Path(settings["tracking"]["folder"])
    if (main := run_lifecycle.helped(place)) is not None:
        last = newest(main.folder) if settings["resume"] else None
        begun = json.loads((main.folder / "config.json").read_text(encoding="utf-8"))
        with run_lifecycle.helping():
            pretraining.pretrain(begun, main.folder, lambda *_: None, last)
        return str(main.id)
    settings = run_lifecycle.without_idle(settings, given)
    run, settings, last = resume.earlier_part(settings, given, place)
    if generated.wanted(settings["data"]):
        generated.make(settings["data"], settings["labels"])
    parts = pretraining.prepare(settings)
    told = provenance.facts(given, parts.objective.backbone)
    with run_lifecycle.tracked(run, settings, _title(settings), "pretrain", facts=told) as run:
        done = pretraining.pretrain(settings, run.folder, run.metrics, last, run.artifact, parts, run.steps)
        _publish(run, done, settings)
    _tell(run, done, place)
    return str(run.id)


def _title(settings: dict[str, Any]) -> str:
    """Return data, model, objective and seed, such as "phantom_cxr vit MaskedAutoencoder seed 0"."""
    parts = (settings["model"]["_target_"], settings["objective"]["_target_"])
    return " ".join(
        [settings["data"]["name"], *(part.rpartition(".")[2] for part in parts), f"seed {settings['seed']}"]
    )


def _publish(run: Run, done: Pretrained, settings: dict[str, Any]) -> None:
    """Attach to the run what a reviewer needs; the encoder alone predicts nothing, so no model is logged."""
    from medvit.tracking import provenance
    from medvit.tracking.allow_list import redacted
    from medvit.tracking.tags import checkpoint_tags

    hashes = provenance.hashes(settings, **done.data.hashes)
    for name, content in (
        ("config", redacted(settings)), ("environment", provenance.environment()), ("hashes", hashes)
    ):  # fmt: skip
        run.json(content, f"{name}.json")
    sheet = run.folder / "augmentation.png"
    if sheet.is_file():
        run.artifact(sheet)
    run.dataset(settings["data"]["name"], hashes["manifest"], "training")
    if done.weights:
        run.json(done.weights, "weights.json")
        run.tags(checkpoint_tags(done.weights))
    run.note(
        f"Pretraining on {settings['data']['name']} without labels ({', '.join(settings['include'])}). Fine-tune it: "
        f"`python -m medvit.train model.weights=DIR/{run.id}` (DIR: the folder of this mlflow.db)"
    )


def _tell(run: Run, done: Pretrained, folder: Path) -> None:
    line = anywhere(command_line("train", {"model.weights": str(folder / run.id)}, folder))
    losses = "".join(f"  {key:<22}{done.scores[key]:.4f}\n" for key in ("train/loss", "val/loss") if key in done.scores)
    sys.stdout.write(
        f"\nrun {run.id}, weights of the last epoch\n{losses}\n  the run:        {folder}/{run.id}\n"
        f"  fine-tune it:   {line} ...\n"
    )


@entry("pretrain", check)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/pretrain.yaml."""
    from hydra.core.hydra_config import HydraConfig

    pretrain(settings, HydraConfig.get().overrides.task)


if __name__ == "__main__":
    run()
