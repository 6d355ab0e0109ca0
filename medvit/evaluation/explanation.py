"""Sections on maps: which method is faithful, whether shuffled weights change it, and whether it finds the finding."""

from __future__ import annotations

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
from medvit.model.network import Network
from medvit.report.page import Section
from medvit.report.table import Row, Table
from medvit.types import Bag

REFERENCES: dict[str, attribution.Method] = {"edges": faithfulness.edge_map, "noise": faithfulness.random_map}
_SANITY, _SEEDS, _DRAWS, _AVERAGED = 2, (0, 1, 2, 3), 1000, 200


class NetworkInput(NamedTuple):
    """Units of one side as the network sees them: `units` numbers, `image` [B C *S], or one bag [1 I C *S]."""

    units: NDArray[np.intp]
    image: Tensor
    bag: Bag | None


def explanation_sections(bench: OpenedRun, methods: list[str], most: int, permuted: str | None = None) -> list[Section]:
    """Measure the methods on validation, take the most faithful, and score maps against boxes or masks of test images.

    `permuted`: a run beside this one that was trained on permuted labels, for the label randomisation check.

    Raises:
        EvaluationError: the network of that run is of another kind.
    """
    other = None if permuted is None else _permuted(bench, permuted)
    names = [name for name in methods if name in attribution.available(bench.trained.network)]
    bench.references = _references(bench, most)
    rows = _faithful(bench, [*names, *REFERENCES], most, other)
    ranked = [row for row in rows if row["method"] in names]
    bench.best = max(ranked, key=_rank)["method"] if ranked else ""
    columns = {"method": "Method", "deletion": "Deletion (low is good)", "insertion": "Insertion (high is good)",
               "difference": "Insertion minus deletion", "head": "Same with shuffled head",
               "all": "Same with all weights shuffled",
               **({"labels": "Same with permuted labels"} if permuted is not None else {}),
               "verdict": "Sanity"}  # fmt: skip
    title = "Faithfulness and sanity"
    made = [
        Section("Explanation", (Table("faithfulness", title, columns, rows, _note(bench, most)),), text=_text(bench))
    ]
    located = _located(bench, names, 8 * most)
    return [*made, Section("Localisation", (located,))] if located.rows else made


def _rank(row: Row) -> tuple[bool, float]:
    return row["verdict"] == "passes", row["difference"].value


def _permuted(bench: OpenedRun, run: str) -> Network:
    from medvit.engine.checkpoint import load_run

    network, mine = load_run(bench.trained.folder.parent / run).network.to(bench.device), bench.trained.network
    shapes = [{name: tuple(value.shape) for name, value in each.state_dict().items()} for each in (network, mine)]
    if shapes[0] != shapes[1]:
        raise EvaluationError("sections.permuted names a run of another network; train the same one on permuted labels")
    return network


def _note(bench: OpenedRun, most: int) -> str:
    bounds = ", ".join(f"{part} {bound}" for part, bound in faithfulness.BOUNDS.items())
    taken = "; ".join(
        f"{bench.trained.task.names[output]}: {each.name}, probability falls by {each.fall:.2f}"
        for output, each in bench.references.items()
    )
    return (
        f"Positives of the validation side, up to {most} per finding; patients resampled. What was removed shows the "
        f"reference ({taken}); where the probability hardly falls, these columns measure little. Sanity: rank "
        f"correlation of maps with those of other weights, mean of {len(_SEEDS)} shuffles on {_SANITY} images, has to "
        f"stay within {bounds}. A plain edge detector has to fail; rollout and the attention of the pool know nothing "
        "of the head and fail that check by construction."
    )


def _text(bench: OpenedRun) -> str:
    if not bench.best:
        return ""
    return (
        f"Used for the maps in this report: {bench.best}, the most faithful on validation of the methods that pass the "
        "sanity checks (of all, if none does)."
    )


def network_inputs(bench: OpenedRun, units: Units, numbers: NDArray[np.intp]) -> Iterator[NetworkInput]:
    """Give units as the network sees them: films and volumes a few at a time, bags one by one."""
    if not units.bagged:
        tokens = int(np.prod(bench.trained.network.backbone.grid)) + bench.trained.network.backbone.prefix
        for part in batches(len(numbers), tokens):
            rows = np.array([units.members[n][0] for n in numbers[part]], np.int64)
            yield NetworkInput(numbers[part], bench.input(units.cache.gather(rows)), None)
        return
    for number in numbers:
        batch = units.batch(np.zeros(1, np.int64), np.array([number], np.int64))
        bag = Bag(*(part.to(bench.device) for part in batch.bag)) if batch.bag is not None else None
        yield NetworkInput(np.array([number], np.intp), bench.input(batch.image.numpy()), bag)


def maps_of(bench: OpenedRun, network: Network, name: str, output: int, part: NetworkInput) -> Tensor:
    """Return the maps [B *grid], or [1 I *grid] of a bag, by the method of this name and the output's reference."""
    return _way(bench, name, output, part.bag)(network, part.image, output)


def _way(bench: OpenedRun, name: str, output: int, bag: Bag | None) -> attribution.Method:
    if name in REFERENCES:
        inside = REFERENCES[name]
    else:
        found = bench.references.get(output)
        inside = attribution.method(name, None if found is None else found.image)
    return inside if bag is None else partial(attribution.of_bag, bag=bag, way=inside)


