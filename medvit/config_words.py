"""The words of a command line: made readable for Hydra, whole mappings that replace, and the word that was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from medvit.errors import ConfigError

OPEN_MAPPINGS = frozenset(
    {
        *("acceptance", "card", "callbacks.accumulation.scheduling", "data.accept", "data.series", "definitions"),
        *("labels.csv", "labels.derive", "labels.lists"),
        *(
            "labels.values",
            "labels.where",
            "model.network",
            "preprocess.series",
            "preprocess.voi",
            "space",
            "starts",
            "train",
        ),
        *("task.missing", "task.options", "task.uncertain", "task.values", "trainer.extra", "trainer.max_time"),
    }
)
"""Settings that hold a mapping with keys of the user's own, which the part that takes them checks."""

_ENCODED = "utf8%"  # begins the key of a mapping that Hydra's grammar cannot hold, in percent-encoding

_MEANT = {
    "accelerator": "device gpu cuda",
    "accumulate": "accumulate_grad_batches gradient_accumulation gradient_accumulation_steps accum_iter grad_accum",
    "augment": "augmentation augmentations transform transforms aug",
    "bag": "mil multi_view",
    "batch_size": "batch bs batchsize train_batch_size per_device_train_batch_size",
    "callbacks": "callback early_stopping patience",
    "classes": "num_classes n_classes class_names",
    "clip": "grad_clip gradient_clip gradient_clip_val clip_grad max_grad_norm",
    "data": "dataset",
    "data.folder": "data_dir data_path dataset_dir datadir train_dir data.dir data.path",
    "data.root": "images image_dir img_dir input_dir dicom_dir",
    "devices": "gpus num_gpus n_gpus ngpu gpu_ids gpu_id num_devices",
    "ema": "model_ema ema_decay",
    "epochs": "max_epochs num_epochs n_epochs num_train_epochs epoch num_steps",
    "experiment": "recipe config preset",
    "fold": "fold_id",
    "folds": "num_folds n_folds n_splits k k_folds",
    "labels.csv": "csv label_file label_csv annotations",
    "labels.target": "target targets label label_column label_columns",
    "logger": "loggers logging tensorboard wandb",
    "loss": "criterion loss_fn",
    "metrics": "metric torchmetrics",
    "model": "backbone arch architecture network encoder net",
    "model.image_size": "img_size input_size resolution image_size size",
    "optim": "strategy finetuning",
    "optimizer": "optimiser opt optim.optimizer",
    "optim.plan.lr": "lr learning_rate learningrate base_lr blr",
    "out": "output output_dir outdir out_dir",
    "precision": "amp fp16 bf16 mixed_precision half",
    "scheduler": "lr_scheduler schedule lr_schedule optim.scheduler",
    "trainer.determinism": "deterministic reproducible benchmark cudnn_benchmark allow_tf32",
    "seed": "random_state random_seed manual_seed",
    "split.fractions": "test_size val_size val_split fractions",
    "task": "problem kind",
    "tracking": "mlflow",
    "tracking.experiment": "project experiment_name mlflow_experiment",
    "tracking.folder": "output output_dir outdir out_dir log_dir logdir save_dir run_dir mlruns tracking_uri uri",
    "tracking.name": "run_name name",
    "warmup_epochs": "warmup warm_up warmup_steps",
    "weight_decay": "wd decay l2",
    "model.weights": "pretrained checkpoint ckpt ckpt_path pretrained_weights finetune init",
    "workers": "num_workers n_jobs n_workers jobs threads num_threads",
}


def readable(arguments: list[str]) -> list[str]:
    """Return the arguments, those that Hydra cannot read bare with quotes: paths with umlauts, commas, `&` or brackets.

    A comma outside a list means several values only with --multirun. A mapping given for one of `OPEN_MAPPINGS` takes
    the place of the recipe's: it is preceded by null, for Hydra alone would join the two.
    """
    several = bool({"-m", "--multirun"} & set(arguments))
    arguments = [re.sub(r"^\+(?=trainer\.)", "++", one) for one in arguments]  # as it is typed where a key is new
    words = (
        _quoted(one, several) if not one.startswith("-") and not _reads(one, several) else one for one in arguments
    )
    return [each for word in words for each in _replacing(word)]


