"""Every setting of a training, found by globbing conf/, is changed once, and the training is another or refuses it.

Seen is what was learned (weights, curves, predictions), what Lightning, the loader, the cache and the audit were given,
and how often blocks were recomputed or compiled, rows audited and maps drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from every_setting.leaves import GROUPS, Setting, another, words
from every_setting.training import Seen, composed, films, heads, pictures, shows, training
from whole_path import CLASSES, LEVELS, QUICK, smaller

GIVEN = {**QUICK, "trainer.precision": "32-true", "trainer.accelerator": "cpu"}
OF_TASK: dict[str, dict[str, Any]] = {
    "binary": {"labels.target": ["doubt"]},
    "multilabel": {"labels.target": ["doubt", "other"]},
    "multiclass": {"labels.target": ["kind"], "task.classes": CLASSES},
    "ordinal": {"labels.target": ["grade"], "task.levels": LEVELS},
    "regression": {"labels.target": ["size"]},
}
OTHER: dict[str, Any] = {
    "augment.blur": [2.0, 3.0], "augment.gamma": [0.4, 0.5],
    "bag.queries": 2, "bag.chunk": 2, "bag.drop_kinds": 0.9,
    "data.folder": "/nowhere", "data.fold": 0, "data.on_bad": "exclude", "data.audit_share": 1.0, "data.unit": None,
    "data.sampler": "weighted", "data.mean": 0.4, "data.std": 0.3,
    "labels.target": ["other"], "labels.values": {"normal": 1, "opacity": 0},
    "model.weights": "/nowhere/vit", "model.depths": [1, 1, 2, 1], "model.widths": [8, 16, 24, 40],
    "model.norm": "batch",
    "model.filters": 8, "model.blocks": [1, 1, 1, 2, 1], "model.width": 48, "model.heads": 4, "model.drop_path": 0.9,
    "model.positions": "learned", "model.rope": "index", "model.stem": "patch", "model.act": "relu", "model.eps": 0.1,
    "model.version": 1,
    "optim.plan.weight_decay": 0.9, "optim.plan.final_lr": 1e-4, "optim.plan.betas": [0.5, 0.6],
    "optim.plan.warmup_epochs": 0.0, "optim.plan.clip": 0.001, "optim.strategy.targets": ["fc1"],
    "optim.strategy.cache_gib": 0.0,
    "pool.queries": 4,
    "preprocess.size": [48, 48], "preprocess.voi": {"voi": "percentile"}, "preprocess.border": "black",
    "preprocess.fit": "stretch", "preprocess.picture_bits": 11, "preprocess.dtype": "uint16", "preprocess.mean": 0.4,
    "preprocess.std": 0.3, "preprocess.mode": "volume", "preprocess.orientation": "sagittal",
    "preprocess.spacing_mm": 4.0, "preprocess.intensity": "zscore",
    "preprocess.limits": [5.0, 80.0],
    "subset.share": 0.5,
    "trainer.determinism": "bitwise",
    "task.label": "other", "task.labels": ["other", "finding"], "task.values": {"normal": 1, "opacity": 0},
    "task.loss": "focal", "task.options": {"gamma": 0.5}, "task.uncertain": "ones", "task.missing": "zeros",
    "task.classes": CLASSES[::-1], "task.levels": [0, 1, 2, 3], "Ordinal:task.loss": "cumulative", "task.unit": "years",
    "Regression:task.loss": "l1", "task.low": 2.0, "task.high": 5.0,
    "trainer.workers": 1, "trainer.prefetch": 3, "trainer.pin": True, "trainer.precision": "bf16-mixed",
    "trainer.accelerator": "gpu", "trainer.devices": 2,
}  # fmt: skip
WORDED = {"labels.target": ["word"], "labels.values": {"normal": 0, "opacity": 1}}
BESIDE: dict[str, dict[str, Any]] = {
    "data.unit": {"bag": "study", "data.unit": "study"},
    "data.mean": {"data": "phantom_cxr", "data.generate": None, "labels.values": None},
    "data.std": {"data": "phantom_cxr", "data.generate": None, "labels.values": None},
    "labels.values": WORDED, "task.values": WORDED,
    "task.options": {"task.loss": "focal"}, "subset.seed": {"subset.share": 0.4},
    "optim.plan.final_lr": {"optim.plan.warmup_epochs": 0.0}, "trainer.drop_last": {"trainer.batch_size": 5},
}  # fmt: skip
# tests/augment, tests/preprocess, tests/optim/test_plan.py, tests/engine/test_added_parts.py, tests/pretraining
OF_OTHERS = (
    *("tracking", "augment", "preprocess", "optimizer", "scheduler", "callbacks", "logger", "metrics", "objective"),
    "evaluation",  # of the commands that judge predictions
)
OF_LIBRARIES = ("model/custom", "model/monai_bundle")
ELSEWHERE = {  # settings of a preset or recipe that another test goes over, and what `fit` has no part in
    "data.root", "data.name", "data.generate", "labels.csv", "labels.on", "labels.keep", "optim.plan",
    # lists of transforms and what is put into them: tests/preprocess, tests/augment
    "augment.more", "augment.transforms", "augment.share", "preprocess.after_reading", "preprocess.after_resampling",
    "preprocess.before_normalisation", "preprocess.transforms", "preprocess.series",
    # Lightning's own limits: tests/engine/test_added_parts.py
    "trainer.max_steps", "trainer.max_time", "trainer.limit_train_batches", "trainer.limit_val_batches",
    "trainer.fast_dev_run", "trainer.overfit_batches", "trainer.detect_anomaly", "trainer.profiler",
    "trainer.strategy", "trainer.extra",
    # tests/engine/test_resume.py, guards/test_finite.py
    "trainer.log_every_n_steps",  # tests/engine/callbacks/test_step_curves.py
    "trainer.checkpoint_minutes", "trainer.patience", "trainer.skip_non_finite",
    "trainer.auto_batch",  # tests/engine/guards/test_memory.py
}  # fmt: skip


def trained() -> dict[str, dict[Setting, Any]]:
    """Return the leaves of every word that a training takes, by `group/word`; of the data sets those of `folder`.

    Those of networks of other libraries (custom, monai_bundle) are left to tests/model/custom.
    """
    parts = [group for group in GROUPS if group not in OF_OTHERS]
    of_groups = {f"{group}/{word}": own for group in parts for word, own in words(group).items()}
    return {
        **{word: own for word, own in of_groups.items() if word not in OF_LIBRARIES},
        "data/folder": words("data")["folder"],
        "data/phantom_cxr": {each: value for each, value in words("data")["phantom_cxr"].items() if not each.target},
        "train/": {
            each: value for each, value in words("")["train"].items() if each.key.startswith(("seed", "subset"))
        },
    }


def cases() -> dict[str, list[Setting]]:
    """Return each setting once, under the first word that has it."""
    known: set[Setting] = set()
    found: dict[str, list[Setting]] = {}
    for word, own in trained().items():
        new = [each for each in own if each not in known and each.key not in ELSEWHERE]
        known |= set(new)
        if new:
            found[word] = new
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


def base(word: str, key: str, place: Path) -> dict[str, Any]:
    """Return the settings that a setting of this word can be seen in."""
    group, name = word.split("/")
    model = name if group == "model" else {"volume": "vit_pico_3d"}.get(name, "vit_pico")
    solid = len(composed("train", {"model": model})["model"]["image_size"]) == 3
    volumes = solid or name in ("slices", "study", "mri") or key == "data.unit"
    flat_png = group == "preprocess" and name == "film" and key != "preprocess.voi"
    found = {**GIVEN, "model": model, **smaller(model)}
    found |= (heads if volumes else pictures if flat_png else films)(
        place / ("heads" if volumes else "png" if flat_png else "films")
    )
    if volumes:
        found |= {"preprocess": "volume"} if solid else {"preprocess": "slices", "bag": "study"}
        found |= {} if solid else {"preprocess.size": [4, *found["model.image_size"]]}
    if group == "task":
        found |= OF_TASK[name]
    if group not in ("data", "train", "model"):
        found[group] = name
    if group == "optim" and name != "scratch":
        found |= {"model.weights": "random"} | ({"pool": "mean"} if name == "logistic" else {})
    if name == "lp_ft":
        found |= {"trainer.epochs": 3, "optim.strategy.probe_epochs": 1}
    return {**found, **BESIDE.get(key, {})}


def value_at(settings: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        settings = settings[part]
    return settings


def changed(setting: Setting, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with another value of this one."""
    value, key = value_at(composed("train", given), setting.key), setting.key
    if key in ("model.image_size", "model.patch_size"):
        patch = value_at(composed("train", given), "model").get("patch_size") or [32] * len(value)
        other = [side + step for side, step in zip(value, patch, strict=True)] if "image" in key else [
            step // 2 for step in patch]  # fmt: skip
    else:
        other = another(setting, value, OTHER)
    assert other != value, f"{setting}: {other} is the value it has"
    return {**given, key: other}


@pytest.mark.slow
@pytest.mark.parametrize("word", cases())
def test_a_setting_of_a_training_that_is_changed_changes_it_or_is_refused(
    word: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "convnext" in word:
        pytest.importorskip("transformers")
    bases: dict[str, Seen] = {}
    idle = {}
    for setting in cases()[word]:
        given = base(word, setting.key, place)
        name = repr(sorted(given.items(), key=str))
        if name not in bases:
            bases[name] = training(given, place / "run", monkeypatch)
        asked = changed(setting, given)
        found = shows(setting, bases[name], training(asked, place / "run", monkeypatch), asked[setting.key])
        if found not in ("effect", "refused"):
            idle[str(setting)] = found
    assert idle == {}
