"""Settings: everything wrong with them is told at once, before anything heavy is imported."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medvit.config import _usage, conf_dir, entry, settings_by
from medvit.config_check import preflight
from medvit.config_known import NAMED_PARTS, flat
from medvit.config_targets import target_problems
from medvit.config_words import OPEN_MAPPINGS, nearest_setting, overrides_of, readable
from medvit.optim.plan import OF_LIGHTNING
from medvit.train import check as check_training

COMMANDS = sorted(path.stem for path in conf_dir().glob("*.yaml") if path.stem != "base")
PARTS = sorted(path.relative_to(conf_dir()).as_posix() for path in conf_dir().rglob("*/*.yaml"))
HEAVY = "torch,monai,pytorch_lightning,mlflow,sklearn,pandas,onnxruntime,matplotlib"


def composed(command: str, *arguments: str) -> dict[str, Any]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose(command, readable(list(arguments))), resolve=True)
    return settings


def problems(command: str, *arguments: str) -> list[str]:
    return preflight(conf_dir(), command, list(arguments), None)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_misspelt_key_and_names_a_setting(command: str) -> None:
    found = problems(command, "trst=[a]")
    assert any("'trst' is not a setting; did you mean 'trust'?" in line for line in found)


def test_all_problems_come_in_one_message() -> None:
    found = problems("train", "modle=vit_tiny_16", "task=binry", "trainer.epochs=many", "seed=[")
    assert len(found) == 4
    assert any("'modle' is not a setting; did you mean 'model" in line for line in found)
    assert any("task=binry does not exist; did you mean 'binary'?" in line for line in found)
    assert any("trainer.epochs='many'" in line and "int" in line for line in found)


def test_a_word_where_a_list_belongs_and_what_was_not_given_are_told_as_what_to_type(tmp_path: Path) -> None:
    folder = f"data.folder={tmp_path}"
    assert problems("train", "data=folder", folder, "labels.target=finding") == [
        "labels.target=finding: expected a list; write labels.target=[finding]"
    ]
    assert problems("train", "data=folder") == [
        "data.folder has no value; give data.folder=...",
        "labels.target has no value; give labels.target=[NAME]",
    ]


def test_a_key_of_an_empty_mapping_is_told_with_its_plus() -> None:
    given = ["data.root=a", "data.folder=b"]
    assert problems("index", *given, "data.series.min_slices=2") == [
        "data.series.min_slices is not set by default; give it with a plus: +data.series.min_slices=..."
    ]
    assert problems("index", *given, "+data.series.min_slices=2") == []


def test_an_unknown_argument_of_a_part_is_named_without_importing_it() -> None:
    node = {"_target_": "medvit.preprocess.film.FilmPreprocess", "sise": [64, 64]}
    assert target_problems({"preprocess": node}) == [
        "medvit.preprocess.film.FilmPreprocess takes no 'sise'; did you mean 'size'?"
    ]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_conf_takes_all_its_settings(part: str) -> None:
    content = yaml.safe_load((conf_dir() / part).read_text(encoding="utf-8"))
    assert isinstance(content, dict) or part.endswith("none.yaml"), f"{part} is empty"
    assert target_problems(content) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_how_the_command_is_called_and_where_settings_are_told(command: str) -> None:
    assert _usage(command).startswith(f"python -m medvit.{command} ")
    assert str(conf_dir()) in _usage(command)


def test_help_and_mistakes_answer_without_heavy_imports() -> None:
    code = (
        "import sys; sys.argv = ['medvit.train', *sys.argv[1:]]\n"
        "import medvit.train\n"
        "try: medvit.train.run()\n"
        "except SystemExit: pass\n"
        f"print([m for m in '{HEAVY}'.split(',') if m in sys.modules])"
    )
    for arguments in (["--help"], ["modle=x"]):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith("[]"), done.stdout[-300:]
        assert (
            time.perf_counter() - began < 10
        )  # the promise is 2 s on an idle machine; this only catches a heavy import


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted; the same command can be given again"),
        (OSError(28, "No space left on device", "/films/Doe^Jane"), 30, "OSError in .*No space left on device; check"),
        (RuntimeError("I/O error: /Doe^Jane (os error 28)"), 30, "RuntimeError in .*No space left on device; check"),
        (ValueError("Doe^Jane"), 30, "internal error: ValueError in test_config.py:.*HYDRA_FULL_ERROR=1 shows"),
    ],
)
def test_ctrl_c_and_what_nobody_thought_of_end_in_one_line_without_a_name(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(settings: dict[str, object]) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["medvit.split", "data.folder=none"])
    with pytest.raises(SystemExit) as stop:
        entry("split")(run)()
    told = capsys.readouterr().err.strip()
    assert stop.value.code == code
    assert re.fullmatch(f"{said}.*", told)
    assert "Jane" not in told
    if isinstance(error, ValueError):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        with pytest.raises(ValueError, match="Doe"):
            entry("split")(run)()


def test_the_exit_code_of_a_wrong_setting_is_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medvit.split", "data.foldr=x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "did you mean 'data.folder'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("data.folder=Mein Ordner/Röntgen ü", "Mein Ordner/Röntgen ü"),
        ("data.folder=~/films & old (2)", "~/films & old (2)"),
        ("data.folder=My Films (Röntgen), 2024", "My Films (Röntgen), 2024"),
        ("data.folder=films, old", "films, old"),
        ("data.folder=O'Neil/a=b;c", "O'Neil/a=b;c"),
        ("labels.keep=[Größe, site]", ["Größe", "site"]),
        ("labels.target=[finding]", ["finding"]),
    ],
)
def test_a_path_or_a_name_beyond_ascii_is_taken_as_it_is_typed(given: str, value: object) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (read,) = readable([given])
    assert OverridesParser.create().parse_override(read).value() == value


LABEL_WORDS = {"unauffällig": 0, "kein Befund, alt": 0, "Größe [mm]": 1, "no finding": -1}


@pytest.mark.parametrize(
    "given",
    [
        """labels.values={unauffällig: 0, "kein Befund, alt": 0, 'Größe [mm]': 1, no finding: -1}""",
        overrides_of({"labels__values": LABEL_WORDS})[0],
    ],
)
def test_words_of_a_label_table_are_taken_as_they_stand_there(given: str) -> None:
    read = settings_by("train", ["data=folder", "data.folder=work/Mein Satz", "labels.target=[f]", given])
    assert read["labels"]["values"] == read["task"]["values"] == LABEL_WORDS
    assert read["data"]["name"] == "Mein_Satz"


def test_words_of_a_label_table_that_look_like_numbers_or_end_with_a_space_stay_as_they_are() -> None:
    words = {"2_3": 1, "1e3": 1, " mild ": 1, "null": 0, "nan": 0, "01": 0, "utf8%41": 0}
    given = ["data=folder", "data.folder=work/films", "labels.target=[f]", *overrides_of({"labels.values": words})]
    read = settings_by("train", given)
    assert read["labels"]["values"] == words


def test_label_words_of_the_parts_of_other_commands_are_taken_as_they_stand() -> None:
    given = {"labels.values": {"unauffällig": 0, "auffällig": 1}}
    read = settings_by("curve", overrides_of({"train": given, "starts": {"scratch": {}}}))
    assert read["train"] == given


@pytest.mark.parametrize("given", ["healthy:0", "[no,yes]"])
def test_label_words_that_are_no_mapping_are_told_with_the_quotes_of_the_shell(given: str) -> None:
    told = preflight(conf_dir(), "train", ["data=folder", f"labels.values={given}"], check_training)
    assert any("in single quotes for the shell" in line for line in told)


def test_a_comma_outside_a_list_means_several_values_only_with_multirun() -> None:
    assert readable(["seed=1,2", "--multirun"]) == ["seed=1,2", "--multirun"]
    assert readable(["labels.target=[a, b]"]) == ["labels.target=[a, b]"]
    assert any(
        "model=vit_pico,vit_compact does not exist" in line
        for line in problems("train", *readable(["model=vit_pico,vit_compact"]))
    )


@pytest.mark.parametrize("given", ["labels.target=[finding", "--help", "seed"])
def test_what_quotes_do_not_mend_stays_as_it_is_and_is_refused_with_a_way_out(given: str) -> None:
    assert readable([given]) == [given]
    if not given.startswith("-"):
        assert any("my_conf/experiment/mine.yaml" in line for line in problems("train", given))


def test_numbers_that_make_no_sense_are_all_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    from medvit.train import check

    wrong = ["trainer.epochs=-1", "trainer.batch_size=0", "optim.plan.lr=-1", "optim.plan.ema=2", "seed=-1"]
    found = preflight(conf_dir(), "train", wrong, check)
    assert len(found) == len(wrong)
    assert all(any(line.startswith(f"{text}: expected") for line in found) for text in wrong)
    assert preflight(conf_dir(), "train", ["trainer.epochs=1", "optim.plan.ema=0"], check) == []
    assert preflight(conf_dir(), "train", ["optim=logistic", "model.weights=random"], check) == []


def test_a_mapping_given_on_the_command_line_replaces_the_one_below_it() -> None:
    """Hydra alone joins the two: the task then knew four spellings, and `opacity` was still a word for 1."""
    words = "labels.values={negative: 0, positive: 1}"
    for given in (words, f"+{words}"):
        settings = composed("train", given)
        assert settings["labels"]["values"] == settings["task"]["values"] == {"negative": 0, "positive": 1}
    assert composed("train", "optim.plan={lr: 0.002}")["optim"]["plan"]["ema"] == 0.99


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("train", "+trainer.max_stepz=10", "'trainer.max_stepz' is not a setting; did you mean 'trainer.max_steps'?"),
        ("train", "+trainer.num_nodes=2", "'trainer.num_nodes' is not a setting"),
        (
            "train",
            "+optim.optimizer._target_=torch.optim.SGD",
            "'optim.optimizer' is not a setting; did you mean 'optimizer'?",
        ),
        ("train", "+callback.early={_target_: x.Y}", "'callback' is not a setting; did you mean 'callbacks'?"),
        ("train", "+bag.queries=3", "'bag.queries' is not a setting"),
        ("train", "+data.set=breast", "'data.set' is not a setting"),
        ("train", "++trainer.epoch=3", "'trainer.epoch' is not a setting; did you mean 'trainer.epochs'?"),
        ("evaluate", "+bootstrap.n=3", "'bootstrap.n' is not a setting"),
        ("split", "+split.shuffle=true", "'split.shuffle' is not a setting"),
        ("predict", "+threshold=0.3", "'threshold' is not a setting"),
        ("train", "~trainer.epochs", "trainer.epochs is missing; give it a value (in conf/: 38)"),
        (
            "train",
            "labels.csv=other.csv",
            "labels.csv is read by `python -m medvit.index`, not by train: give it there",
        ),
        ("train", "data.generate.patients=9", "data.generate.patients is not used: data.folder is not the folder of"),
    ],
)
def test_what_nothing_reads_is_refused_by_name(command: str, given: str, said: str, tmp_path: Path) -> None:
    """All of these trained the default to FINISHED, and stood in MLflow as parameters."""
    own = {"train": [f"data.folder={tmp_path}"], "evaluate": ["run=x"], "split": [f"data.folder={tmp_path}"]}
    (found,) = problems(command, given, *own.get(command, ["bundle=x"]))
    assert found.startswith(said)


def test_a_plan_is_refused_where_the_head_is_solved_and_not_trained() -> None:
    assert problems("train", "optim=logistic") == []
    assert problems("train", "optim=logistic", "+optim.plan.lr=0.1") == [
        "'optim.plan.lr' is not used by what is chosen for optim; leave it out"
    ]


def test_a_part_of_ones_own_may_hold_only_what_is_read_or_referred_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    own = yaml.safe_load((conf_dir() / "data" / "folder.yaml").read_text(encoding="utf-8"))
    own["data"] |= {"name": "${data.site}", "folder": "mine", "site": "a", "clinic": "b"}
    own["labels"]["target"] = ["finding"]
    del own["data"]["fold"]
    text = f"# @package _global_\n{yaml.safe_dump(own)}"
    (tmp_path / "data" / "mine.yaml").write_text(text, encoding="utf-8")
    found = problems("train", "data=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert [line.partition(";")[0] for line in found] == ["'data.clinic' is not a setting", "data.fold is missing"]


RECIPES = sorted(path.stem for path in conf_dir().glob("experiment/*.yaml"))


@pytest.mark.parametrize("recipe", [name for name in RECIPES if not name.startswith("mri_")])
def test_a_recipe_leaves_the_words_of_the_labels_to_the_user(recipe: str, tmp_path: Path) -> None:
    """cxr_from_scratch with `{negative: 0, positive: 1}` ended in a hint that led in a circle."""
    given = [f"experiment={recipe}", f"data.folder={tmp_path}"]
    assert composed("train", *given)["labels"]["values"] is None
    if composed("train", *given)["task"]["_target_"].endswith(".Binary"):
        task = composed("train", *given, "labels.values={negative: 0, positive: 1}")["task"]
        assert task["values"] == {"negative": 0, "positive": 1}


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("gpus", "trainer.devices"),
        ("lr", "optim.plan.lr"),
        ("learning_rate", "optim.plan.lr"),
        ("trainer.lr", "optim.plan.lr"),
        ("batch", "trainer.batch_size"),
        ("max_epochs", "trainer.epochs"),
        ("trainer.max_epochs", "trainer.epochs"),
        ("early_stopping", "callbacks"),
        ("num_workers", "trainer.workers"),
        ("fp16", "trainer.precision"),
        ("pretrained", "model.weights"),
        ("backbone", "model"),
        ("img_size", "model.image_size"),
        ("output_dir", "tracking.folder"),
        ("trainer.epoch", "trainer.epochs"),
        ("optim.optimizer._target_", "optimizer"),
        ("lr_scheduler", "scheduler"),
    ],
)
def test_the_nearest_word_is_the_one_people_mean(word: str, meant: str) -> None:
    assert nearest_setting(word, dict(flat(composed("train")))) == f"; did you mean '{meant}'?"


def _words_in_code() -> set[str]:
    """Every text, parameter and field name of medvit's code outside the modules that only check settings."""
    words: set[str] = set()
    package = Path(conf_dir().parent, "medvit") if (conf_dir().parent / "medvit").is_dir() else conf_dir().parent
    for file in package.rglob("*.py"):
        if file.name.startswith("config") or file.name in {"allow_list.py", "contradictions.py"}:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
            elif isinstance(node, ast.arg):
                words.add(node.arg)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                words.add(node.target.id)
    return words


