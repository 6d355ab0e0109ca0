"""Report sections on attribution maps: faithfulness, sanity checks, localisation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvit.data.units import Units
from medvit.errors import EvaluationError
from medvit.evaluation.annotations import annotations_of
from medvit.evaluation.inference import OpenedRun, with_time_left
from medvit.explain import attribution, faithfulness, localisation
from medvit.explain.overlay import batches, upsample
from medvit.explain.reference import Reference, choose, grey
from medvit.metric.bootstrap import Interval
from medvit.model.ensemble import Ensemble
from medvit.model.network import Network
from medvit.report.page import Section
from medvit.report.table import Row, Table
from medvit.types import Bag

_log = logging.getLogger(__name__)
REFERENCES: dict[str, attribution.Method] = {"edges": faithfulness.edge_map, "noise": faithfulness.random_map}
_SANITY, _SEEDS, _DRAWS, _AVERAGED = 2, (0, 1, 2, 3), 1000, 200


class NetworkInput(NamedTuple):
    """Units of one side as the network sees them: `units` numbers, `image` [B C *S], or one bag [1 I C *S]."""

    units: NDArray[np.intp]
    image: Tensor
    bag: Bag | None


def explanation_sections(
    opened: OpenedRun, methods: list[str], most: int, permuted: str | None = None
) -> list[Section]:
    """Measure the methods on validation, take the most faithful, and score maps against boxes or masks of test images.

    `permuted`: a run beside this one that was trained on permuted labels, for the label randomisation check.

    Raises:
        EvaluationError: the network of that run is of another kind.
    """
    if isinstance(opened.trained.network, Ensemble):
        if permuted is not None:
            raise EvaluationError("sections.permuted: an ensemble has no maps to check; evaluate one of its runs")
        _log.warning("no maps of an ensemble: evaluate one of the runs it is made of (ensemble.json) for its maps")
        return []
    other = None if permuted is None else _permuted(opened, permuted)
    names = [name for name in methods if name in attribution.available(opened.trained.network)]
    opened.references = _references(opened, most)
    rows = _faithful(opened, [*names, *REFERENCES], most, other)
    ranked = [row for row in rows if row["method"] in names]
    opened.best = max(ranked, key=_rank)["method"] if ranked else ""
    columns = {"method": "Method", "deletion": "Deletion (low is good)", "insertion": "Insertion (high is good)",
               "difference": "Insertion minus deletion", "head": "Same with shuffled head",
               "all": "Same with all weights shuffled",
               **({"labels": "Same with permuted labels"} if permuted is not None else {}),
               "verdict": "Sanity"}  # fmt: skip
    title = "Faithfulness and sanity"
    made = [
        Section("Explanation", (Table("faithfulness", title, columns, rows, _note(opened, most)),), text=_text(opened))
    ]
    located = _located(opened, names, 8 * most)
    return [*made, Section("Localisation", (located,))] if located.rows else made


def _rank(row: Row) -> tuple[bool, float]:
    return row["verdict"] == "passes", row["difference"].value


def _permuted(opened: OpenedRun, run: str) -> Network:
    from medvit.engine.checkpoint import load_run

    network, mine = load_run(opened.trained.folder.parent / run).network.to(opened.device), opened.trained.network
    shapes = [{name: tuple(value.shape) for name, value in each.state_dict().items()} for each in (network, mine)]
    if shapes[0] != shapes[1]:
        raise EvaluationError("sections.permuted names a run of another network; train the same one on permuted labels")
    return network


def _note(opened: OpenedRun, most: int) -> str:
    bounds = ", ".join(f"{part} {bound}" for part, bound in faithfulness.BOUNDS.items())
    taken = "; ".join(
        f"{opened.trained.task.names[output]}: {each.name}, probability falls by {each.fall:.2f}"
        for output, each in opened.references.items()
    )
    return (
        f"Positives of the validation side, up to {most} per finding; patients resampled. What was removed shows the "
        f"reference ({taken}); where the probability hardly falls, these columns measure little. Sanity: rank "
        f"correlation of maps with those of other weights, mean of {len(_SEEDS)} shuffles on {_SANITY} images, has to "
        f"stay within {bounds}. A plain edge detector has to fail; rollout and the attention of the pool know nothing "
        "of the head and fail that check by construction."
    )


def _text(opened: OpenedRun) -> str:
    if not opened.best:
        return ""
    return (
        f"Used for the maps in this report: {opened.best}, the most faithful on validation of the methods that pass "
        "the sanity checks (of all, if none does)."
    )


def network_inputs(opened: OpenedRun, units: Units, numbers: NDArray[np.intp]) -> Iterator[NetworkInput]:
    """Give units as the network sees them: films and volumes a few at a time, bags one by one."""
    if not units.bagged:
        tokens = int(np.prod(opened.trained.network.backbone.grid)) + opened.trained.network.backbone.prefix
        for part in batches(len(numbers), tokens):
            rows = np.array([units.members[n][0] for n in numbers[part]], np.int64)
            yield NetworkInput(numbers[part], opened.input(units.cache.gather(rows)), None)
        return
    for number in numbers:
        batch = units.batch(np.zeros(1, np.int64), np.array([number], np.int64))
        bag = Bag(*(part.to(opened.device) for part in batch.bag)) if batch.bag is not None else None
        yield NetworkInput(np.array([number], np.intp), opened.input(batch.image.numpy()), bag)


def maps_of(opened: OpenedRun, network: Network, name: str, output: int, part: NetworkInput) -> Tensor:
    """Return the maps [B *grid], or [1 I *grid] of a bag, by the method of this name and the output's reference."""
    return _way(opened, name, output, part.bag)(network, part.image, output)


