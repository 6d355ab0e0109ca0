"""The one place that reads conf/, turns configs into objects, and starts a command.

A config is data: only classes that conf/ names are ever called, and only from here. Nothing heavy is imported before
every setting has been checked, and all problems are told in one message.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from medvit.config_check import preflight
from medvit.config_targets import imported, made, named, refusals, targets
from medvit.config_words import completed, overrides_of, readable
from medvit.errors import ConfigError, MedvitError
from medvit.renamed import with_present_targets

Run = Callable[[dict[str, Any]], int | None]
Check = Callable[[dict[str, Any]], list[str]]

_INTERNAL = 30
_FULL = "HYDRA_FULL_ERROR"
_HYDRA_FLAGS = (
    "--help",
    "-h",
    "--hydra-help",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
)
_OTHER_FLAGS = ("--multirun", "-m", "--package", "-p", "--resolve")


def conf_dir() -> Path:
    """Return the folder of YAML files: inside the package in a wheel, beside it in a checkout or editable install."""
    here = Path(__file__).resolve().parent
    inside = here / "conf"
    return inside if inside.is_dir() else here.parent / "conf"


def build(node: dict[str, Any], /, group: str = "", **extra: Any) -> Any:
    """Make the object that `node` describes by `_target_`, with `extra` keyword arguments added.

    Nested nodes are built too. Lists and mappings arrive as plain Python values; texts are not resolved any more.

    Args:
        node: a resolved mapping with `_target_`.
        group: "data" for what generates a data set, which no other part may be.
        extra: keyword arguments added to the outermost call.

    Raises:
        ConfigError: a target that neither conf/ names nor the command trusts, unknown or missing arguments, or a value
            the part refuses.
    """
    node = with_present_targets(node)
    _refuse_unnamed(node, group)
    try:
        return made({**node, **extra})
    except MedvitError:
        raise
    except (TypeError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ConfigError(f"{node.get('_target_', 'config')} cannot be built: {error}") from error


def class_of(node: dict[str, Any]) -> Any:
    """Return what the `_target_` of `node` names, not called.

    Raises:
        ConfigError: a target that neither conf/ names nor the command trusts, or that does not exist.
    """
    _refuse_unnamed(node, "")
    return imported(node["_target_"])


def _refuse_unnamed(node: dict[str, Any], group: str) -> None:
    groups = [group] if group else [each for each in named(conf_dir()) if each != "data"]
    if refused := refusals(targets(node), conf_dir(), groups):
        raise ConfigError("\n".join(refused))


def settings_of(
    name: str, given: Mapping[str, Any], check: Check | None = None, trial: Check | None = None
) -> dict[str, Any]:
    """Return the resolved settings of command `name` with `given` ones (see `config_words.overrides_of`) changed.

    Raises:
        ConfigError: as `settings_by`.
    """
    return settings_by(name, overrides_of(given), check, trial)


def settings_by(name: str, words: list[str], check: Check | None = None, trial: Check | None = None) -> dict[str, Any]:
    """Return the resolved settings of command `name` with the words of a command line.

    Raises:
        ConfigError: all problems of the settings in one message, as on the command line.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    callers = GlobalHydra.instance().hydra  # of a program that uses Hydra itself and calls medvit
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # heeded only where torch is not imported yet
    words = _with_user_folder(readable(words))
    try:
        if problems := preflight(conf_dir(), name, words, check, trial):
            raise ConfigError(_listed(problems))
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            settings: Any = completed(OmegaConf.to_container(compose(name, words), resolve=True, throw_on_missing=True))
    finally:
        GlobalHydra.instance().hydra = callers
    return dict(settings)


