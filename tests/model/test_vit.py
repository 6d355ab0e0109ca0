"""What the encoder computes: shapes, options that must change nothing, and refusals."""

from __future__ import annotations

import pytest
import torch

from medvit.errors import ConfigError
from medvit.model.design import Architecture, TrainingOptions
from medvit.model.vit import ViT

DESIGNS = {
    "plain": Architecture(),
    "no prefix, sines, conv stem": Architecture(prefix=0, positions="sincos", stem="conv"),
    "DINOv3": Architecture(prefix=5, positions="none", rope="centred", theta=100.0, layer_scale=1e-5),
    "EVA-02": Architecture(
        rope="index", reference=(4, 4), gated=True, act="silu", mlp=32, mlp_norm=True, attn_norm=True
    ),
    "CLIP": Architecture(act="quick_gelu", pre_norm=True, patch_bias=False, eps=1e-5),
    "BEiT": Architecture(positions="none", relative=True, layer_scale=0.1),
    "qk-norm": Architecture(qk_norm=True, act="gelu_tanh"),
}


def tiny(design: Architecture, **regime: object) -> ViT:
    torch.manual_seed(0)
    model = ViT((48, 32), (8, 8), 1, 24, 3, 3, design, TrainingOptions(**regime))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("name", DESIGNS)
def test_asking_for_attention_changes_no_token_and_every_row_sums_to_one(name: str) -> None:
    model = tiny(DESIGNS[name])
    image = torch.randn(2, 1, 48, 32)
    plain = model(image)
    tokens, maps = model.forward_features(image, attention="full")
    total = 24 + model.prefix
    assert len(maps) == 3
    assert maps[0].shape == (2, 3, total, total)
    torch.testing.assert_close(torch.stack(maps).sum(-1), torch.ones(3, 2, 3, total))
    torch.testing.assert_close(tokens.patches, plain.patches, rtol=1e-4, atol=1e-5)
    if model.prefix:
        by_row, rows = model.forward_features(image, attention="row")
        torch.testing.assert_close(by_row.prefix, plain.prefix, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows[1], maps[1][:, :, : model.prefix], rtol=1e-4, atol=1e-5)


def test_the_class_score_can_be_differentiated_with_respect_to_the_attention_of_every_block() -> None:
    model = tiny(DESIGNS["plain"])
    tokens, maps = model.forward_features(torch.randn(1, 1, 48, 32), attention="row")
    gradients = torch.autograd.grad(tokens.prefix[0, 0, 0], maps)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", [name for name in DESIGNS if name != "BEiT"])
def test_keeping_every_patch_equals_the_full_forward_and_dropping_shortens_it(name: str) -> None:
    model = tiny(DESIGNS[name])
    image = torch.randn(2, 1, 48, 32)
    order = torch.stack([torch.randperm(24), torch.randperm(24)])
    shuffled = model(image, keep=order)
    expected = torch.take_along_dim(model(image).patches, order.unsqueeze(-1), dim=1)
    torch.testing.assert_close(shuffled.patches, expected, rtol=1e-4, atol=1e-5)
    assert model(image, keep=order[:, :7]).patches.shape == (2, 7, 24)


def test_patches_are_dropped_while_training_only() -> None:
    model = tiny(Architecture(), keep=0.5)
    image = torch.randn(1, 1, 48, 32)
    assert model(image).patches.shape[1] == 24
    assert model.train()(image).patches.shape[1] == 12


def test_checkpointing_changes_no_gradient() -> None:
    image = torch.randn(2, 1, 48, 32)
    gradients = []
    for checkpointing in (False, True):
        model = tiny(DESIGNS["EVA-02"], checkpointing=checkpointing).train()
        model(image).patches.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_checkpointing_keeps_a_fifth_of_what_the_backward_pass_needs() -> None:
    kept = []
    for checkpointing in (False, True):
        model = ViT((64, 64), (8, 8), 1, 48, 8, 3, regime=TrainingOptions(checkpointing=checkpointing)).train()
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(torch.randn(4, 1, 64, 64))
        kept.append(sum(size for place, size in sizes.items() if place not in weights))
    assert kept[1] < kept[0] / 5


def test_compiling_blocks_marks_every_block_and_changes_no_name() -> None:
    compiled = ViT((32, 32), (8, 8), 1, 24, 2, 3, regime=TrainingOptions(compile_blocks=True))
    assert all(block._compiled_call_impl is not None for block in compiled.blocks)
    assert list(compiled.state_dict()) == list(ViT((32, 32), (8, 8), 1, 24, 2, 3).state_dict())


def test_drop_path_keeps_the_mean_of_a_branch_and_is_off_in_evaluation() -> None:
    model = tiny(Architecture(), drop_path=0.5)
    image = torch.randn(1, 1, 48, 32)
    torch.testing.assert_close(model(image).patches, model(image).patches)
    block = model.blocks[-1].train()
    branch = torch.ones(20000, 1, 1)
    assert block._drop(branch).mean().item() == pytest.approx(1.0, abs=0.05)


def test_a_512_film_gives_1024_tokens_and_every_patch_its_place() -> None:
    model = ViT((512, 512), (16, 16), 1, 16, 1, 1)
    tokens = model(torch.zeros(1, 1, 512, 512))
    assert tokens.patches.shape == (1, 1024, 16)
    assert tokens.grid == (32, 32)


def test_an_image_of_another_size_gets_interpolated_positions() -> None:
    model = tiny(Architecture())
    assert model(torch.randn(1, 1, 64, 80)).grid == (8, 10)


@pytest.mark.parametrize(
    ("size", "message"), [((50, 32), r"\(2, 0\) pixels would be lost"), ((48, 39), r"\(0, 7\).*resize to \(48, 40\)")]
)
def test_a_side_that_is_no_multiple_of_the_patch_names_the_pixels_that_would_be_lost(
    size: tuple[int, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(Architecture())(torch.zeros(1, 1, *size))


def test_wrong_channels_axes_switches_and_rates_are_refused() -> None:
    model = tiny(Architecture(prefix=0))
    with pytest.raises(ConfigError, match="3 channels"):
        model(torch.zeros(1, 3, 48, 32))
    with pytest.raises(ConfigError, match="spatial axes"):
        model(torch.zeros(1, 1, 48, 32, 8))
    with pytest.raises(ConfigError, match="row"):
        model.forward_features(torch.zeros(1, 1, 48, 32), attention="row")
    with pytest.raises(ConfigError, match=r"act='gelo'.*stem='cnv'"):
        Architecture(act="gelo", stem="cnv")
    with pytest.raises(ConfigError, match="keep=0"):
        TrainingOptions(keep=0.0)
    with pytest.raises(ConfigError, match="power of two"):
        ViT((42, 42), (14, 14), 1, 24, 1, 3, Architecture(stem="conv"))
    with pytest.raises(ConfigError, match="multiple of heads"):
        ViT((32, 32), (8, 8), 1, 25, 1, 3)


def test_bf16_training_takes_the_eager_path_and_gives_the_gradients_of_fp32() -> None:
    model = tiny(Architecture()).train()
    image = torch.randn(2, 1, 48, 32)
    gradients = []
    for bf16 in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            model(image).patches.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99