def _way(opened: OpenedRun, name: str, output: int, bag: Bag | None) -> attribution.Method:
    if name in REFERENCES:
        inside = REFERENCES[name]
    else:
        found = opened.references.get(output)
        inside = attribution.method(name, None if found is None else found.image)
    return inside if bag is None else partial(attribution.of_bag, bag=bag, way=inside)


def _answer(opened: OpenedRun, output: int, bag: Bag | None) -> Callable[[Tensor], Tensor]:
    def probability(image: Tensor) -> Tensor:
        given: Tensor = opened.trained.task.probabilities(opened.trained.network(image, bag))[:, output]
        return given

    return probability


def _references(opened: OpenedRun, most: int) -> dict[int, Reference]:
    """Choose per output what stands for a removed place, on validation images."""
    chosen: dict[int, Reference] = {}
    side = opened.validation
    for output in range(len(opened.trained.task.names)):
        numbers = opened.units_with_label(side, output, most)
        if len(numbers):
            pairs = ((_answer(opened, output, part.bag), part.image) for part in network_inputs(opened, side, numbers))
            chosen[output] = choose(
                pairs, _average(opened, side, opened.units_with_label(side, output, _AVERAGED, of=0))
            )
    return chosen


def _average(opened: OpenedRun, side: Units, numbers: NDArray[np.intp]) -> Tensor | None:
    """Return the average image [1 C *S] of units, over all images of bags."""
    parts = [
        part.image.flatten(0, 1) if part.bag is not None else part.image
        for part in network_inputs(opened, side, numbers)
    ]
    count = sum(len(part) for part in parts)
    return torch.stack([part.sum(dim=0) for part in parts]).sum(dim=0)[None] / count if count else None


