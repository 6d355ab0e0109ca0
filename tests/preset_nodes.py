"""The presets of conf/preprocess as `build` takes them, with a model of their size."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medvit.config import conf_dir
from medvit.config_words import readable

MODELS = {"film": "vit_base_16", "slices": "vit_base_16", "volume": "vit_base_16_3d"}


def node(preset: str, *words: str) -> dict:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        settings = compose("train", readable([f"preprocess={preset}", f"model={MODELS[preset]}", *words]))
    return {**OmegaConf.to_container(settings, resolve=True)["preprocess"], "mean": 0.5, "std": 0.25}
