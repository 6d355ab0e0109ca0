"""What a masked autoencoder sees, says and is judged by, on films and on volumes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.errors import ConfigError
from medvit.model.design import Architecture
from medvit.model.vit import ViT
from medvit.pretraining.masked_autoencoder import MaskedAutoencoder, cut, join

SMALL = {"width": 16, "depth": 1, "heads": 2}
SIZES = {"film": ((24, 16), (8, 8)), "volume": ((8, 12, 8), (4, 4, 4))}
STEMS = ("patch", "conv")


def made(kind: str, stem: str = "patch", channels: int = 1, **options: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    size, patch = SIZES[kind]
    backbone = ViT(size, patch, channels, 24, 2, 2, Architecture(stem=stem, positions="sincos"))
    model = MaskedAutoencoder(backbone, decoder=SMALL, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def images(kind: str, channels: int = 1, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    size, patch = SIZES[kind]
    patches = int(np.prod([side // step for side, step in zip(size, patch, strict=True)]))
    return torch.randn(count, channels, *size), torch.rand(count, patches)


def masked(model: MaskedAutoencoder, noise: torch.Tensor) -> torch.Tensor:
    """Return which patches are masked [B N], counted by sorting and not as the model does it."""
    found = torch.ones(noise.shape, dtype=torch.bool)
    for row, values in enumerate(noise.tolist()):
        found[row, sorted(range(len(values)), key=values.__getitem__)[: model.kept]] = False
    return found


@pytest.mark.parametrize(("kind", "stem"), list(product(SIZES, STEMS)))
def test_nothing_on_a_masked_patch_reaches_the_encoder(kind: str, stem: str) -> None:
    """With a convolutional stem it would, through cells at the border and through the norm of the whole image."""
    model, (image, noise) = made(kind, stem), images(kind)
    size, patch = SIZES[kind]
    hidden = masked(model, noise).unsqueeze(-1).expand(-1, -1, int(np.prod(patch)))
    other = join(torch.where(hidden, 50 * torch.randn(hidden.shape), cut(image, patch)), size, patch)
    keep = noise.argsort(dim=1)[:, : model.kept]
    one, two = (model.backbone(each, keep=keep) for each in (image, other))
    assert torch.equal(one.patches, two.patches)
    assert torch.equal(one.prefix, two.prefix)
    seen = image.clone().requires_grad_()
    model.backbone(seen, keep=keep).patches.square().sum().backward()
    moved = cut(seen.grad, patch).abs().amax(-1) > 0
    assert torch.equal(moved, ~masked(model, noise))


def plain_loss(image: np.ndarray, said: np.ndarray, hidden: np.ndarray, patch: tuple[int, ...]) -> list[float]:
    """The loss of the paper said again, pixel by pixel: normalised by the patch, averaged over the masked ones."""
    grid = [side // step for side, step in zip(image.shape[2:], patch, strict=True)]
    found = []
    for b in range(len(image)):
        errors = []
        for n, place in enumerate(product(*map(range, grid))):
            if not hidden[b, n]:
                continue
            corner = [at * step for at, step in zip(place, patch, strict=True)]
            values = [
                image[(b, c, *[start + step for start, step in zip(corner, inside, strict=True)])]
                for inside in product(*map(range, patch))
                for c in range(image.shape[1])
            ]
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
            wanted = [(value - mean) / (variance + 1e-6) ** 0.5 for value in values]
            errors.append(sum((a - w) ** 2 for a, w in zip(said[b, n], wanted, strict=True)) / len(values))
        found.append(sum(errors) / len(errors))
    return found


@pytest.mark.parametrize(("kind", "channels"), [("film", 1), ("film", 2), ("volume", 1)])
def test_the_loss_is_that_of_the_paper_over_the_masked_patches(kind: str, channels: int) -> None:
    model, (image, noise) = made(kind, channels=channels), images(kind, channels)
    said, _ = model._predict(image, noise)
    expected = plain_loss(
        image.double().numpy(), said.detach().double().numpy(), masked(model, noise).numpy(), SIZES[kind][1]
    )
    assert model(image, noise).squeeze(1).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", SIZES)
def test_what_is_said_of_a_visible_patch_costs_nothing(kind: str) -> None:
    model, (image, noise) = made(kind), images(kind)
    said, _ = model._predict(image, noise)
    said.retain_grad()
    model._predict = lambda *_: (said, noise.argsort(dim=1))  # type: ignore[method-assign]
    model(image, noise).sum().backward()
    assert torch.equal(said.grad.abs().amax(-1) > 0, masked(model, noise))


def test_a_decoder_that_is_right_has_no_loss_and_its_picture_is_the_image() -> None:
    model, (image, noise) = made("film"), images("film")
    wanted = model.targets(image)
    model._predict = lambda *_: (wanted, noise.argsort(dim=1))  # type: ignore[method-assign]
    assert float(model(image, noise).abs().max()) == 0
    seen, filled = model.pictures(image, noise)
    torch.testing.assert_close(filled, image, rtol=1e-4, atol=1e-4)
    grey = cut(seen, (8, 8)).abs().amax(-1) == 0
    assert torch.equal(grey, masked(model, noise))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.sampled_from([(2, 3), (2, 1, 2)]))
@settings(max_examples=20, deadline=None)
def test_patches_joined_are_the_image_they_were_cut_from(rows: int, columns: int, channels: int, patch: tuple) -> None:
    size = tuple(step * count for step, count in zip(patch, (rows, columns, 2), strict=False))
    image = torch.arange(2 * channels * int(np.prod(size))).reshape(2, channels, *size).float()
    assert torch.equal(join(cut(image, patch), size, patch), image)


def test_patches_are_cut_in_the_order_of_the_encoders_tokens() -> None:
    model = ViT((24, 16), (8, 8), 1, 64, 1, 2, Architecture(prefix=0, positions="none"))
    with torch.no_grad():
        model.patch_embed.weight.copy_(torch.eye(64).reshape(64, 1, 8, 8))
        model.patch_embed.bias.zero_()
    image = torch.randn(2, 1, 24, 16)
    torch.testing.assert_close(model._embed(image, None, model.grid), cut(image, (8, 8)))


def test_of_100_patches_at_75_per_cent_the_encoder_works_on_25() -> None:
    model = MaskedAutoencoder(ViT((80, 80), (8, 8), 1, 24, 1, 2), decoder=SMALL)
    assert model.kept == 25
    keep = torch.rand(1, 100).argsort(dim=1)[:, :25]
    assert model.backbone(torch.randn(1, 1, 80, 80), keep=keep).patches.shape == (1, 25, 24)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ratio": 1.0}, r"objective\.ratio=1\.0 of 6 patches: expected some masked and some kept"),
        ({"ratio": 0.05}, r"objective\.ratio=0\.05 of 6 patches"),
        ({"decoder": {"width": 15, "depth": 1, "heads": 2}}, r"objective\.decoder: .*width=15 a multiple of heads=2"),
    ],
)
def test_numbers_that_leave_nothing_to_see_or_to_say_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MaskedAutoencoder(ViT((24, 16), (8, 8), 1, 24, 1, 2), **{"decoder": SMALL, **options})


def test_an_encoder_without_patches_to_leave_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be masked beside a relative position bias"):
        MaskedAutoencoder(ViT((16, 16), (8, 8), 1, 24, 1, 2, Architecture(relative=True, positions="none")))
    with pytest.raises(ConfigError, match=r"has no patches to mask; choose a ViT \(model=vit_\*\)"):
        MaskedAutoencoder(torch.nn.Identity())
