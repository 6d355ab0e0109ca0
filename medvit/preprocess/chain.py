"""A preprocessing as `conf/preprocess` writes it: a list of MONAI's transforms that is compiled to the fused code.

The fused code computes the chain of `FilmChain` or `VolumeChain` in one pass on integers, to the bit what it computed
before the list was written down. Transforms of MONAI, or of the user's own, may stand at three places in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

from medvit.errors import ConfigError
from medvit.preprocess import definition, steps
from medvit.preprocess.film import FilmPreprocess
from medvit.preprocess.steps import PLACES, WHOLE
from medvit.preprocess.volume import VolumePreprocess

_OURS = "medvit.data.monai_transforms."
_READER = "medvit.data.monai_reader.MedvitReader"
Node = dict[str, Any]


class Planned(NamedTuple):
    """One step of a pipeline: its class, where it stands among the fused ones ("" for a fused one), what made it."""

    name: str
    place: str = ""
    made_by: str = ""


def fused_nodes(preprocess: FilmPreprocess | VolumePreprocess) -> list[Node | str]:
    """Return the chain that the fused code computes, as nodes, with the names of the places in between."""
    first, middle, pad = _film(preprocess) if isinstance(preprocess, FilmPreprocess) else _volume(preprocess)
    reading = {"_target_": "monai.transforms.LoadImaged", "reader": first, "ensure_channel_first": True}
    last = {"subtrahend": preprocess.mean, "divisor": preprocess.std}
    return [
        reading,
        PLACES[0],
        *middle,
        PLACES[1],
        pad,
        PLACES[2],
        {"_target_": f"{_OURS}RoundToLevelsd", "dtype": preprocess.dtype},
        {"_target_": "monai.transforms.NormalizeIntensityd", **last},
    ]


def _film(film: FilmPreprocess) -> tuple[Node, list[Node], Node]:
    reader = {"_target_": _READER, "kind": "film", "film": dict(film.voi), "picture_bits": film.picture_bits}
    resize = {"_target_": f"{_OURS}AreaResized", "spatial_size": list(film.size), "fit": film.fit}
    pad = {"_target_": "monai.transforms.ResizeWithPadOrCropd", "spatial_size": list(film.size)}
    return reader, [{"_target_": f"{_OURS}CropBorderd", "border": film.border}, resize], pad


def _volume(volume: VolumePreprocess) -> tuple[Node, list[Node], Node]:
    reader = {"_target_": _READER, "kind": "volume", "series": dict(volume.series)}
    scale = {"intensity": volume.intensity, "limits": list(volume.limits)}
    spacing, size = _plain(volume.spacing_mm), list(volume.size)
    resample = {"_target_": f"{_OURS}AreaSpacingd", "pixdim": spacing, "spatial_size": size, "mode": volume.mode}
    turn = {"_target_": "monai.transforms.Orientationd", "axcodes": volume.orientation}
    pad = {"_target_": f"{_OURS}CropOrPadd", "spatial_size": size, "mode": volume.mode}
    return reader, [{"_target_": f"{_OURS}ScaleForegroundd", **scale}, turn, resample], pad


def plan(preprocess: FilmPreprocess | VolumePreprocess) -> list[Planned]:
    """Return every step of a preprocessing in order, those of the fused code among those that run in MONAI."""
    found: list[Planned] = []
    fused = fused_nodes(preprocess)
    for node in [fused[0], WHOLE, *fused[-2:]] if WHOLE in preprocess.steps else fused:
        if isinstance(node, str):
            found += [Planned(step["_target_"], node, step[steps.MADE_BY]) for step in preprocess.steps.get(node, ())]
        else:
            found.append(Planned(node["_target_"]))
    return found


@dataclass(frozen=True)
class _Listed:
    """What both preprocessings have in conf/ beside their settings."""

    AS_WRITTEN: ClassVar[tuple[str, ...]] = definition.AS_WRITTEN
    transforms: Sequence[Any] = ()
    after_reading: Sequence[Mapping[str, Any]] = ()
    after_resampling: Sequence[Mapping[str, Any]] = ()
    before_normalisation: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        """Compile the list; raises ConfigError."""
        super().__post_init__()  # type: ignore[misc]
        _compile(cast("FilmChain | VolumeChain", self))


@dataclass(frozen=True)
class FilmChain(_Listed, FilmPreprocess):
    """The preprocessing of films as conf/ has it.

    transforms: the fused chain as a list, lists within it laid flat; each argument is what the setting of its name
    says. after_reading, after_resampling, before_normalisation: further transforms, which the list has at its places.
    A list that is another chain runs in MONAI between reading and rounding. Raises ConfigError for a list that does not
    begin with LoadImaged and MedvitReader and end with NormalizeIntensityd, or contradicts the settings.
    """


@dataclass(frozen=True)
class VolumeChain(_Listed, VolumePreprocess):
    """The preprocessing of volumes as conf/ has it; its fields beside those of `VolumePreprocess` as of `FilmChain`."""


def _compile(chain: FilmChain | VolumeChain) -> None:
    """Set `steps` from the list, or from the three settings where there is no list."""
    given = {place: list(getattr(chain, place)) for place in PLACES if getattr(chain, place)}
    nodes, fused = [*flat(chain.transforms)], fused_nodes(chain)
    if wrong := [f"step {n}: {node!r} has no _target_" for n, node in enumerate(nodes, 1) if not _is_node(node)]:
        raise ConfigError("preprocess.transforms: " + "; ".join(wrong))
    placed = _placed(nodes, fused) if nodes else given
    found = {WHOLE: _whole(nodes, fused)} if placed is None else placed
    kept = [node for each in found.values() for node in each]
    lost = [place for place, each in given.items() if any(dict(node) not in kept for node in each)]
    if lost or (chain.steps and found):
        told = [f"{place} is not in the list: put ${{preprocess.{place}}} there" for place in lost]
        raise ConfigError("preprocess.transforms: " + "; ".join(told or ["give it or steps, not both"]))
    object.__setattr__(chain, "steps", steps.recorded(found or chain.steps))


def _is_node(node: Any) -> bool:
    return isinstance(node, Mapping) and isinstance(node.get("_target_"), str)


def flat(transforms: Sequence[Any]) -> Iterator[Any]:
    """Yield the nodes of a list, and of the lists within it."""
    for one in transforms:
        if isinstance(one, list | tuple):
            yield from flat(one)
        else:
            yield one


def _placed(given: Sequence[Any], fused: Sequence[Node | str]) -> dict[str, list[Node]] | None:
    """Return what stands between the fused steps, by place; None where the list is another chain.

    Raises:
        ConfigError: the chain is that of the fused code, with other arguments than the settings say.
    """
    found: dict[str, list[Node]] = {}
    waiting, place = list(fused), ""
    wrong: list[str] = []
    for number, node in enumerate(given, 1):
        while waiting and isinstance(waiting[0], str):
            place = str(waiting.pop(0))
        wanted = waiting[0] if waiting else None
        if isinstance(wanted, dict) and node["_target_"] == wanted["_target_"]:
            wrong += [f"step {number}: {one}" for one in differences(node, wanted)]
            waiting.pop(0)
            place = ""
        elif place:
            found.setdefault(place, []).append(dict(node))
        else:
            return None
    if any(isinstance(node, dict) for node in waiting):
        return None
    if wrong:
        raise ConfigError("preprocess.transforms, " + "; ".join(wrong))
    return found


def _whole(given: Sequence[Any], fused: Sequence[Node | str]) -> list[Node]:
    """Return what another chain has between reading and rounding; raises ConfigError for another reader or end."""
    ends = {0: (given[0], fused[0]), len(given): (given[-1], fused[-1])}
    wrong = []
    for number, (node, wanted) in ends.items():
        if not isinstance(wanted, dict):
            continue
        if node["_target_"] != wanted["_target_"]:
            where = "end" if number else "begin"
            wrong.append(
                f"a list has to {where} with {steps.short(wanted)}, and this one does with {steps.short(node)}"
            )
        else:
            wrong += [f"step {number or 1}: {one}" for one in differences(node, wanted)]
    if wrong:
        raise ConfigError("preprocess.transforms: " + "; ".join(wrong))
    rounding = f"{_OURS}RoundToLevelsd"  # what follows the list anyway
    return [dict(node) for node in given[1:-1] if node["_target_"] != rounding]


def differences(node: Mapping[str, Any], wanted: Node) -> list[str]:
    """Return the arguments of a fused step that are not what the settings say."""
    name, rest = steps.short(node), {key: value for key, value in node.items() if key not in ("_target_", "keys")}
    found = [] if node.get("keys", "image") in ("image", ["image"]) else [f"{name}.keys: there is one, image"]
    found += [f"{name}.{key} is none that the fused code knows" for key in rest if key not in wanted]
    for key, value in wanted.items():
        said = rest.get(key)
        if key != "_target_" and said is not None and not _agree(said, value):
            found.append(f"{name}.{key}={_plain(said)}, and the settings say {_plain(value)}: write the setting there")
    return found


def _agree(said: Any, value: Any) -> bool:
    """Say whether a list writes what a setting holds: one spacing stands for three, nothing for what is not set."""
    if said is None:
        return True
    if isinstance(said, Mapping) and isinstance(value, Mapping):
        return all(_agree(inner, value.get(key)) for key, inner in said.items())
    return bool(_one(said) == _one(value))


def _one(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return value[0] if len(set(value)) == 1 else list(value)
    return "axial" if value == "SPL" else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
