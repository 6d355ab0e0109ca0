"""Runtime of an exported bundle: DICOM in, probabilities and decisions out. No torch, no MONAI, no MLflow.

One image is one call of the network, so that a film gives the same numbers whatever lies beside it in the folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit import preprocess
from medvit.bundle import acceptance
from medvit.bundle.contents import Bundle, read
from medvit.bundle.decision import Decider
from medvit.bundle.isolate import IsolatedPool
from medvit.bundle.ood import OutOfDistribution
from medvit.bundle.session import DEFAULT, feed_of, open_session
from medvit.bundle.variants import refuse_unmeasured
from medvit.errors import BundleError, DicomRefusal
from medvit.preprocess import FilmPreprocess, Prepared, VolumeFiles, VolumePreprocess
from medvit.types import Facts, Film

Source = Path | bytes | Sequence[Path | bytes] | VolumeFiles  # one film, or the files of one volume
Taken = tuple[Facts, Prepared]


@dataclass(frozen=True)
class Result:
    """What the model says of one image: numbers, or why it says nothing. Holds no identifier.

    `status` is "OK", "REJECTED" (with `code` and `reason`) or "SKIPPED" (not an image). `probability` is calibrated,
    `uncalibrated` is before; for a quantity both are the value in its unit.
    """

    status: str
    code: str = ""
    reason: str = ""
    draft: bool = False
    probability: dict[str, float] = field(default_factory=dict)
    uncalibrated: dict[str, float] = field(default_factory=dict)
    logit: dict[str, float] = field(default_factory=dict)
    decision: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    facts: Facts | None = None

    @classmethod
    def refused(cls, refusal: DicomRefusal, draft: bool) -> Result:
        """Return what is said of an object that cannot be read, or is no image."""
        status = "SKIPPED" if refusal.code.startswith("I-") else "REJECTED"
        return cls(status, refusal.code, str(refusal), draft)

    def row(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the result as flat columns, the same for every image; nothing (None) where rejected."""
        flat: dict[str, Any] = {"status": self.status, "code": self.code, "reason": self.reason, "draft": self.draft}
        for name in names:
            flat[f"probability.{name}"] = self.probability.get(name)
            flat[f"decision.{name}"] = self.decision.get(name)
        return flat


class Runtime:
    """An opened bundle. Every hash in it is checked first. `variant` is one of `medvit.bundle.session.FILES`.

    Raises:
        BundleError: a file is missing, altered or added, the network does not fit its description, or the variant was
            not measured at export or cannot run on this machine.
    """

    def __init__(self, folder: Path, workers: int | None = None, variant: str = DEFAULT) -> None:
        self.bundle: Bundle = read(folder)
        refuse_unmeasured(variant, self.bundle.variants)
        self.variant = variant
        self.preprocess = preprocess.from_json(self.bundle.preprocess)
        _need_monai(self.preprocess.steps)
        self.names: tuple[str, ...] = tuple(self.bundle.labels["names"])
        self.decider = Decider(
            self.names, self.bundle.labels["activation"], self.bundle.calibration, self.bundle.thresholds
        )
        self.unlike = OutOfDistribution(self.bundle.unlike, self.bundle.acceptance)
        self.workers = workers or min(8, os.cpu_count() or 1)
        self.session = open_session(self.bundle.folder / "models", variant, self.workers)
        self.inputs, outputs = self.session.inputs, self.session.outputs
        if outputs != len(self.names):
            raise BundleError(f"The network has {outputs} outputs, labels.json names {len(self.names)}. Export again.")

    def predict(self, sources: Sequence[Source], accept: bool = True) -> list[Result]:
        """Return one result per source, in order; `accept=False` leaves the acceptance check out (for verification)."""
        return list(self.stream(sources, accept))

    def stream(self, sources: Sequence[Source], accept: bool = True, isolate: bool = False) -> Iterator[Result]:
        """Yield one result per source, in order, reading several at a time.

        `isolate` decodes in child processes with caps (`medvit.bundle.isolate`): a hostile file costs itself only.
        """
        work = self._work(accept)
        with ExitStack() as stack:
            if isolate:
                work = stack.enter_context(IsolatedPool(work, min(self.workers, len(sources) or 1)))
            pool = stack.enter_context(ThreadPoolExecutor(self.workers))
            yield from pool.map(lambda source: self._result(work, source, accept), sources)

    def one(self, source: Source, accept: bool = True) -> Result:
        """Return the result of one film (a file) or one volume (the files of its series)."""
        return self._result(self._work(accept), source, accept)

    def film(self, film: Film) -> Result:
        """Return the result of a film that is already read; what its header would say is not checked."""
        return self._result(lambda _: (film.facts, self.preprocess.prepare(film)), b"", accept=True)  # type: ignore[arg-type]

    def _work(self, accept: bool) -> Callable[[Source], Taken]:
        return partial(read_and_prepare, self.preprocess, self.bundle.acceptance if accept else None)

    def _result(self, work: Callable[[Source], Taken], source: Source, accept: bool) -> Result:
        draft = self.bundle.draft
        try:
            facts, prepared = work(source)
            unusual = self.unlike.check(prepared.pixels) if accept else ()
        except DicomRefusal as refusal:
            return Result.refused(refusal, draft)
        logits = self._logits(self.preprocess.normalise(prepared.pixels), prepared.position_mm)
        if not np.isfinite(logits).all():
            return Result("REJECTED", "E-NAN", "E-NAN the network gave no finite number for this image", draft)
        probability, calibrated = self.decider.probabilities(logits), self.decider.calibrated(logits)
        return Result(
            status="OK",
            draft=draft,
            probability=self._named(calibrated),
            uncalibrated=self._named(probability),
            logit=self._named(logits),
            decision=self.decider.decisions(probability, calibrated)[0],
            warnings=(*prepared.warnings, *unusual),
            facts=facts,
        )

    def _named(self, values: NDArray[Any]) -> dict[str, float]:
        return dict(zip(self.names, (float(value) for value in values[0]), strict=True))

    def _logits(self, images: NDArray[np.float32], position_mm: NDArray[np.float32]) -> NDArray[np.float64]:
        """Run images [I C *S] as one unit and return its logits, fp64 [1 K]."""
        return self.session.run(self.feed(images, position_mm))

    def feed(self, images: NDArray[np.float32], position_mm: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return what the network takes of images [I C *S], normalised, that are one unit, at positions [I] in mm."""
        return feed_of(self.inputs, images, position_mm)


def read_and_prepare(
    definition: FilmPreprocess | VolumePreprocess, envelope: dict[str, Any] | None, source: Source
) -> Taken:
    """Read one film or volume, check that the model may be asked about it, and prepare it. Raises DicomRefusal."""
    image = definition.read(source)  # type: ignore[arg-type]
    if envelope is not None:
        acceptance.check(image.facts, envelope)
    return image.facts, definition.prepare(image)  # type: ignore[arg-type]


def _need_monai(steps: Mapping[str, Any]) -> None:
    """Refuse a bundle with steps of MONAI where it is not installed; all other bundles run without it and torch."""
    if not steps:
        return
    from medvit.preprocess.steps import build_all, names

    try:
        import monai  # noqa: F401
        import torch  # noqa: F401
    except ImportError:
        raise BundleError(
            f"The bundle prepares images by {names(steps)} of MONAI, which is not installed here. Install it: "
            "pip install 'medvit[monai]'."
        ) from None
    build_all(steps)
