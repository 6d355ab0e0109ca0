"""Boxes and masks at the model's input, and maps of bags of slices, measured as a report measures them."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from medvit.data.datamodule import DataModule
from medvit.engine.predict import table
from medvit.errors import EvaluationError
from medvit.evaluation.annotations import annotations_of, from_mask, mask_at_model
from medvit.evaluation.explanation import explanation_sections
from medvit.evaluation.inference import OpenedRun
from medvit.index import index
from medvit.model.bag import StudyBag
from medvit.model.design import Architecture
from medvit.model.network import Network
from medvit.model.pool import MeanPool
from medvit.model.vit import ViT
from medvit.phantom.mr_series import write_volumes
from medvit.preprocess.placement import Placement
from medvit.preprocess.volume import VolumePreprocess
from medvit.split import split
from medvit.task.binary import Binary

SIDE = 48


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A network that has learnt nothing, on generated heads as bags of slices, with masks of their lesions."""
    folder = tmp_path_factory.mktemp("heads")
    write_volumes(folder / "raw", patients=10, seed=1, prevalence=0.8, contrasts=["T1", "FLAIR"])
    file = folder / "raw" / "labels.csv"
    labels = {"csv": file, "on": "SeriesInstanceUID", "target": ["finding"], "keep": ["truth"]}
    index(folder / "raw" / "dicom", folder, labels)
    split(folder, fractions={"train": 0.2, "val": 0.4, "test": 0.4})
    task, step = Binary("finding", {"normal": 0, "lesion": 1}), VolumePreprocess((8, SIDE, SIDE), mode="slices")
    data = DataModule(folder, step, task, batch_size=4, build_workers=1, allow_test=True)
    data.setup()
    torch.manual_seed(0)
    vit = ViT([SIDE, SIDE], [8, 8], 1, 16, 2, 2, Architecture(positions="sincos"))
    network = Network(vit, MeanPool(), 1, StudyBag(queries=2)).eval()
    settings = {"trainer": {"batch_size": 4}, "labels": {"csv": str(file)}}
    trained = SimpleNamespace(network=network, task=task, preprocess=step, settings=settings)
    return OpenedRun(trained, *(data.units(side) for side in ("train", "val", "test")), "test", "cpu")


def truths(opened):
    numbers = opened.units_with_label(opened.test, 0, 99)
    folder = opened.test.cache.root.parent
    return annotations_of(opened.test, numbers, folder)


def test_masks_of_heads_lie_on_their_lesions_in_every_plane(opened):
    """Lesions are bright on FLAIR and dark on T1; the other side of the head is the measure."""
    contrast = []
    for number, truth in truths(opened).items():
        image = opened.test.cache.gather(opened.test.members[number])[:, 0].astype(float)
        assert truth.mask.shape == image.shape == (8, SIDE, SIDE)
        ring = ~truth.mask & (image > np.percentile(image, 60))
        contrast.append(image[truth.mask].mean() / image[ring].mean() - 1)
    assert len(contrast) >= 4
    assert np.median(np.abs(contrast)) > 0.1
    assert max(contrast) > 0.1 > -0.1 > min(contrast)


@pytest.mark.slow
def test_maps_of_bags_are_measured_and_an_untrained_network_finds_no_lesion(opened):
    sections = {
        section.title: section for section in explanation_sections(opened, ["integrated", "occlusion", "relevance"], 4)
    }
    faithful = {row["method"]: row for row in sections["Explanation"].tables[0].rows}
    assert set(faithful) == {"integrated", "occlusion", "relevance", "edges", "noise"}
    assert faithful["edges"]["verdict"] == "fails"
    located = {row["method"]: row for row in sections["Localisation"].tables[0].rows}
    assert {"centre prior", "even map", f"{opened.best}, shuffled weights"} <= set(located)
    assert max(located[method]["iou"].value for method in ("integrated", "occlusion", "relevance")) < 0.3
    assert opened.overlay_of(opened.test, 0).shape == (SIDE, 2 * SIDE, 3)


def test_no_file_name_of_a_mask_leaves_the_manifest(opened):
    found = opened.predict_units(opened.trained.network, opened.test)
    made = table(found, opened.trained.task, opened.test.frame, "test")
    assert not [name for name in made.columns if "truth" in name]


@pytest.mark.parametrize("flip", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
def test_a_mask_follows_crop_pad_and_flip(axes, flip):
    original = (40, 60)
    turned = tuple(original[axis] for axis in axes)
    placement = Placement(original, (3, 5), (turned[0] - 6, turned[1] - 9), (20, 24), (2, -3), (32, 20), axes, flip)
    mask = np.zeros(original, bool)
    mask[15:22, 24:36] = True
    found = np.argwhere(mask_at_model(mask, placement))
    corners = np.sort(placement.to_model(np.array([[15, 24], [21, 35]])), axis=0)
    assert (np.abs(found.min(axis=0) - corners[0]) <= 1).all()
    assert (np.abs(found.max(axis=0) - corners[1]) <= 1).all()
    speck = np.zeros(original, bool)
    speck[18, 30] = True
    assert mask_at_model(speck, placement).any()  # smaller than a pixel of the model's input


def test_masks_that_do_not_fit_are_refused_without_their_name(opened, tmp_path):
    number = next(iter(truths(opened)))
    picture = tmp_path / "Doe^Jane.png"
    cv2.imwrite(str(picture), np.zeros((4, 4), np.uint8))
    with pytest.raises(EvaluationError, match="has no affine") as caught:
        from_mask(opened.test, number, picture)
    assert "Doe" not in str(caught.value)
    with pytest.raises(EvaluationError, match="cannot be read") as caught:
        from_mask(opened.test, number, tmp_path / "Doe^Jane.npz")
    assert "Doe" not in str(caught.value)
