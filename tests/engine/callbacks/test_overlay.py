from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from medvit.engine.callbacks.overlay import SaveOverlays
from medvit.explain.overlay import on_original, overlay, upsample
from medvit.model.design import Architecture
from medvit.model.network import Network
from medvit.model.pool import MeanPool
from medvit.model.vit import ViT
from medvit.preprocess.placement import Placement

pytestmark = pytest.mark.usefixtures("unchecked")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 1, 16, 16), dtype=np.uint8)


def units(bagged=False, shape=(1, 16, 16)):
    return SimpleNamespace(
        bagged=bagged,
        cache=SimpleNamespace(gather=lambda rows: PIXELS[rows], preprocess=SimpleNamespace(shape=shape)),
        members=[np.array([n]) for n in range(6)],
        uid=np.array([f"{n:032x}"[::-1] for n in range(6)]),
        target=np.array([[0], [1], [0], [1], [1], [0]]),
        weight=np.array([[1], [1], [1], [0], [1], [1]]),
    )


def end_of_validation(callback, epoch):
    torch.manual_seed(0)
    network = Network(ViT([16, 16], [4, 4], 1, 8, 2, 2, Architecture()), MeanPool(), 1).train()
    module = SimpleNamespace(network=network, device=torch.device("cpu"), scale=1 / 64, shift=-2.0)
    trainer = SimpleNamespace(current_epoch=epoch, max_epochs=7, sanity_checking=False, is_global_zero=True)
    with torch.inference_mode():
        callback.on_validation_end(trainer, module)
    assert network.training


def test_the_same_positives_are_drawn_every_few_epochs_and_at_the_last(tmp_path):
    saved = {}
    callback = SaveOverlays(units(), 3, tmp_path, lambda file, name: saved.update({name: file.read_bytes()}), count=2)
    for epoch in range(7):
        end_of_validation(callback, epoch)
    assert [name[9:18] for name in saved] == [f"epoch_{n:03d}" for n in (3, 3, 6, 6, 7, 7)]
    assert len({name[19:] for name in saved}) == 2
    picture = cv2.imdecode(np.frombuffer(saved["overlays/epoch_003_10000000.png"], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (16, 32, 3)
    np.testing.assert_array_equal(picture[:, :16, 0], PIXELS[1, 0])


@pytest.mark.parametrize("given", [units(bagged=True), units(shape=(1, 4, 16, 16))])
def test_of_bags_and_volumes_nothing_is_drawn(given, tmp_path):
    end_of_validation(SaveOverlays(given, 1, tmp_path), 0)
    assert not list(tmp_path.iterdir())


def test_no_overlays_where_none_are_asked_for(tmp_path):
    end_of_validation(SaveOverlays(units(), 0, tmp_path), 0)
    assert not list(tmp_path.iterdir())


def test_overlays_are_written_without_anybody_to_take_them(tmp_path):
    end_of_validation(SaveOverlays(units(), 1, tmp_path), 0)
    assert len(list((tmp_path / "overlays").iterdir())) == 4


def test_the_highest_patch_is_the_reddest_and_the_film_stands_beside_it():
    film = np.full((16, 16), 100, np.uint8)
    heat = torch.zeros(4, 4)
    heat[1, 2] = 3
    shown = overlay(film, heat)
    redness = shown[:, 16:, 0].astype(int) - shown[:, 16:, 2]
    row, column = np.unravel_index(redness.argmax(), redness.shape)
    assert 4 <= row < 8
    assert 8 <= column < 12
    assert (shown[:, :16] == 100).all()
    np.testing.assert_array_equal(overlay(film, torch.zeros(4, 4))[:, 16:], shown[:, :16])


def test_a_map_goes_back_to_the_pixels_of_the_original():
    # 40 x 20 stored pixels, halved and laid 5 columns in on a 20 x 20 canvas
    place = Placement((40, 20), (0, 0), (40, 20), (20, 10), (0, 5), (20, 20))
    heat = torch.zeros(4, 4)
    heat[1, 1] = 1  # rows 5 to 10, columns 5 to 10 of the canvas: rows 10 to 20, columns 0 to 10 of the film
    back = on_original(heat, place)
    assert back.shape == (40, 20)
    row, column = np.unravel_index(back.argmax(), back.shape)
    assert 10 <= row < 20
    assert 0 <= column < 10
    assert torch.allclose(upsample(torch.ones(2, 3, 3), (12, 9)), torch.ones(2, 12, 9))