def overrides_of(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return Python settings as words of a command line: `{"data": {"fold": 1}}` and `data__fold=1` are data.fold=1.

    A mapping sets each of its keys, except for those of `OPEN_MAPPINGS`, which it replaces whole, and
    one with a `_target_`, which is given whole.

    Raises:
        ConfigError: a value that is no number, text, path, list or mapping.
    """
    words: list[str] = []
    for name, value in settings.items():
        key = prefix + name.replace("__", ".")
        part = "." in key and "_target_" in value if isinstance(value, Mapping) else False  # may take a word's place
        if isinstance(value, Mapping) and value and key not in OPEN_MAPPINGS and not part:
            words += overrides_of(value, f"{key}.")
        else:
            words.append(f"{key}={_literal(key, value)}")
    return words


def _literal(key: str, value: Any) -> str:
    """Return a value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return repr(float(value))
    if isinstance(value, str | Path):
        text = re.sub(r'(\\*)"', r"\1\1\"", str(value))
        return '"' + re.sub(r"(\\+)$", r"\1\1", text) + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(name))}: {_literal(key, item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_literal(key, item) for item in value) + "]"
    raise ConfigError(f"{key}: expected a number, text, path, list or mapping; found {type(value).__name__}")


def _key(name: str) -> str:
    """Return the key of a mapping as Hydra's grammar takes it, which knows no umlauts, commas or brackets in keys.

    It drops spaces at the ends, and reads 2_3 as 23, 1e3 as 1000.0 and null as none: such words are encoded, too.
    """
    plain = re.fullmatch(r"[\w.$%*@?|/+ -]+", name, re.ASCII) and name == name.strip()
    changed = name.startswith(_ENCODED) or name.lower() in ("null", "nan", "inf") or _number(name) not in (None, name)
    return name if plain and not changed else _ENCODED + quote(name).replace("~", "%7E")


def _number(name: str) -> str | None:
    """Return how the number is written that a word is for Python; None where it is none."""
    for kind in (int, float):
        with suppress(ValueError):
            return str(kind(name))
    return None


def completed(settings: Any) -> Any:
    """Return the settings, keys that `_key` encoded as they were, a data set without a name by its folder's."""
    if isinstance(settings, list):
        return [completed(each) for each in settings]
    if not isinstance(settings, dict):
        return settings
    found = {
        unquote(key.removeprefix(_ENCODED)) if str(key).startswith(_ENCODED) else key: completed(value)
        for key, value in settings.items()
    }
    data = found.get("data")
    if isinstance(data, dict) and "generate" in data and data.get("name") is None and data.get("folder"):
        data["name"] = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(data["folder"]).resolve().name)[:40] or "folder"
    return found


def _replacing(argument: str) -> Iterator[str]:
    key, _, value = argument.partition("=")
    if key.lstrip("+") in OPEN_MAPPINGS and value.lstrip().startswith("{") and _reads(argument, several=True):
        yield f"{'++' if key.startswith('+') else ''}{key.lstrip('+')}=null"
    yield argument


def _quoted(argument: str, several: bool) -> str:
    """Return `argument` with its value, or the words beyond ASCII of a list, in quotes; as it is if that is no help."""
    key, equals, value = argument.partition("=")
    if value.startswith("{"):
        value = re.sub(r"""(?<=[{,])(\s*)(?:(["'])(.*?)\2|([^{}\[\]:,'"]+?))(?=\s*:)""", _mapped, value)
    if several or value.startswith(("[", "{")) or '"' in value:
        value = re.sub(r"""[^\s\[\]{},:'"](?:[^\[\]{},:'"]*[^\s\[\]{},:'"])?""", _word, value)
    else:
        value = f'"{value}"'
    changed = f"{key}={value}"
    return changed if equals and _reads(changed, several) else argument


def _mapped(found: re.Match[str]) -> str:
    return f"{found[1]}{_key(found[3] or found[4])}"


def _word(found: re.Match[str]) -> str:
    return found[0] if found[0].isascii() else f'"{found[0]}"'


def _reads(argument: str, several: bool) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        read = OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return several or not read.is_choice_sweep()


def nearest(word: object, words: Iterable[object], alike: float = 0.5) -> str:
    """Return "; did you mean 'x'?" for the nearest of `words`, or ""."""
    close = difflib.get_close_matches(str(word), [str(each) for each in words], n=1, cutoff=alike)
    return f"; did you mean '{close[0]}'?" if close else ""


def nearest_setting(key: str, settings: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the setting that `key` stands for: a synonym, the same last word, or alike."""
    known = sorted(one for one in settings if "target" in key or not one.endswith("._target_"))
    key = re.sub(r"\._\w+_$", "", key)
    last = key.rpartition(".")[2].lower()
    meant = [setting for word in (key.lower(), last) for setting, words in _MEANT.items() if word in words.split()]
    for word in [last, *meant]:
        ends = [one for one in known if one == word or one.endswith(f".{word}")]
        if ends:
            return f"; did you mean '{min(ends, key=len)}'?"
    within = [one for one in known if one.rpartition(".")[0] == key.rpartition(".")[0]]
    return nearest(key, within) or nearest(key, known, 0.6) or nearest(last, known, 0.6)


def words_with(folder: Path, key: str) -> str:
    """Return "; that is a setting of ..." for the words of a group in `folder` (conf/) that have the setting `key`."""
    group, _, name = key.partition(".")
    files = sorted((folder / group).glob("*.yaml")) if name and "." not in name else []
    wanted = re.compile(rf"^{re.escape(name)}:", re.MULTILINE)
    have = [f"{group}={one.stem}" for one in files if wanted.search(one.read_text(encoding="utf-8"))]
    return f"; {' and '.join(have)} have it: give one of them too" if 0 < len(have) < 4 else ""


def setting_with(group: str, word: object, texts: Iterable[str]) -> str:
    """Return "; did you mean group.key=word?" for the setting of a group that takes `word`, by the comments of conf/.

    `texts` are the YAML files that may hold the group: a setting's words stand in its comment between bars (a | b | c).
    """
    for text in texts:
        inside = False
        for line in text.splitlines():
            if not line.startswith((" ", "#")) and line.strip():
                inside = line.startswith(f"{group}:")
            found = re.match(r" +(\w+):[^#]*#(.*\|.*)", line)
            if inside and found and str(word) in re.findall(r"(?:^|\|) *(?:[^|]*: )?([\w-]+)", found[2]):
                return f"; did you mean {group}.{found[1]}={word}?"
    return ""
