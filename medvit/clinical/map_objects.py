"""An occlusion map on the geometry of its image: its hottest region as a SEG, its values as a Parametric Map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvit.clinical.identity import NOTICE, Algorithm, copying, derived_uid, settled
from medvit.errors import DicomRefusal

if TYPE_CHECKING:
    from pydicom import Dataset


def segmentation(
    headers: Sequence[Dataset],
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64] | None,
    finding: str,
    algorithm: Algorithm,
    names: dict[str, Any],
) -> Dataset:
    """Return a binary SEG of a region: [row column] of a film, or [slice row column] on `affine` (LPS mm).

    All slices are stored, also empty ones: readers that stack frames without their positions then stay right.

    Raises:
        DicomRefusal: E-TAG, a header that no object may copy.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    with copying():
        segment = highdicom.seg.SegmentDescription(
            segment_number=1,
            segment_label=f"hot region: {finding}"[:64],
            segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
            segmented_property_type=codes.DCM.Saliency,
            algorithm_type="AUTOMATIC",
            algorithm_identification=_algorithm(algorithm),
            tracking_uid=derived_uid("segment", names["sop_instance_uid"]),
            tracking_id=f"hot region: {finding}"[:64],
        )
        made = highdicom.seg.Segmentation(
            headers, mask, "BINARY", [segment], omit_empty_frames=False, content_label="HOT_REGION",
            content_description=f"Of an AI map, no contour. {NOTICE}",
            **_equipment(algorithm), **_geometry(headers, affine, len(mask)), **names,
        )  # fmt: skip
        if affine is None and "PatientOrientation" not in made:  # type 2C of the General Image module, for a position
            made.PatientOrientation = headers[0].get("PatientOrientation")
        return _measured(settled(made), headers, affine)


def parametric_map(
    headers: Sequence[Dataset],
    values: NDArray[np.float32],
    affine: NDArray[np.float64] | None,
    finding: str,
    algorithm: Algorithm,
    names: dict[str, Any],
) -> Dataset:
    """Return a map as float32 pixels: how far the logit of the finding falls where the image is hidden.

    Raises:
        DicomRefusal: E-TAG, a header that no object may copy; E-FOR, a film, which has no place in the patient, while
            a Parametric Map has to have one (PS3.3 A.75.3), or a volume without a frame of reference.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    if affine is None or not headers[0].get("FrameOfReferenceUID"):
        found = "a film has no place in the patient" if affine is None else "no FrameOfReferenceUID"
        raise DicomRefusal("E-FOR", found, allowed="a volume", fix="dicom.maps=true or dicom.seg=true show the map")
    low, high = float(values.min()), float(values.max())
    with copying():
        mapping = highdicom.pm.RealWorldValueMapping(
            "LOGIT_FALL", f"fall of the logit of {finding} where hidden"[:64], codes.UCUM.NoUnits, (low, high),
            slope=1.0, intercept=0.0, quantity_definition=codes.DCM.Saliency,
        )  # fmt: skip
        window = highdicom.VOILUTTransformation(
            window_center=(low + high) / 2,
            window_width=max(high - low, 1e-6),
            window_explanation="whole range",
            voi_lut_function="LINEAR_EXACT",  # widths below 1 are not permitted otherwise (PS3.3 C.11.2.1.3.2)
        )
        made = highdicom.pm.ParametricMap(
            headers, values.astype(np.float32), contains_recognizable_visual_features=False,
            real_world_value_mappings=[mapping], voi_lut_transformations=[window], content_label="OCCLUSION_MAP",
            content_description=f"Of an AI model. {NOTICE}",
            **_equipment(algorithm), **_geometry(headers, affine, len(values)), **names,
        )  # fmt: skip
        made.Laterality = headers[0].get("Laterality")  # type 2C of the General Series module
        return _measured(settled(made), headers, affine)


def _equipment(algorithm: Algorithm) -> dict[str, Any]:
    return {
        "manufacturer": "medvit",
        "manufacturer_model_name": algorithm.name[:64],
        "software_versions": algorithm.version,
        "device_serial_number": algorithm.bundle[:12],
    }


def _algorithm(algorithm: Algorithm) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    return highdicom.AlgorithmIdentificationSequence(
        algorithm.name[:64], codes.DCM.ArtificialIntelligence, algorithm.version,
        parameters={"bundle": algorithm.bundle[:12], "map": "occlusion"},
    )  # fmt: skip


def _geometry(headers: Sequence[Dataset], affine: NDArray[np.float64] | None, count: int) -> dict[str, Any]:
    """Return positions, orientation and spacing of the slices of a volume; a film's come from its header."""
    import highdicom

    if affine is None:
        return {}
    slices, down, right, origin = (affine[:3, column] for column in range(4))
    between, *spacing = (float(np.linalg.norm(step)) for step in (slices, down, right))
    cosines = [*(right / spacing[1]), *(down / spacing[0])]
    return {
        "plane_orientation": highdicom.PlaneOrientationSequence("PATIENT", cosines),
        "pixel_measures": highdicom.PixelMeasuresSequence(spacing, _thickness(headers[0], between), between),
        "plane_positions": [
            highdicom.PlanePositionSequence("PATIENT", [*(origin + slot * slices)]) for slot in range(count)
        ],
    }


def _thickness(header: Dataset, between: float) -> float:
    """Return SliceThickness as the file has it (in an enhanced object in its functional groups), else the distance."""
    groups = (header.get("SharedFunctionalGroupsSequence") or [header])[0]
    measures = (groups.get("PixelMeasuresSequence") or [groups])[0]
    return float(measures.get("SliceThickness") or header.get("SliceThickness") or between)


def _measured(made: Dataset, headers: Sequence[Dataset], affine: NDArray[np.float64] | None) -> Dataset:
    """State spacing and thickness of a volume: highdicom prefers those of an enhanced source, which may lack some."""
    if affine is not None:
        made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = _geometry(headers, affine, 1)["pixel_measures"]
    return made
