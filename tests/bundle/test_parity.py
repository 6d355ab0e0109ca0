from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from medvit.bundle.build import export
from medvit.bundle.parity import LIMIT, gate
from medvit.errors import BundleError


def test_the_exported_path_says_what_training_says(bundle, trained, films) -> None:
    parity = gate(bundle, trained.network, trained.preprocess, trained.probabilities, films)
    assert parity.images == len(films)
    assert parity.probability <= LIMIT
    assert parity.flips == 0


def test_one_changed_weight_is_refused(bundle, trained, films) -> None:
    import torch

    other = copy.deepcopy(trained.network)
    with torch.no_grad():
        other.backbone.blocks[0].mlp.fc1.weight[0, 0] += 0.5
    with pytest.raises(BundleError, match="does not say what the trained one says"):
        gate(bundle, other, trained.preprocess, trained.probabilities, films)


def test_another_preprocessing_is_refused(bundle, trained, films) -> None:
    from dataclasses import replace

    other = replace(trained.preprocess, mean=0.45)
    with pytest.raises(BundleError, match="does not say what the trained one says"):
        gate(bundle, trained.network, other, trained.probabilities, films)


def test_without_a_readable_sample_nothing_leaves(trained, contents, tmp_path) -> None:
    with pytest.raises(BundleError, match="no sample image"):
        export(trained, contents, [], tmp_path / "a")
    (tmp_path / "junk").write_bytes(b"no dicom")
    with pytest.raises(BundleError, match="None of the 1 samples"):
        export(trained, contents, [tmp_path / "junk"], tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["junk"]


@pytest.mark.real
@pytest.mark.slow
def test_parity_on_real_films_of_every_header_variant(real_data: Path, trained, contents, tmp_path) -> None:
    found = sorted((real_data / "labelled" / "cxr_pneumonia_dicom" / "dicom").rglob("IM*"))
    chosen = [found[n] for n in np.linspace(0, len(found) - 1, 24).astype(int)]
    assert export(trained, contents, chosen, tmp_path / "out", draft=True).parity.probability <= LIMIT
