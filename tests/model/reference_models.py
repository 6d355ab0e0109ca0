"""Tiny randomly filled models of the reference libraries, saved in their own format: what medvit must reproduce.

Not a test: loaded by path from `test_reference_parity.py` and `make_golden.py`. Needs transformers, timm, open_clip,
monai and einops (the extra `reference`). Every parameter is drawn at random, norms, tokens and gains included, because
a model as initialised hides mistakes (a LayerScale of ones, a class token of zeros).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 5}


# Lets the libraries import beside a CPU build of torch, for which torchvision's operators do not exist.
_TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _TORCHVISION.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@dataclass(frozen=True)
class Reference:
    """A saved checkpoint and what its own library makes of an image: tokens [B T W] (or pooled [B W])."""

    folder: Path
    run: Callable[[Tensor], Tensor]
    what: str = "tokens"
    channels: int = 3
    image_size: tuple[int, ...] = (32, 32)


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a random value around what it was initialised to."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.5 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 and "token" not in name else 0.3
            parameter.add_(noise * scale)
    return model.eval()


def _hf(name: str, config: str, folder: Path, what: str = "tokens", **kw: Any) -> Reference:
    import transformers

    numbers = {**SMALL, "intermediate_size": 96, **kw}
    if "Dinov2" in config:
        numbers.pop("intermediate_size")
        numbers.setdefault("mlp_ratio", 2)
    if name == "ViTMAEModel":
        numbers["mask_ratio"] = 0.0
    model = fill(getattr(transformers, name)(getattr(transformers, config)(**numbers)))
    model.save_pretrained(folder)
    resizes = config not in {"Dinov2Config", "Dinov2WithRegistersConfig", "DINOv3ViTConfig"}

    def run(image: Tensor) -> Tensor:
        more = {"interpolate_pos_encoding": True} if resizes and image.shape[-2:] != (32, 32) else {}
        if name == "ViTMAEModel":  # MAE shuffles its patches: noise in order, nothing masked, keeps them as they are
            more["noise"] = torch.arange(image.shape[-1] * image.shape[-2] // 64).float().expand(len(image), -1)
        out = model(image, **more)
        if what != "tokens":
            return out.logits if what == "logits" else out.pooler_output
        return (
            model.post_layernorm(out[0]) if config == "CLIPVisionConfig" else out[0]
        )  # CLIP norms its class token only

    return Reference(folder, run, what)


def _timm(name: str, folder: Path, what: str = "tokens", **kw: Any) -> Reference:
    import timm

    numbers = {**TIMM, **kw}
    numbers |= {} if "beit" in name else {"dynamic_img_size": True}
    model = fill(timm.create_model(name, **numbers))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    config = {"architecture": name, "num_classes": 5, "model_args": {"num_heads": 3, "img_size": 32}}
    config["global_pool"] = model.global_pool
    (folder / "config.json").write_text(json.dumps(config))
    return Reference(folder, model if what == "logits" else model.forward_features, what)


def _open_clip(folder: Path, **kw: Any) -> Reference:
    from open_clip.transformer import VisionTransformer

    model = VisionTransformer(
        image_size=32, patch_size=8, width=48, layers=3, heads=3, mlp_ratio=2, output_dim=16, output_tokens=True, **kw
    )
    fill(model)
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"visual.{key}": value.contiguous() for key, value in model.state_dict().items()}
    state["token_embedding.weight"] = torch.zeros(4, 4)
    save_file(state, folder / "open_clip_model.safetensors")
    vision = {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"vision_cfg": vision}}))
    return Reference(folder, lambda image: model(image)[1], "patches")


def _biomedclip(folder: Path) -> Reference:
    import timm

    model = fill(timm.create_model("vit_base_patch16_224", dynamic_img_size=True, **{**TIMM, "num_classes": 0}))
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"visual.trunk.{key}": value.contiguous() for key, value in model.state_dict().items()}
    state["text.transformer.embeddings.weight"] = torch.zeros(4, 4)
    state["visual.head.proj.weight"] = torch.zeros(4, 48)
    save_file(state, folder / "open_clip_model.safetensors")
    vision = {"image_size": 32, "timm_model_name": "vit_base_patch16_224", "num_heads": 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"vision_cfg": vision}}))
    return Reference(folder, model.forward_features)


def _monai(folder: Path, size: tuple[int, ...] = (16, 16, 16), **kw: Any) -> Reference:
    from monai.networks.nets import ViT

    numbers: dict[str, Any] = {"in_channels": 1, "img_size": size, "patch_size": (8,) * len(size), "hidden_size": 48}
    model = fill(ViT(**numbers, mlp_dim=96, num_layers=3, num_heads=3, spatial_dims=len(size), **kw))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    config = {"num_attention_heads": 3, "image_size": list(size), "patch_size": 8, "num_channels": 1}
    config["patch_size"] = [8] * len(size)
    (folder / "config.json").write_text(json.dumps(config))
    return Reference(folder, lambda image: model.norm(model(image)[1][-1]), channels=1, image_size=size)


def _memory_keys(folder: Path) -> Reference:
    """transformers 5 renames modules in memory: a Lightning checkpoint holds names that no hub file has."""
    reference = _hf("ViTModel", "ViTConfig", folder)
    import transformers

    model = transformers.ViTModel.from_pretrained(folder)
    state = {f"model.{key}": value.contiguous() for key, value in model.state_dict().items()}
    save_file({key.replace("model.", "vit.", 1): value for key, value in state.items()}, folder / "model.safetensors")
    return reference


VIT = ("ViTModel", "ViTConfig")
BUILD: dict[str, Callable[[Path], Reference]] = {
    "hf vit": lambda f: _hf(*VIT, f),
    "hf vit relu, 5 heads, no qkv bias": lambda f: _hf(
        *VIT, f, hidden_size=40, num_attention_heads=5, hidden_act="relu", qkv_bias=False
    ),
    "hf vit logits": lambda f: _hf("ViTForImageClassification", "ViTConfig", f, "logits", num_labels=5),
    "hf vit memory keys": _memory_keys,
    "hf deit": lambda f: _hf("DeiTModel", "DeiTConfig", f),
    "hf deit distilled logits": lambda f: _hf(
        "DeiTForImageClassificationWithTeacher", "DeiTConfig", f, "logits", num_labels=5
    ),
    "hf mae": lambda f: _hf("ViTMAEModel", "ViTMAEConfig", f),
    "hf msn": lambda f: _hf("ViTMSNModel", "ViTMSNConfig", f),
    "hf ijepa": lambda f: _hf("IJepaModel", "IJepaConfig", f),
    "hf ijepa logits": lambda f: _hf("IJepaForImageClassification", "IJepaConfig", f, "logits", num_labels=5),
    "hf beit": lambda f: _hf("BeitModel", "BeitConfig", f, use_relative_position_bias=True),
    "hf beit shared bias": lambda f: _hf("BeitModel", "BeitConfig", f, use_shared_relative_position_bias=True),
    "hf beit absolute": lambda f: _hf("BeitModel", "BeitConfig", f, use_absolute_position_embeddings=True),
    "hf beit logits": lambda f: _hf(
        "BeitForImageClassification", "BeitConfig", f, "logits", num_labels=5, use_relative_position_bias=True
    ),
    "hf dinov2": lambda f: _hf("Dinov2Model", "Dinov2Config", f),
    "hf dinov2 swiglu": lambda f: _hf("Dinov2Model", "Dinov2Config", f, use_swiglu_ffn=True),
    "hf dinov2 logits": lambda f: _hf("Dinov2ForImageClassification", "Dinov2Config", f, "logits", num_labels=5),
    "hf dinov2 registers": lambda f: _hf("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", f),
    "hf dinov2 registers swiglu": lambda f: _hf(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", f, use_swiglu_ffn=True
    ),
    "hf dinov3": lambda f: _hf("DINOv3ViTModel", "DINOv3ViTConfig", f, num_register_tokens=4),
    "hf dinov3 gated": lambda f: _hf(
        "DINOv3ViTModel", "DINOv3ViTConfig", f, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu"
    ),
    "hf clip": lambda f: _hf("CLIPVisionModel", "CLIPVisionConfig", f),
    "hf clip gelu": lambda f: _hf("CLIPVisionModel", "CLIPVisionConfig", f, hidden_act="gelu"),
    "hf siglip": lambda f: _hf("SiglipVisionModel", "SiglipVisionConfig", f),
    "hf siglip map": lambda f: _hf("SiglipVisionModel", "SiglipVisionConfig", f, "pooled"),
    "timm augreg": lambda f: _timm("vit_base_patch16_224", f),
    "timm augreg logits": lambda f: _timm("vit_base_patch16_224", f, "logits"),
    "timm mean pool logits": lambda f: _timm("vit_base_patch16_224", f, "logits", global_pool="avg"),
    "timm qk norm": lambda f: _timm("vit_base_patch16_224", f, qk_norm=True),
    "timm deit distilled": lambda f: _timm("deit_base_distilled_patch16_224", f),
    "timm deit3": lambda f: _timm("deit3_base_patch16_224", f),
    "timm dinov2": lambda f: _timm("vit_base_patch14_dinov2", f),
    "timm dinov2 registers": lambda f: _timm("vit_base_patch14_reg4_dinov2", f),
    "timm dinov2 giant": lambda f: _timm("vit_giant_patch14_dinov2", f),
    "timm siglip": lambda f: _timm("vit_base_patch16_siglip_224", f),
    "timm siglip logits": lambda f: _timm("vit_base_patch16_siglip_224", f, "logits"),
    "timm siglip tanh": lambda f: _timm("vit_so400m_patch16_siglip_256", f, "logits"),
    "timm clip": lambda f: _timm("vit_base_patch16_clip_224", f),
    "timm clip quick": lambda f: _timm("vit_base_patch16_clip_quickgelu_224", f),
    "timm eva02 small": lambda f: _timm("eva02_small_patch14_224", f),
    "timm eva02 base": lambda f: _timm("eva02_base_patch14_224", f),
    "timm eva02 base logits": lambda f: _timm("eva02_base_patch14_224", f, "logits"),
    "timm eva02 clip": lambda f: _timm("eva02_base_patch16_clip_224", f),
    "timm dinov3": lambda f: _timm("vit_base_patch16_dinov3", f),
    "timm dinov3 qkv bias": lambda f: _timm("vit_base_patch16_dinov3_qkvb", f),
    "timm dinov3 plus": lambda f: _timm("vit_small_plus_patch16_dinov3", f),
    "timm beit": lambda f: _timm("beit_base_patch16_224", f),
    "open_clip": _open_clip,
    "open_clip timm trunk": _biomedclip,
    "monai 3d": _monai,
    "monai 3d perceptron": lambda f: _monai(f, proj_type="perceptron"),
    "monai 3d sincos": lambda f: _monai(f, pos_embed_type="sincos"),
    "monai 3d class token, bias": lambda f: _monai(f, classification=True, qkv_bias=True),
    "monai 3d anisotropic": lambda f: _monai(f, size=(8, 24, 16)),
    "monai 2d": lambda f: _monai(f, size=(32, 24)),
}
# At another size than the file's: MONAI's and open_clip's ViT cannot do it, and timm's BEiT resizes another way.
RESIZED = [name for name in BUILD if "monai" not in name and name not in {"timm beit", "open_clip"}]
