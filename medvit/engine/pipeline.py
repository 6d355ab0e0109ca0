"""The plan of a training's pipeline: which steps run fused and which in MONAI, what those cost, what cannot leave."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medvit.config import build
from medvit.errors import ConfigError, MedvitError
from medvit.preprocess import VolumeFiles
from medvit.preprocess.chain import Planned, flat, plan
from medvit.preprocess.steps import PLACES, names, not_exportable, recorded

_log = logging.getLogger(__name__)
_TRIED = 5  # images of the training side that are timed


def refuse_wrong_steps(preprocess: Any) -> None:
    """Try the steps that are not fused on generated images; raises ConfigError with all that is wrong."""
    if not preprocess.steps:
        return
    from medvit.preprocess.step_trial import problems

    found = problems(preprocess)
    for line in found.told:
        _log.warning("W-STEP preprocess: %s", line)
    if found.refused:
        raise ConfigError("preprocess: " + "; ".join(found.refused))


def right_alone(node: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a preprocessing or an augmentation without the steps that cannot even be built.

    What is left can be tried, so that a step that does not exist hides none that does the wrong thing.
    """
    places = [key for key in ("more", *PLACES) if node.get(key)]
    lists = [key for key in ("transforms", *places) if isinstance(node.get(key), list)]
    deterministic = any(key in PLACES for key in node)
    ours = [step for key in lists for step in flat(node[key]) if key in places or not deterministic]
    wrong = [step for step in ours if not _can_be_built(step, deterministic)]
    return {**node, **{key: [step for step in flat(node[key]) if step not in wrong] for key in lists}}


def _can_be_built(step: Any, deterministic: bool) -> bool:
    try:
        if deterministic:
            recorded({PLACES[0]: [step]})
        else:
            build({"_target_": "medvit.augment.monai_random.Monai", "transforms": [step]})  # which looks at trust too
    except MedvitError:
        return False
    return True


def refuse_wrong_augment(augment: Any, preprocess: Any) -> None:
    """Try every transform that is not fused on generated images; raises ConfigError with all that is wrong."""
    if all(not step.place for step in augment_plan(augment)):
        return
    parts = getattr(augment, "in_monai", None)
    if parts is None:
        _refuse_own(augment, preprocess)
        return
    from medvit.augment.random_trial import problems

    found = [problems(part, preprocess.shape) for part in parts]
    for line in (line for each in found for line in each.told):
        _log.warning("W-STEP %s", line)
    if refused := [line for each in found for line in each.refused]:
        raise ConfigError("; ".join(refused))


def _refuse_own(augment: Any, preprocess: Any) -> None:
    """Change one grey image by an augmentation that is no list; raises ConfigError where it cannot."""
    image = np.full((1, *preprocess.shape), preprocess.levels // 2, preprocess.dtype)
    try:
        augment(image, 0, 0, np.zeros(1, np.int64), np.zeros(1, np.int64))
    except ConfigError:
        raise
    except ImportError as error:
        raise ConfigError(f"augment needs a package that is not installed: {error}") from error
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"augment cannot change an image of shape {list(image.shape[1:])}: {said}") from error


def described(preprocess: Any, augment: Any) -> dict[str, list[dict[str, str]]]:
    """Return every step of both parts in order, as plain JSON: its class, how it runs, and what made it."""
    both = {"preprocess": plan(preprocess), "augment": augment_plan(augment)}
    return {part: [_row(step) for step in steps] for part, steps in both.items()}


def augment_plan(augment: Any) -> list[Planned]:
    """Return the steps of an augmentation; one that does not know them is one step by itself."""
    if augment is None:
        return []
    return list(getattr(augment, "plan", [Planned(f"{type(augment).__module__}.{type(augment).__name__}", "own")]))


def _row(step: Planned) -> dict[str, str]:
    how = {"runs": "MONAI", "place": step.place, "made_by": step.made_by} if step.place else {"runs": "fused"}
    return {"step": step.name, **how}


def tell(preprocess: Any, augment: Any, folder: Path, fold: int | None = None) -> None:
    """Log the plan, the cost of what is not fused, measured on images of the training side, and what cannot leave."""
    for part, steps in {"preprocess": plan(preprocess), "augment": augment_plan(augment)}.items():
        if steps:
            _log.info("%s: %s", part, in_words(steps))
    if preprocess.steps:
        cost = _cost_once(preprocess, folder, fold)
        _log.warning("W-STEP not fused but run in MONAI: %s; %s", names(preprocess.steps), cost)
    if rest := [step.name.rpartition(".")[2] for step in augment_plan(augment) if step.place]:
        cost = _cost_always(augment, preprocess)
        _log.warning("W-STEP not fused but run in MONAI: %s; %s", ", ".join(rest), cost)
    if lost := not_exportable(preprocess.steps):
        _log.warning("W-EXPORT this run cannot be exported, nor its model kept in MLflow: %s", "; ".join(lost))


def _cost_always(augment: Any, preprocess: Any) -> str:
    """Return what the augmentation of an image costs, and what its fused part does."""
    images = np.random.default_rng(0).integers(0, preprocess.levels, (8, *preprocess.shape)).astype(preprocess.dtype)
    position, member = np.arange(8), np.zeros(8, np.int64)
    spent = []
    for call in (augment, getattr(augment, "fused_alone", None)):
        if call is not None:
            call(images, 0, 0, position, member)
            start = time.perf_counter()
            call(images, 0, 1, position, member)
            spent.append((time.perf_counter() - start) / len(images) * 1000)
    beside = f" beside {spent[1]:.1f} ms for the fused steps" if len(spent) > 1 else ""
    return f"{max(0.0, spent[0] - sum(spent[1:])):.1f} ms per image and epoch{beside}"


def in_words(steps: list[Planned]) -> str:
    """Return such as "fused: 6 of 7 steps (LoadImaged, ...); in MONAI: MedianSmoothd (after_reading)"."""
    fused = [step.name.rpartition(".")[2] for step in steps if not step.place]
    rest = [f"{step.name.rpartition('.')[2]} ({step.place})" for step in steps if step.place]
    return f"fused: {len(fused)} of {len(steps)} steps ({', '.join(fused)})" + f"; in MONAI: {', '.join(rest)}" * bool(
        rest
    )


def _cost_once(preprocess: Any, folder: Path, fold: int | None) -> str:
    """Return what an image costs with and without the steps that are not fused."""
    from medvit.dataset import manifest, splits

    table = manifest.read(folder)
    rows = splits.read(folder, table).rows(table, "train", fold).head(_TRIED)
    bare = preprocess.without_steps()
    spent: Mapping[bool, list[float]] = {True: [], False: []}
    for files, key, kind in zip(rows["files"], rows["volume_key"], rows["kind"], strict=True):
        paths = [table.root / name for name in files]
        source: Any = VolumeFiles(paths, key) if kind == "volume" else paths[0]
        try:
            image = preprocess.read(source)
            for part in (preprocess, bare):
                part.prepare(image)  # once unmeasured: MONAI builds its transforms at the first image
                start = time.perf_counter()
                part.prepare(image)
                spent[part is preprocess].append(time.perf_counter() - start)
        except MedvitError:
            continue
    if not spent[True]:
        return "at a cost that no image of the training side could tell"
    with_steps, without = (1000 * sorted(times)[len(times) // 2] for times in (spent[True], spent[False]))
    return (
        f"{max(0.0, with_steps - without):.1f} ms per image beside {without:.1f} ms for the fused steps "
        f"after reading (median of {len(spent[True])} images), once: the cache keeps the result"
    )
