"""All DICOM results of one study: `results(runtime, units, predictions, wanted)`, for `predict` and a DICOM node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvit.bundle.runtime import Result, Runtime
from medvit.bundle.session import DEFAULT
from medvit.clinical.identity import Algorithm, digest_of, headers_of, identity, refuse_several_patients
from medvit.clinical.map_objects import parametric_map, segmentation
from medvit.clinical.occlusion import Maps, hot, occlusion
from medvit.clinical.picture import NOTICE, picture, plane_of
from medvit.clinical.secondary_capture import orientation_of, orientation_of_plane, secondary_capture
from medvit.clinical.structured_report import Finding, Judged, structured_report
from medvit.clinical.summary_page import Page, encapsulated, pdf
from medvit.clinical.units import Unit
from medvit.errors import DicomRefusal
from medvit.types import Film, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

PER, FINDINGS = ("image", "study"), ("present", "all")


@dataclass(frozen=True)
class Wanted:
    """Which objects to make: SR, SC of the map over the image, SEG, Parametric Map, PDF.

    per: an SR for each "image" (a volume is one) or one for the "study". findings: maps of those "present" (of the most
    likely one where none is) or of "all". hot: the SEG holds what is at least this share of the map's highest value.
    """

    sr: bool = False
    maps: bool = False
    seg: bool = False
    parametric: bool = False
    pdf: bool = False
    per: str = "image"
    findings: str = "present"
    hot: float = 0.5

    @property
    def drawn(self) -> bool:
        """Whether occlusion maps are needed."""
        return self.maps or self.seg or self.parametric

    @property
    def any(self) -> bool:
        """Whether there is anything to make."""
        return self.sr or self.drawn or self.pdf


@dataclass(frozen=True)
class Output:
    """One object: its kind (sr, sc, seg, pm, pdf), a name of pseudonyms that is unique in its kind, the data set."""

    kind: str
    name: str
    dataset: Dataset


@dataclass
class _Known:
    """One predicted unit with what its objects are made of."""

    place: int
    unit: Unit
    result: Result
    headers: list[Dataset]
    digest: str


def results(
    runtime: Runtime, units: Sequence[Unit], predictions: Sequence[Result], wanted: Wanted
) -> tuple[list[Output], list[tuple[int, str]]]:
    """Return the objects of one study and notes: (position in `units`, why it has no such object), without identifiers.

    units: films or volumes of one study, with their results in the same order; rejected ones get no object.

    Raises:
        BundleError: maps are wanted of a bundle that does not tell its patch grid.
    """
    study = _Study(runtime, wanted)
    known: list[_Known] = []
    for place, (unit, result) in enumerate(zip(units, predictions, strict=True)):
        if result.status == "OK":
            with study.noted([place], "report"):
                known.append(_Known(place, unit, result, headers_of(unit.files), digest_of(unit.files)))
    known.sort(key=lambda one: one.digest)  # names and numbers follow from content, not from file names
    everybody = [one.place for one in known]
    with study.noted(everybody, "report"):
        refuse_several_patients([header for one in known for header in one.headers])
        for one in known if wanted.drawn else ():
            with study.noted([one.place], "map"):
                study.draw(one)
        groups = [known] if wanted.per == "study" and known else [[one] for one in known]
        for group in groups if wanted.sr else ():
            with study.noted([one.place for one in group], "report"):
                study.report(group)
        if wanted.pdf and known:
            with study.noted(everybody, "summary page"):
                study.page(known)
    return study.made, sorted(study.notes)


class _Study:
    """Makes the objects of one study one after the other and counts the instances of each series."""

    def __init__(self, runtime: Runtime, wanted: Wanted) -> None:
        self.runtime, self.wanted = runtime, wanted
        bundle = runtime.bundle
        version = metadata.version("medvit")
        by = "" if runtime.variant == DEFAULT else f" {runtime.variant}"  # it says other numbers: other objects, UIDs
        self.algorithm = Algorithm(bundle.manifest["name"], f"{version}{by}", bundle.digest, bundle.draft)
        self.made: list[Output] = []
        self.notes: list[tuple[int, str]] = []
        self.pictures: list[NDArray[np.uint8]] = []

    @contextmanager
    def noted(self, places: Sequence[int], what: str) -> Iterator[None]:
        """Note a refusal instead of raising it: the other objects are made."""
        try:
            yield
        except DicomRefusal as refusal:
            self.notes += [(place, f"no {what}: {refusal}") for place in places]

    def draw(self, one: _Known) -> None:
        """Read the unit again, in this process (prediction has shown that it decodes), and make what is wanted."""
        image: Any = self.runtime.preprocess.read(one.unit.source)  # type: ignore[arg-type]
        maps = occlusion(self.runtime, self.runtime.preprocess.prepare(image))
        for name in self._explained(one.result):
            values = maps.on_original(name)
            if self.wanted.maps or self.wanted.pdf:
                with self.noted([one.place], "overlay"):
                    self._overlay(one, image, maps, name, values)
            affine = image.affine if isinstance(image, Volume) else None
            headers = one.headers if affine is None else [one.headers[index] for index in dict.fromkeys(image.files)]
            if self.wanted.seg:
                with self.noted([one.place], "SEG"):
                    names, mask = self._names("seg", [one], name, str(self.wanted.hot)), hot(values, self.wanted.hot)
                    made = segmentation(headers, mask, affine, name, self.algorithm, names)
                    self.made.append(Output("seg", self._file(one, name), made))
            if self.wanted.parametric:
                with self.noted([one.place], "parametric map"):
                    made = parametric_map(headers, values, affine, name, self.algorithm, self._names("pm", [one], name))
                    self.made.append(Output("pm", self._file(one, name), made))

    def report(self, group: Sequence[_Known]) -> None:
        """Make the structured report of one image, or of all images of the study."""
        judged = [Judged(one.headers, self._findings(one.result)) for one in group]
        made = structured_report(judged, self.algorithm, self._names("sr", group))
        whole = self.wanted.per == "study"
        self.made.append(Output("sr", group[0].unit.study if whole else group[0].unit.uid, made))

    def page(self, known: Sequence[_Known]) -> None:
        """Make the summary page of the study."""
        rows, warnings = [], []
        for number, one in enumerate(known, 1):
            facts = one.result.facts
            kind = " ".join(word for word in (facts.modality, facts.view or facts.sequence) if word) if facts else ""
            title = f"{number}: {kind or 'image'}"
            for each in self._findings(one.result):
                limit = "" if each.threshold is None else f"{each.threshold:.3g}"
                rows.append((title, each.name, f"{each.probability:.3g} {each.unit or ''}", limit, each.decision))
            warnings += [f"{title}: {warning}" for warning in one.result.warnings]
        content = pdf(Page(rows, warnings, self.pictures), self.algorithm)
        headers = [header for one in known for header in one.headers]
        drawn = str(self.wanted.drawn and self.wanted.findings)
        made = encapsulated(headers, content, self._names("pdf", known, drawn), self.algorithm.name)
        self.made.append(Output("pdf", known[0].unit.study or known[0].unit.uid, made))

    def _overlay(self, one: _Known, image: Film | Volume, maps: Maps, name: str, values: NDArray[np.float32]) -> None:
        plane = plane_of(image, self.runtime.preprocess, values)
        lines = self._lines(one.result, maps, name)
        lines += [] if plane.slot is None else [f"Slice {plane.slot + 1} of {len(values)}, where the map is highest."]
        made = picture(plane, lines)
        self.pictures.append(made)
        if not self.wanted.maps:
            return
        if isinstance(image, Volume):
            files = image.files if len(image.files) == len(values) else [image.files[0]] * len(values)
            header, orientation = one.headers[files[plane.slot or 0]], orientation_of_plane(image.affine)
        else:
            header, orientation = one.headers[0], orientation_of(one.headers[0], plane.flip)
        told = f"Occlusion map of {name} by {self.algorithm.name}, reduced in size. {'; '.join(lines)}; {NOTICE}"
        made_object = secondary_capture(header, made, told, self._names("sc", [one], name), orientation)
        self.made.append(Output("sc", self._file(one, name), made_object))

    def _lines(self, result: Result, maps: Maps, name: str) -> list[str]:
        finding = next(each for each in self._findings(result) if each.name == name)
        value = f"{finding.probability:.3g} {finding.unit}" if finding.unit is not None else (
            f"probability {finding.probability:.2f}" + (f", {finding.decision}" if finding.decision else "")
            + ("" if finding.threshold is None else f" (threshold {finding.threshold:.2f})")
        )  # fmt: skip
        fall = float(maps.fall[maps.names.index(name)])
        draft = "DRAFT. " if self.algorithm.draft else ""
        lines = [f"{draft}{name}: {value}", "Red: hiding this place behind even grey lowers the value."]
        if fall <= 0 or maps.values[maps.names.index(name)].max() <= 0:
            lines.append("Even hiding the whole image does not lower it: the map says little.")
        return [*lines, f"{self.algorithm.name}, bundle {self.algorithm.bundle[:12]}, medvit {self.algorithm.version}"]

    def _findings(self, result: Result) -> list[Finding]:
        bundle = self.runtime.bundle
        quantity = bundle.labels["activation"]["name"] == "affine"
        unit = str(bundle.labels["activation"].get("unit") or "") if quantity else None
        return [
            Finding(name, result.probability[name], bundle.thresholds.get(name, {}).get("threshold"),
                    result.decision.get(name, ""), bundle.labels["definitions"].get(name, {}).get("code"), unit)
            for name in self.runtime.names
        ]  # fmt: skip

    def _explained(self, result: Result) -> list[str]:
        """Return the findings whose maps are drawn; of a quantity there is one."""
        names = list(self.runtime.names)
        if self.wanted.findings == "all" or self.runtime.bundle.labels["activation"]["name"] == "affine":
            return names
        present = [name for name in names if result.decision.get(name) == "present"]
        return present or [max(names, key=lambda name: result.probability[name])]

    def _names(self, kind: str, group: Sequence[_Known], *more: str) -> dict[str, Any]:
        number = sum(each.kind == kind for each in self.made) + 1
        study = str(group[0].headers[0].StudyInstanceUID)
        return identity(kind, self.algorithm, study, number, *(one.digest for one in group), *more)

    def _file(self, one: _Known, finding: str) -> str:
        return f"{one.unit.uid}-{self.runtime.names.index(finding) + 1}"
