"""An Optuna study that several processes work on at once, and that goes on wherever one of them was killed.

Each trial is held by a lock that the system frees however its process ends: a trial that is RUNNING and that nobody
holds was killed. It is marked as failed, and its values are the next to be tried. What a trial draws depends on the
seed, on how many were drawn before it and on their scores, never on how often the search was stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from medvit.errors import ConfigError, RunError
from medvit.file_lock import locked
from medvit.tuning.space import Choices, Parameter

logger = logging.getLogger(__name__)
AGAIN, REASON, OUTCOME, RUN = "again", "reason", "outcome", "run"  # attributes of a trial
_MACHINE, _BROKE, _FACTS = "machine", "broke", "facts"
_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
_WAIT_S = 120  # for another process that writes the file
Pruned = optuna.TrialPruned


@dataclass(frozen=True)
class Sampling:
    """How values are drawn and trials pruned: `sampler` and `pruning` of conf/search.yaml."""

    seed: int
    startup: int
    pruning: Mapping[str, int] | None

    def sampler(self, drawn: int) -> optuna.samplers.BaseSampler:
        """Return the sampler of the next trial; all that versions of Optuna decide otherwise is said."""
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}:{drawn}".encode()).digest()[:4], "big")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return optuna.samplers.TPESampler(
                n_startup_trials=self.startup, multivariate=True, group=False, constant_liar=True, seed=seed
            )

    def pruner(self) -> optuna.pruners.BasePruner:
        """Return the rule that ends trials whose curve lies below the median of the others'."""
        if self.pruning is None:
            return optuna.pruners.NopPruner()
        return optuna.pruners.MedianPruner(self.pruning["startup"], self.pruning["warmup_epochs"])


def distribution(parameter: Parameter, setting: Any) -> BaseDistribution:
    """Return a range for Optuna; `setting` is what the training has without it: a float makes the range one."""
    if isinstance(parameter, Choices):
        return CategoricalDistribution([_word(value) for value in parameter.values])
    whole = isinstance(parameter.low, int) and isinstance(parameter.high, int) and not isinstance(setting, float)
    if whole and isinstance(parameter.step, int | None):
        return IntDistribution(int(parameter.low), int(parameter.high), parameter.log, parameter.step or 1)
    return FloatDistribution(float(parameter.low), float(parameter.high), parameter.log, parameter.step)