def entry(name: str, check: Check | None = None, trial: Check | None = None) -> Callable[[Run], Callable[[], None]]:
    """Make a command out of a function of the resolved config: `conf/<name>.yaml`, overridden on the command line.

    `check` may add problems of its own (missing files, columns); it must import nothing heavy. `trial` may: it is asked
    only where something else is wrong, so that all is told at once. Exit codes: 0, the
    returned integer, the error's `exit_code`, 30 for an error that nobody thought of, 128 + its number for a signal
    (Ctrl-C: 130).
    """

    def decorate(run: Run) -> Callable[[], None]:
        @functools.wraps(run)
        def command() -> None:
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a busy core slows it 30 times otherwise
            try:
                if told := _copy(name):
                    _stop(ConfigError(told))
                arguments = sys.argv[1:] = readable(sys.argv[1:])
                flags = [each.split("=")[0] for each in arguments if each.startswith("-")]
                if refused := [flag for flag in flags if flag not in (*_HYDRA_FLAGS, *_OTHER_FLAGS)]:
                    _stop(ConfigError(f"{', '.join(refused)}: no flag of medvit; settings are given as key=value"))
                if not any(argument.split("=")[0] in _HYDRA_FLAGS for argument in arguments):
                    plain = [argument for argument in arguments if not argument.startswith("-")]
                    problems = preflight(conf_dir(), name, _with_user_folder(plain), check, trial)
                    if problems:
                        _stop(ConfigError(_listed(problems)))
                if {"--help", "-h"} & set(arguments):
                    sys.stdout.write(_usage(name))
                _hydra_main(name, run, arguments)
            except KeyboardInterrupt as stop:
                sys.stderr.write(f"\n{str(stop) or 'interrupted; the same command can be given again'}\n")
                sys.exit(128 + getattr(stop, "number", signal.SIGINT))

        return command

    return decorate


def _copy(name: str) -> str:
    """Return why this process must not work: it is one of several copies that srun started, and not the first."""
    number, count = os.environ.get("SLURM_PROCID", "0"), os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if name == "doctor" or not number.isdigit() or not count.isdigit() or int(number) == 0 or int(count) < 2:
        return ""
    devices = (
        "; for several GPUs give trainer.devices=N, medvit starts their processes itself" if name == "train" else ""
    )
    return (
        f"srun started this command {count} times, and this is not the first copy (SLURM_PROCID={number}), which does "
        f"the work: start it once, with srun --ntasks=1{devices}. Where each copy has work of its own, such as a fold, "
        f"say so: env -u SLURM_PROCID python -m medvit.{name} ..."
    )


def _usage(name: str) -> str:
    """Return the first lines of conf/<name>.yaml, which show how the command is called, and where settings are told."""
    lines = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    calls = "\n".join(line.removeprefix("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    where = (
        f"What each setting below means stands beside it in {conf_dir()}, in {name}.yaml and the folder of its group."
    )
    return f"{calls}\n\n{where} Those with ??? must be given.\n"


def _hydra_main(name: str, run: Run, arguments: list[str]) -> None:
    import hydra
    from omegaconf import DictConfig, OmegaConf

    codes: list[int] = []

    def task(config: DictConfig) -> None:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        for own in ("medvit", "__main__"):  # under `python -m` an entry's own name is __main__
            logging.getLogger(own).setLevel(logging.INFO)
        settings: Any = completed(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
        try:
            codes.append(run(settings) or 0)
        except MedvitError as error:
            _stop(error)
        except Exception as error:  # the outermost border
            if os.environ.get(_FULL):
                raise
            sys.stderr.write(_unforeseen(error))
            sys.exit(_INTERNAL)

    sys.argv[1:] = _with_user_folder(arguments)
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(task)()
    sys.exit(max(codes, default=0))


def _with_user_folder(arguments: list[str]) -> list[str]:
    """Let `$MEDVIT_CONF` or ./my_conf add experiments and parts of the user's own."""
    folder = Path(os.environ.get("MEDVIT_CONF", "my_conf"))
    return [*arguments, f"hydra.searchpath=[file://{folder.resolve()}]"] if folder.is_dir() else arguments


def _unforeseen(error: Exception) -> str:
    """Return what can be told of an error that nobody thought of: not its message, which may hold a path or a name."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
    number = error.errno if isinstance(error, OSError) else None
    number = int(found[1]) if (found := re.search(r"\(os error (\d+)\)", str(error))) else number  # of safetensors
    if number:
        return f"{what}: {os.strerror(number)}; check the disk space and the rights of the folders given\n"
    return f"internal error: {what}; {_FULL}=1 shows all of it (it may name files), for a report to medvit's authors\n"


def _listed(problems: list[str]) -> str:
    head = "1 problem in the settings" if len(problems) == 1 else f"{len(problems)} problems in the settings"
    return "\n".join([head, *(f"  - {problem}" for problem in problems)])


def _stop(error: MedvitError) -> None:
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    sys.exit(error.exit_code)