def _foreign_arguments(content: dict[str, Any]) -> set[str]:
    """Every key of a part that another package makes, all of which that part takes: torch's, Lightning's."""
    found: set[str] = set()
    for key, node in [("", content), *flat(content)]:
        target = node.get("_target_", "medvit.") if isinstance(node, dict) else "medvit."
        if target.startswith("medvit.") or "transforms" in node:
            continue
        module, _, name = target.rpartition(".")
        taken = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        given = {each for each in node if each not in {"_target_", *OF_LIGHTNING}}
        assert given <= set(taken) or any(each.kind is each.VAR_KEYWORD for each in taken.values()), target
        found |= {f"{key}.{each}".lstrip(".") for each in given}
    return found


def test_every_key_of_every_config_is_read_or_an_argument_or_referred_to() -> None:
    """A key that nothing in the code can read would be a setting without effect; found by going over all of conf/."""
    words, count, idle = _words_in_code(), 0, []
    for file in sorted(conf_dir().rglob("*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        text = file.read_text(encoding="utf-8")
        keys = dict(flat({key: value for key, value in content.items() if key not in ("defaults", "hydra")}))
        foreign = _foreign_arguments(content)
        for key in keys:
            above = [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
            count += 1
            named = {*above, *(f"{file.parent.name}.{one}" for one in above)}
            free = (
                key in foreign
                or (file.parent.name in NAMED_PARTS and not above)
                or OPEN_MAPPINGS & named
                or f"${{{key}}}" in text
                or key == "trust"
            )
            if not free and key.rpartition(".")[2] not in words and key.rpartition(".")[2] != "_target_":
                idle.append(f"{file.name}: {key}")
    assert idle == []
    assert count > 1200


@pytest.mark.parametrize("command", ["train", "export"])
def test_another_store_than_the_runs_folder_is_refused_and_a_server_is_taken(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder named http: was made, and a server named in the environment got nothing."""
    given = ["run=x", "out=y"] if command == "export" else []
    (found,) = problems(command, *given, 'tracking.folder="http://server:5000"')
    assert found.startswith("tracking.folder=http://server:5000: expected a folder on this machine, not an address")
    for taken in ("http://server:5000", f"sqlite:///{Path('runs').resolve()}/mlflow.db", ""):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", taken)
        assert problems(command, *given) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere/mlflow.db")
    (found,) = problems(command, *given)
    assert found.startswith(
        "MLFLOW_TRACKING_URI=sqlite:///elsewhere/mlflow.db: expected the address of an MLflow server"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://anna:SECRET@server:5000")
    (found,) = problems(command, *given)
    assert found.startswith("MLFLOW_TRACKING_URI=http://...@server:5000: an address with a user or password")
    assert "give them as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in found
    assert "SECRET" not in found
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://anna:SEC/RET@server:5000")
    (found,) = problems(command, *given)
    assert found.startswith("MLFLOW_TRACKING_URI=http://...@server:5000: an address with a user or password")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://another:5000")
    (found,) = problems(command, *given)
    assert found.startswith("MLFLOW_REGISTRY_URI is set to another place than the runs folder runs")


def test_the_server_of_the_settings_goes_before_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from medvit.mlflow_server import server_of

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://lab:5000/")
    assert server_of({"folder": "runs", "uri": None}) == "https://lab:5000"
    assert server_of({"folder": "runs", "uri": "http://here:5000"}) == "http://here:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert server_of({"folder": "runs"}) is None
    for wrong in ("server:5000", "sqlite:///x.db", "http://", "databricks", "http://a:b@server", "http://server/?x=1"):
        (found,) = problems("train", f"tracking.uri='{wrong}'")
        assert found.startswith("tracking.uri="), found


def test_another_site_may_have_a_name_with_capitals(tmp_path: Path) -> None:
    from medvit.evaluate import problems as check

    (tmp_path / "manifest.parquet").touch()
    given = ["run=x", f"data.folder={tmp_path}"]
    assert preflight(conf_dir(), "evaluate", [*given, "data.name=Klinik_Sued"], check) == []
    for name in ("Test", "a/b"):
        assert len(preflight(conf_dir(), "evaluate", [*given, f"data.name={name}"], check)) == 1


def test_words_that_yaml_reads_as_booleans_are_told_with_the_quotes_to_put(tmp_path: Path, monkeypatch: Any) -> None:
    """`on:` without quotes in a recipe was an internal error."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nlabels:\n  on: path\n")
    words = ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]", "data=folder", "data.folder=x"]
    told = preflight(conf_dir(), "train", words, None)
    assert any(
        'labels.True: YAML reads on, off, yes and no as true and false; put the key in quotes: "on"' in one
        for one in told
    ), told


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("split", "split=kfold", "split=kfold: split holds several settings; did you mean split.strategy=kfold?"),
        ("split", "split=fast", "split=fast: split holds several settings; give one, such as split.strategy, split.fr"),
        (
            "evaluate",
            "bootstrap=bca",
            "bootstrap=bca: bootstrap holds several settings; did you mean bootstrap.method=bca",
        ),
        (
            "evaluate",
            "aggregate=patient",
            "aggregate=patient: aggregate holds several settings; did you mean aggregate.unit",
        ),
        (
            "train",
            "trainer=gpu",
            "trainer=gpu does not exist; did you mean trainer.accelerator=gpu?; trainer can be def",
        ),
    ],
)
def test_a_group_of_settings_given_a_word_names_the_setting_that_takes_it(command: str, given: str, said: str) -> None:
    own = {"split": ["data.folder=x"], "evaluate": ["run=x"], "train": []}[command]
    (told,) = problems(command, *own, given)
    assert told.startswith(said)


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("train", "+trainer.max_stepz=10 trainer.precision=fp16 trainer.epochs=0 modle=vit seed=[ optim.plan.lr=-1"),
        ("index", "data.rot=x on_bda=skip data.kind=movie labels.unmatched=maybe report=loud"),
        ("split", "split=kfold data.foldr=x audti=true split.folds=many embed=latest"),
        ("evaluate", "run=x calibration=isotonic bootstrap.draws=5 aggregate.unit=ward +threshold=1 split=train"),
        ("compare", "on=x one=a subgroup=[sex] tracking.folder=http://server splt=val"),
        ("register", "run=x nme=y alas=b licnce=c tracking.folder=http://server +sampels=DIR"),
        ("export", "run=x outt=y draft=maybe tracking.folder=http://server +nme=z lisence=a"),
        ("predict", "bundle=/nowhere input=/nowhere crosswalk=maybe isolat=true sr=maybe"),
        ("doctor", "dep=true deep=maybe tracking.folder=http://server +data.root=x data.foldr=y"),
        ("unpack", "source=/nowhere ot=x spacing=[1,1,1] spacing_mm=[1] +label=x"),
    ],
)
def test_five_wrong_things_of_a_command_are_told_in_one_message(command: str, given: str) -> None:
    """Two mistakes took two goes."""
    module = importlib.import_module(f"medvit.{command}")
    check = next((getattr(module, name) for name in ("check", "problems", "_check") if hasattr(module, name)), None)
    told = preflight(conf_dir(), command, given.split(), check)
    keys = [word.lstrip("+").partition("=")[0] for word in given.split()]
    asked = [
        key
        for key in keys
        if (key, command) not in {("run", "evaluate"), ("run", "register"), ("run", "export"), ("one", "compare")}
    ]
    assert len(told) >= 5, told
    assert [key for key in asked if not any(key in line for line in told)] == []


def test_only_the_first_copy_that_srun_starts_works(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["medvit.split", "data.folder=none"])
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    worked = []
    for number in "0", "2":
        monkeypatch.setenv("SLURM_PROCID", number)
        with pytest.raises(SystemExit) as stop:
            entry("split")(lambda _, number=number: worked.append(number))()
        assert stop.value.code == (0 if number == "0" else 2)
    assert worked == ["0"]
    said = capsys.readouterr().err
    assert "srun started this command 4 times, and this is not the first copy (SLURM_PROCID=2)" in said
    assert "srun --ntasks=1" in said
