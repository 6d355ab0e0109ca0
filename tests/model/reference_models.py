"""Tiny filled models of the reference libraries, saved in their own format: what medvit must reproduce.

Not a test: loaded by path from `test_reference_parity.py` and `make_golden.py`. Needs transformers, timm, open_clip,
monai and einops (the extra `reference`). Every parameter is filled, norms, tokens and gains included, because a model
as initialised hides mistakes (a LayerScale of ones, a class token of zeros).
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

NEEDS = {
    "hf": "transformers",
    "primus": "dynamic_network_architectures",
    "monai": "einops",
}  # MONAI's ViT wants einops; all others are timm's
LIBRARIES = ("torch", "transformers", "timm", "open_clip_torch", "monai")
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 5}


_spec = importlib.util.spec_from_file_location("golden", Path(__file__).with_name("golden.py"))
assert _spec is not None
assert _spec.loader is not None
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

# Lets the libraries import beside a CPU build of torch, for which torchvision's operators do not exist.
_TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _TORCHVISION.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def available(name: str) -> bool:
    """Return whether the library that builds the reference `name` can be imported here."""
    first = name.split(maxsplit=1)[0]
    library = "open_clip" if name == "open_clip" else NEEDS.get(first, "timm")
    return importlib.util.find_spec(library) is not None


@dataclass(frozen=True)
class Reference:
    """A saved checkpoint and what its own library makes of an image: tokens [B T W] (or pooled [B W])."""

    folder: Path
    run: Callable[[Tensor], Tensor]
    what: str = "tokens"
    channels: int = 3
    image_size: tuple[int, ...] = (32, 32)


def _reload(model: nn.Module, file: Path) -> Any:
    """Fill the saved file with `golden.values` of its own keys and read it back into the reference."""
    filled = golden.fill({key: tuple(tensor.shape) for key, tensor in load_file(file).items()})
    save_file(filled, file, metadata={"format": "pt"})
    if hasattr(model, "save_pretrained"):
        return type(model).from_pretrained(file.parent).eval()
    model.load_state_dict(filled)
    return model.eval()


def _save(model: nn.Module, folder: Path, config: dict[str, Any]) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return _reload(model, folder / "model.safetensors")


def _rename(folder: Path, change: Callable[[str], str], config: dict[str, Any], extra: dict[str, Tensor]) -> None:
    """Write the same tensors under another code base's names."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    names = {change(key): key for key in tensors}
    save_file({new: tensors[old] for new, old in names.items()} | extra, file, metadata={"names": json.dumps(names)})
    (folder / "config.json").write_text(json.dumps(config))


def _hf(name: str, config: str, folder: Path, what: str = "tokens", **kw: Any) -> Reference:
    import transformers

    numbers = {**SMALL, "intermediate_size": 96, **kw}
    if "Dinov2" in config:
        numbers.pop("intermediate_size")
        numbers.setdefault("mlp_ratio", 2)
    if name == "ViTMAEModel":
        numbers["mask_ratio"] = 0.0
    model = getattr(transformers, name)(getattr(transformers, config)(**numbers))
    model.save_pretrained(folder)
    model = _reload(model, folder / "model.safetensors")
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
    config = {"architecture": name, "num_classes": 5, "model_args": {"num_heads": 3, "img_size": 32}}
    model = timm.create_model(name, **numbers)
    model = _save(model, folder, {**config, "global_pool": model.global_pool})
    return Reference(folder, model if what == "logits" else model.forward_features, what)


def _open_clip(folder: Path, **kw: Any) -> Reference:
    from open_clip.transformer import VisionTransformer

    model = VisionTransformer(
        image_size=32, patch_size=8, width=48, layers=3, heads=3, mlp_ratio=2, output_dim=16, output_tokens=True, **kw
    )
    model = _save(model, folder, {})
    _rename(folder, lambda key: f"visual.{key}", {}, {"token_embedding.weight": torch.zeros(4, 4)})
    vision = {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8}
    (folder / "config.json").write_text(json.dumps({"model_cfg": {"vision_cfg": vision}}))
    return Reference(folder, lambda image: model(image)[1], "patches")


def _biomedclip(folder: Path) -> Reference:
    import timm

    model = timm.create_model("vit_base_patch16_224", dynamic_img_size=True, **{**TIMM, "num_classes": 0})
    model = _save(model, folder, {})
    vision = {"image_size": 32, "timm_model_name": "vit_base_patch16_224", "num_heads": 3}
    extra = {"text.transformer.embeddings.weight": torch.zeros(4, 4), "visual.head.proj.weight": torch.zeros(4, 48)}
    _rename(folder, lambda key: f"visual.trunk.{key}", {"model_cfg": {"vision_cfg": vision}}, extra)
    return Reference(folder, model.forward_features)


def _monai(folder: Path, size: tuple[int, ...] = (16, 16, 16), **kw: Any) -> Reference:
    from monai.networks.nets import ViT

    numbers: dict[str, Any] = {"in_channels": 1, "img_size": size, "patch_size": (8,) * len(size), "hidden_size": 48}
    model = ViT(**numbers, mlp_dim=96, num_layers=3, num_heads=3, spatial_dims=len(size), **kw)
    config = {"num_attention_heads": 3, "image_size": list(size), "patch_size": [8] * len(size), "num_channels": 1}
    model = _save(model, folder, config)
    return Reference(folder, lambda image: model.norm(model(image)[1][-1]), channels=1, image_size=size)