def _word(value: Any) -> Any:
    """Return a choice as Optuna's storages keep it: lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | Mapping) else value


class SearchStudy:
    """A study of a storage, opened or made, with the ranges it draws from. `folder` is where locks are."""

    def __init__(
        self, study: optuna.Study, space: Mapping[str, Parameter], base: Mapping[str, Any], how: Sampling
    ) -> None:
        self.study, self.space, self.how = study, space, how
        self.ranges = {name: distribution(each, _at(base, name)) for name, each in space.items()}
        self.folder = Path()

    @property
    def run(self) -> str | None:
        """The id of the MLflow run of the search, once it has one."""
        found = self.study.user_attrs.get(RUN)
        return None if found is None else str(found)

    def begin(self, run: str) -> None:
        """Keep the id of the MLflow run of the search."""
        self.study.set_user_attr(RUN, run)

    @contextmanager
    def next_trial(self, lock: Path, count: int) -> Iterator[Trial | None]:
        """Hold the next trial of `count` in all; None where all are ended or held by others.

        lock: of all processes that search in this runs folder, held while the trial is drawn.
        """
        with ExitStack() as held:
            with locked(lock):
                trial = self._asked(count)
                if trial is not None:
                    held.enter_context(locked(self._lock(trial.number), wait=False))
            yield trial

    def _asked(self, count: int) -> Trial | None:
        trials = [self._settled(each) for each in self.study.get_trials(deepcopy=False)]
        if sum(each in (*_COUNTED, TrialState.RUNNING) for each in trials) >= count:
            return None
        drawn = sum(AGAIN not in each.user_attrs for each in self.study.get_trials(deepcopy=False))
        self.study.sampler = self.how.sampler(drawn)
        trial = self.study.ask(self.ranges)
        trial.set_user_attr(_MACHINE, _machine())
        return trial

    def _settled(self, trial: FrozenTrial) -> TrialState:
        """Return a trial's state; one that was killed is failed now, and waits in the queue with its values."""
        if trial.state != TrialState.RUNNING or not self._abandoned(trial):
            return TrialState(trial.state)
        again = _BROKE not in trial.user_attrs or AGAIN not in trial.user_attrs  # what broke twice breaks always
        self.study._storage.set_trial_user_attr(trial._trial_id, OUTCOME, "stopped" if again else "failed")
        self.study.tell(trial.number, state=TrialState.FAIL)
        if again:
            logger.warning("trial %d was stopped in its course: its values are tried again", trial.number)
            self.study.enqueue_trial(trial.params, {AGAIN: trial.number})
        return TrialState.FAIL

    def _abandoned(self, trial: FrozenTrial) -> bool:
        """Return whether nobody holds a trial, as far as this machine can tell; trials of others are left alone."""
        if trial.user_attrs.get(_MACHINE, _machine()) != _machine():
            return False
        with ExitStack() as alone:
            try:
                alone.enter_context(locked(self._lock(trial.number), wait=False))
            except BlockingIOError:
                return False
            # it may have ended since it was listed
            return bool(self.study._storage.get_trial(trial._trial_id).state == TrialState.RUNNING)

    def _lock(self, number: int) -> Path:
        return self.folder / "trials" / f"{number}.lock"

    def others(self) -> tuple[int, int]:
        """Return how many trials other processes of this machine hold, or held, and how many other machines."""
        running = [each for each in self.study.get_trials(deepcopy=False) if each.state == TrialState.RUNNING]
        here = sum(each.user_attrs.get(_MACHINE, _machine()) == _machine() for each in running)
        return here, len(running) - here

    def earlier(self, trial: Trial) -> FrozenTrial | None:
        """Return the trial that was stopped, if this one has its values."""
        number = trial.user_attrs.get(AGAIN)
        return None if number is None else self.study.get_trials(deepcopy=False)[number]

    def values(self, trial: Trial | FrozenTrial) -> dict[str, Any]:
        """Return the settings that a trial sets, by name."""
        found = {}
        for name, value in trial.params.items():
            parameter = self.space[name]
            listed = parameter.values if isinstance(parameter, Choices) else ()
            found[name] = next(
                (each for each in listed if _word(each) == value and type(_word(each)) is type(value)), value
            )
        return found

    def report(self, trial: Trial, value: float, epoch: int) -> None:
        """Add an epoch (from 1) to the curve of a trial; one that it has already is left as it is."""
        if epoch not in self._frozen(trial).intermediate_values:
            trial.report(value, epoch)

    def score(self, trial: Trial) -> float | None:
        """Return the best value of a trial's curve; None where it has none."""
        best = max if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else min
        return best(self._frozen(trial).intermediate_values.values(), default=None)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.study._storage.get_trial(trial._trial_id)

    def complete(self, trial: Trial, value: float) -> None:
        """End a trial with its score."""
        trial.set_user_attr(OUTCOME, "complete")
        self.study.tell(trial, value)

    def end(self, trial: Trial, outcome: str, reason: str) -> None:
        """End a trial without a score, which tells the sampler to keep away from its values."""
        trial.set_user_attr(OUTCOME, outcome)
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial, state=TrialState.PRUNED)

    def broke(self, trial: Trial, reason: str, *, once: bool = False) -> None:
        """Note why a trial is left as it is: it is tried again when the search goes on; with `once`, one time."""
        trial.set_user_attr(REASON, reason)
        if once:
            trial.set_user_attr(_BROKE, True)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, in the order of their numbers."""
        return list(self.study.get_trials(deepcopy=False))

    def best(self) -> FrozenTrial | None:
        """Return the completed trial with the best score, of equal ones the first."""
        done = [each for each in self.trials() if each.state == TrialState.COMPLETE]
        sign = -1.0 if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
        return min(done, key=lambda each: (sign * float(each.value or 0.0), each.number), default=None)

    def importances(self) -> dict[str, float]:
        """Return what share of the scores' variance each setting explains (fANOVA); empty where that is unknown."""
        scores = {each.value for each in self.trials() if each.state == TrialState.COMPLETE}
        if len(scores) < 4:
            return {}
        return dict(get_param_importances(self.study, evaluator=FanovaImportanceEvaluator(seed=self.how.seed)))


def address_of(storage: str | None, runs: Path) -> str:
    """Return the address of a study: that of the settings, or of the file search.db in the runs folder."""
    return storage or URL.create("sqlite", database=str(runs.resolve() / "search.db")).render_as_string()


def opened(storage: str, name: str, direction: str, facts: Mapping[str, Any], how: Sampling) -> optuna.Study:
    """Return the study `name`, made where it is not there; called by one process at a time.

    facts: what all its trials have in common.

    Raises:
        ConfigError: a storage that cannot be used. RunError: the study was made of other facts.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with _told(storage):
        options = {"connect_args": {"timeout": _WAIT_S}} if storage.startswith("sqlite") else {}
        place = optuna.storages.RDBStorage(storage, {"pool_pre_ping": True, **options})
        study = optuna.create_study(
            storage=place, study_name=name, direction=direction, pruner=how.pruner(), load_if_exists=True
        )
        before = study.user_attrs.get(_FACTS)
        if before is None:
            study.set_user_attr(_FACTS, dict(facts))
        elif changed := [key for key in sorted(facts) if before.get(key) != facts[key]]:
            raise RunError(
                f"study {name!r} was begun with another {', '.join(changed)}: its scores would not compare. Restore "
                "what it was, or begin another one: study=NAME"
            )
    return study


@contextmanager
def _told(storage: str) -> Iterator[None]:
    """Turn what Optuna and SQLAlchemy say of a storage into a ConfigError; theirs may hold its password."""
    kind = storage.partition(":")[0]
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"storage={kind}://...: the package {error.name} is not installed, which opens such a database"
        ) from None
    except (SQLAlchemyError, OptunaError, ImportError, OSError) as error:
        raise ConfigError(
            f"storage={kind}://... cannot be opened ({type(error).__name__}): is the server there, is the address "
            "right (postgresql+psycopg2://USER@HOST/DATABASE), is it a database of Optuna, and of this version?"
        ) from None


def _at(settings: Mapping[str, Any], name: str) -> Any:
    """Return the setting of a dotted name; None where there is none."""
    node: Any = settings
    for part in name.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _machine() -> str:
    """Return what tells this machine from others; no name of it."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:16]