def _answer(bench: OpenedRun, output: int, bag: Bag | None) -> Callable[[Tensor], Tensor]:
    def probability(image: Tensor) -> Tensor:
        given: Tensor = bench.trained.task.probabilities(bench.trained.network(image, bag))[:, output]
        return given

    return probability


def _references(bench: OpenedRun, most: int) -> dict[int, Reference]:
    """Choose per output what stands for a removed place, on validation images."""
    chosen: dict[int, Reference] = {}
    side = bench.validation
    for output in range(len(bench.trained.task.names)):
        numbers = bench.numbers(side, output, most)
        if len(numbers):
            pairs = ((_answer(bench, output, part.bag), part.image) for part in network_inputs(bench, side, numbers))
            chosen[output] = choose(pairs, _average(bench, side, bench.numbers(side, output, _AVERAGED, of=0)))
    return chosen


def _average(bench: OpenedRun, side: Units, numbers: NDArray[np.intp]) -> Tensor | None:
    """Return the average image [1 C *S] of units, over all images of bags."""
    parts = [
        part.image.flatten(0, 1) if part.bag is not None else part.image
        for part in network_inputs(bench, side, numbers)
    ]
    count = sum(len(part) for part in parts)
    return torch.stack([part.sum(dim=0) for part in parts]).sum(dim=0)[None] / count if count else None


def _faithful(bench: OpenedRun, names: Sequence[str], most: int, permuted: Network | None) -> list[Row]:
    network, side = bench.trained.network, bench.validation
    columns: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    checks: dict[str, dict[str, float]] = {}
    patient: list[str] = []
    for output in bench.references:
        for part in network_inputs(bench, side, bench.numbers(side, output, most)):
            patient += [str(p) for p in side.frame["patient"].to_numpy()[part.units]]
            answer, reference = _answer(bench, output, part.bag), bench.references[output].image
            fill = grey(part.image) if reference is None else reference.expand_as(part.image)
            what = f"Maps of {bench.trained.task.names[output]}, {len(patient)} images"
            for name in with_time_left(names, what, len(names)):
                maps = maps_of(bench, network, name, output, part).to(part.image.device)
                areas = faithfulness.curves(answer, part.image, maps, fill, bagged=part.bag is not None)
                columns[name].append(np.stack(areas, axis=1))
                if name not in checks:
                    way = _way(bench, name, output, part.bag)
                    checks[name] = faithfulness.sanity(way, network, part.image[:_SANITY], output, _SEEDS, permuted)
    if len(set(patient)) < 2:
        return []
    rows = []
    for name in names:
        deletion, insertion = np.concatenate(columns[name]).T
        scores = {"deletion": deletion, "insertion": insertion, "difference": insertion - deletion}
        verdict = "passes" if faithfulness.passes(checks[name]) else "fails"
        rows.append(
            {"method": name, **localisation.summary(scores, patient, _DRAWS), **checks[name], "verdict": verdict}
        )
    return rows


def _located(bench: OpenedRun, names: Sequence[str], most: int) -> Table:
    """Score every method, and the chosen one with shuffled weights, on units of the test side that have a truth."""
    rows: list[Row] = []
    tolerance: list[float] = []
    table = bench.trained.settings.get("labels", {}).get("csv")
    folder = Path(table).parent if isinstance(table, str) else None
    for output, finding in enumerate(bench.trained.task.names):
        numbers = bench.numbers(bench.test, output, most)
        truths = annotations_of(bench.test, numbers, folder)
        if len({truth.patient for truth in truths.values()}) < 2:
            continue
        tolerance += [truth.tolerance_mm for truth in truths.values()]
        scored = _scored(bench, names, output, truths)
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
        f"{bench.split.capitalize()} images with a box or mask, at the model's input. Pointing tolerance 15/224 of the "
        "longest side"
        + (f" ({np.median(tolerance):.1f} mm at the median; pixels where an image has no spacing)" if tolerance else "")
        + ". Patients resampled. An even map shows what chance gives; shuffled weights have to fall to it."
    )
    return Table("localisation", "Maps against annotations", columns, rows, note)


def _scored(
    bench: OpenedRun, names: Sequence[str], output: int, truths: Mapping[int, localisation.Annotation]
) -> dict[str, list[dict[str, float]]]:
    """Return the scores of every method and baseline for the units of `truths`, in their order."""
    network = bench.trained.network
    every = {name: (network, name) for name in names}
    if bench.best:
        every[f"{bench.best}, shuffled weights"] = (faithfulness.shuffled(network, "all"), bench.best)
    scored: dict[str, list[dict[str, float]]] = {name: [] for name in every}
    for part in network_inputs(bench, bench.test, np.array(list(truths), np.intp)):
        mine = [truths[int(number)] for number in part.units]
        for name, (asked, way) in every.items():
            maps = maps_of(bench, asked, way, output, part)
            positive = upsample(maps, mine[0].mask.shape).clamp_min(0).cpu().numpy()
            scored[name] += [localisation.score(each, truth) for each, truth in zip(positive, mine, strict=True)]
    scored["centre prior"] = [localisation.score(localisation.centre_prior(t.mask.shape), t) for t in truths.values()]
    scored["even map"] = [localisation.score(np.ones(t.mask.shape), t) for t in truths.values()]
    return scored
