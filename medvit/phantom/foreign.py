"""Generated out-of-distribution images: hand, lateral chest, brain slice, photo, noise.

The sixth set of the out-of-distribution check, inverted films, is made from the test films themselves
(`medvit.augment.perturbation`). Generated images are rough; a model that takes even them for frontal chest films
accepts all.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from medvit.errors import ConfigError
from medvit.phantom import head as phantom_head
from medvit.phantom.films import BONE, LUNG, SOFT
from medvit.phantom.ray_tracing import Ellipsoid, add_rod, intersection, parallel_rays

Array = NDArray[np.float64]
Size = tuple[int, int]


def foreign(name: str, count: int, size: Size, seed: int = 0) -> NDArray[np.uint8]:
    """Return `count` images [n H W] of the named set, 0 black; the same for the same arguments.

    Raises:
        ConfigError: no such set.
    """
    if name not in SETS:
        raise ConfigError(f"no foreign set {name!r}: expected one of {', '.join(SETS)}")
    made = [SETS[name](size, np.random.default_rng([seed, number])) for number in range(count)]
    return np.stack([np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8) for image in made])


def hand(size: Size, random: np.random.Generator) -> Array:
    """Draw five fingers of three bones each and a wrist, soft tissue around them, on an open field."""
    x, z = parallel_rays(size, 220.0 / size[0])  # 220 mm from top to bottom
    line = np.zeros(size)
    palm = random.normal(0, 6, 2)
    bones = [((palm[0] + 9 * k, palm[1] - 85), (palm[0] + 10 * k, palm[1] - 45), 7.0) for k in (-1, 1)]
    for finger, angle in enumerate(np.deg2rad(np.array([-52, -16, 0, 14, 30]) + random.normal(0, 4, 5))):
        point, length = (palm[0] + (finger - 2) * 12, palm[1] - 30.0), 44.0 if finger else 34.0
        for joint in range(4 if finger else 3):
            end = (point[0] + length * np.sin(angle), point[1] + length * np.cos(angle))
            bones.append((point, end, 5.5 - 0.7 * joint))
            point, length = (end[0] + 3 * np.sin(angle), end[1] + 3 * np.cos(angle)), length * 0.68
    for start, end, radius in bones:
        add_rod(line, x, z, (start, end), radius * 1.9, SOFT)
        add_rod(line, x, z, (start, end), radius, BONE)
    return _shown(line, random)


def lateral(size: Size, random: np.random.Generator) -> Array:
    """Draw the chest from the side: the bodies of the frontal phantom after a quarter turn, spine behind."""
    x, z = parallel_rays(size, 390.0 / size[0])
    turn, breath = np.pi / 2 + random.normal(0, 0.05), random.uniform(-14, 10)
    line = SOFT * Ellipsoid((0, 0, 0), (168, 108 * random.uniform(0.85, 1.2), 420)).turned(turn).span(x, z).length()
    for side in (-1, 1):
        lung = Ellipsoid((side * 71, 4, 18), (57, 78, 118 + breath / 3)).turned(turn).span(x, z)
        line -= 0.8 * (SOFT - LUNG) * lung.length()
        dome = Ellipsoid((side * 72, 4, -142 - breath), (82, 112, 74)).turned(turn).span(x, z)
        line += 0.8 * (SOFT - LUNG) * intersection(lung, dome).length()
    line += (SOFT - LUNG) * Ellipsoid((22, -22, -48), (58, 44, 60), 0.3).turned(turn).span(x, z).length()
    for level in range(-7, 7):
        spine = Ellipsoid((0, 62, level * 25.0), (17, 15, 11)).turned(turn).span(x, z)
        line += (BONE - SOFT) * spine.length()
    return _shown(np.maximum(line, 0), random)


def brain(size: Size, random: np.random.Generator) -> Array:
    """Cut one axial slice through the head phantom, in a random contrast."""
    head = phantom_head.make_head(random, sick=bool(random.random() < 0.5))
    rows, columns = np.meshgrid(np.linspace(-115, 115, size[0]), np.linspace(-115, 115, size[1]), indexing="ij")
    points = np.stack([columns, rows, np.full(size, random.uniform(-20, 40))], axis=-1)
    sequence = phantom_head.SEQUENCES[int(random.integers(len(phantom_head.SEQUENCES)))]
    signal = np.array([sequence.signal(tissue) for tissue in phantom_head.TISSUES])[head.classes(points)]
    measured = np.hypot(
        signal + random.normal(0, 0.02 * signal.max(), size), random.normal(0, 0.02 * signal.max(), size)
    )
    return np.asarray(measured / np.quantile(measured, 0.998))


def photo(size: Size, random: np.random.Generator) -> Array:
    """Throw discs and boxes of all sizes over each other: "dead leaves", whose statistics are those of photos."""
    image = np.full(size, random.random())
    for radius in np.sort(min(size) * 0.5 * random.uniform(0.02, 1, 400) ** 2.5)[::-1]:
        centre = (random.random(2) * size[::-1]).astype(int)
        reach, grey = max(1, round(float(radius))), float(random.random())
        if random.random() < 0.5:
            cv2.circle(image, tuple(int(c) for c in centre), reach, grey, -1)
        else:
            far = centre + (reach * random.uniform(0.4, 2, 2)).astype(int)
            cv2.rectangle(image, tuple(int(c) for c in centre), tuple(int(c) for c in far), grey, -1)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.7) + random.normal(0, 0.01, size))


def noise(size: Size, random: np.random.Generator) -> Array:
    """Draw every pixel for itself."""
    return random.random(size)


SETS: dict[str, Callable[[Size, np.random.Generator], Array]] = {
    "hand": hand,
    "lateral": lateral,
    "brain": brain,
    "photo": photo,
    "noise": noise,
}


def _shown(line: Array, random: np.random.Generator) -> Array:
    """Return what a detector with a log response shows: dense is bright, Poisson noise, its own window."""
    counts = np.maximum(random.poisson(6000 * np.exp(-line)), 1)
    density = -np.log(counts / 6000)
    low, high = np.percentile(density, [0.5, 99.5])
    return np.asarray((density - low) / max(high - low, 1e-6))