def _faithful(opened: OpenedRun, names: Sequence[str], most: int, permuted: Network | None) -> list[Row]:
    network, side = opened.trained.network, opened.validation
    columns: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    checks: dict[str, dict[str, float]] = {}
    patient: list[str] = []
    for output in opened.references:
        for part in network_inputs(opened, side, opened.units_with_label(side, output, most)):
            patient += [str(p) for p in side.frame["patient"].to_numpy()[part.units]]
            answer, reference = _answer(opened, output, part.bag), opened.references[output].image
            fill = grey(part.image) if reference is None else reference.expand_as(part.image)
            what = f"Maps of {opened.trained.task.names[output]}, {len(patient)} images"
            for name in with_time_left(names, what, len(names)):
                maps = maps_of(opened, network, name, output, part).to(part.image.device)
                areas = faithfulness.deletion_insertion(answer, part.image, maps, fill, bagged=part.bag is not None)
                columns[name].append(np.stack(areas, axis=1))
                if name not in checks:
                    way = _way(opened, name, output, part.bag)
                    checks[name] = faithfulness.sanity(way, network, part.image[:_SANITY], output, _SEEDS, permuted)
    if len(set(patient)) < 2:
        return []
    rows = []
    for name in names:
        deletion, insertion = np.concatenate(columns[name]).T
        scores = {"deletion": deletion, "insertion": insertion, "difference": insertion - deletion}
        verdict = "passes" if faithfulness.passes_sanity(checks[name]) else "fails"
        rows.append(
            {"method": name, **localisation.summary(scores, patient, _DRAWS), **checks[name], "verdict": verdict}
        )
    return rows


def _located(opened: OpenedRun, names: Sequence[str], most: int) -> Table:
    """Score every method, and the chosen one with shuffled weights, on units of the test side that have a truth."""
    rows: list[Row] = []
    tolerance: list[float] = []
    table = opened.trained.settings.get("labels", {}).get("csv")
    folder = Path(table).parent if isinstance(table, str) else None
    for output, finding in enumerate(opened.trained.task.names):
        numbers = opened.units_with_label(opened.test, output, most)
        truths = annotations_of(opened.test, numbers, folder)
        if len({truth.patient for truth in truths.values()}) < 2:
            continue
        tolerance += [truth.tolerance_mm for truth in truths.values()]
        scored = _scored(opened, names, output, truths)
        prior = [score["pointing"] for score in scored["centre prior"]]
        for name, scores in scored.items():
            part = {key: [score[key] for score in scores] for key in localisation.SCORES}
            part["gain"] = [score["pointing"] - chance for score, chance in zip(scores, prior, strict=True)]
            means: dict[str, Interval] = localisation.summary(part, [t.patient for t in truths.values()], _DRAWS)
            rows.append({"finding": finding, "method": name, "images": len(truths), **means})
    columns = {"finding": "Finding", "method": "Method", "images": "Images", "pointing": "Pointing game",
               "iou": "IoU at the best threshold", "energy": "Energy in the finding",
               "gain": "Pointing minus centre prior"}  # fmt: skip
    note = (
        f"{opened.split.capitalize()} images with a box or mask, at the model's input. Pointing tolerance 15/224 of "
        "the longest side"
        + (f" ({np.median(tolerance):.1f} mm at the median; pixels where an image has no spacing)" if tolerance else "")
        + ". Patients resampled. An even map shows what chance gives; shuffled weights have to fall to it."
    )
    return Table("localisation", "Maps against annotations", columns, rows, note)


def _scored(
    opened: OpenedRun, names: Sequence[str], output: int, truths: Mapping[int, localisation.Annotation]
) -> dict[str, list[dict[str, float]]]:
    """Return the scores of every method and baseline for the units of `truths`, in their order."""
    network = opened.trained.network
    every = {name: (network, name) for name in names}
    if opened.best:
        every[f"{opened.best}, shuffled weights"] = (faithfulness.shuffle_weights(network, "all"), opened.best)
    scored: dict[str, list[dict[str, float]]] = {name: [] for name in every}
    for part in network_inputs(opened, opened.test, np.array(list(truths), np.intp)):
        mine = [truths[int(number)] for number in part.units]
        for name, (asked, way) in every.items():
            maps = maps_of(opened, asked, way, output, part)
            positive = upsample(maps, mine[0].mask.shape).clamp_min(0).cpu().numpy()
            scored[name] += [localisation.score(each, truth) for each, truth in zip(positive, mine, strict=True)]
    scored["centre prior"] = [localisation.score(localisation.centre_prior(t.mask.shape), t) for t in truths.values()]
    scored["even map"] = [localisation.score(np.ones(t.mask.shape), t) for t in truths.values()]
    return scored