def _memory_keys(folder: Path) -> Reference:
    """transformers 5 renames modules in memory: a Lightning checkpoint holds names that no hub file has."""
    reference = _hf("ViTModel", "ViTConfig", folder)
    import transformers

    state = transformers.ViTModel.from_pretrained(folder).state_dict()
    save_file({f"vit.{key}": value.contiguous() for key, value in state.items()}, folder / "model.safetensors")
    return reference


def _primus(folder: Path, size: tuple[int, ...] = (16, 16, 16), **kw: Any) -> Reference:
    """nnssl's Primus; it wants timm < 1.0.23, so it is built in an environment of its own."""
    from dynamic_network_architectures.architectures.primus import Primus

    model = Primus(1, 48, (8, 8, 8), 2, eva_depth=3, eva_numheads=4, input_shape=size, **kw)
    model = _save(model, folder, {"num_attention_heads": 4, "image_size": list(size)})

    def run(image: Tensor) -> Tensor:
        x = model.down_projection(image).flatten(2).transpose(1, 2)
        registers = [] if model.register_tokens is None else [model.register_tokens.expand(len(x), -1, -1)]
        return model.eva(torch.cat([*registers, x], dim=1))[0]

    return Reference(folder, run, channels=1, image_size=size)


def _repository(timm_name: str, folder: Path, rules: list[tuple[str, str]], extra: dict[str, Tensor]) -> Reference:
    """A checkpoint under the names of its authors' own repository, computed by timm, without an architecture's name."""
    reference = _timm(timm_name, folder)

    def change(key: str) -> str:
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        return key

    _rename(folder, change, {"num_attention_heads": 3, "image_size": 32}, extra)
    return reference


def _dinov3_repository(folder: Path) -> Reference:
    """Meta's DINOv3 keeps a full qkv bias whose key third is switched off by a mask of the same shape."""
    rules = [("reg_token", "storage_tokens"), (r"gamma_(\d)$", r"ls\1.gamma")]
    reference = _repository("vit_base_patch16_dinov3_qkvb", folder, rules, {"rope_embed.periods": torch.ones(4)})
    file = folder / "model.safetensors"
    state = load_file(file)
    for block in range(3):
        name = f"blocks.{block}.attn."
        q, v = state.pop(f"{name}q_bias"), state.pop(f"{name}v_bias")
        state[f"{name}qkv.bias"] = torch.cat([q, torch.full_like(q, torch.nan), v])
        state[f"{name}qkv.bias_mask"] = torch.cat([torch.ones(48), torch.zeros(48), torch.ones(48)])
    save_file(state, file)
    return reference


MASK = {"mask_token": torch.zeros(1, 48)}
EVA = [
    (r"attn\.([qv])_proj\.bias", r"attn.\1_bias"),
    (r"mlp\.fc1_g", "mlp.w1"),
    (r"mlp\.fc1_x", "mlp.w2"),
    (r"mlp\.norm", "mlp.ffn_ln"),
    (r"mlp\.fc2", "mlp.w3"),
]
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
    "repo mae, dino, medical mae": lambda f: _repository("vit_base_patch16_224", f, [], {}),
    "repo dinov2": lambda f: _repository("vit_base_patch14_dinov2", f, [], MASK),
    "repo dinov2 chunked": lambda f: _repository(
        "vit_base_patch14_dinov2", f, [(r"^blocks\.(\d+)", r"teacher.backbone.blocks.0.\1")], MASK
    ),
    "repo dinov2 giant": lambda f: _repository(
        "vit_giant_patch14_dinov2", f, [(r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3")], MASK
    ),
    "repo dinov2 registers": lambda f: _repository(
        "vit_base_patch14_reg4_dinov2", f, [("reg_token", "register_tokens")], MASK
    ),
    "repo dinov3": _dinov3_repository,
    "repo eva-x": lambda f: _repository("eva02_base_patch14_224", f, EVA, {"rope.freqs_cos": torch.zeros(4)}),
    "open_clip": _open_clip,
    "open_clip timm trunk": _biomedclip,
    "primus": _primus,
    "primus anisotropic": lambda f: _primus(f, size=(8, 24, 16)),
    "primus layer scale, attention norm": lambda f: _primus(f, init_values=0.1, scale_attn_inner=True),
    "primus registers": lambda f: _primus(f, num_register_tokens=4),
    "monai 3d": _monai,
    "monai 3d perceptron": lambda f: _monai(f, proj_type="perceptron"),
    "monai 3d sincos": lambda f: _monai(f, pos_embed_type="sincos"),
    "monai 3d class token, bias": lambda f: _monai(f, classification=True, qkv_bias=True),
    "monai 3d anisotropic": lambda f: _monai(f, size=(8, 24, 16)),
    "monai 2d": lambda f: _monai(f, size=(32, 24)),
}
# At another size than the file's: MONAI's and open_clip's ViT cannot do it; timm resizes BEiT and the repositories'
# models in its own way, which is not theirs.
RESIZED = [name for name in BUILD if not name.startswith(("monai", "primus", "repo", "timm beit", "open_clip"))]
RESIZED.append("open_clip timm trunk")
