"""Detectors of every kind, small enough to be trained in a second, and features to train them with."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from flowgauge.models.detector import Detector, FeatureShape, TrainingSet, joined
from flowgauge.models.headflow.detector import ensemble_options
from flowgauge.models.registry import DETECTORS, FROM_PIXELS, create

SHAPE = FeatureShape(channels=(4, 6, 8), strides=(4, 8, 16), size=64)

_QUICK = {"steps": 40, "batch": 64, "check_every": 20}
_HEADFLOW: dict[str, Any] = {
    "head": {"hidden": 12, "inner": 8, "dimensions": 4, "epochs": 4},
    "anomalies_per_image": 1,
    "pooled": {"blocks": 2, "hidden": 16, "training": _QUICK},
    "training": _QUICK,
    "top": 0.05,
}
ENSEMBLE = "headflow, an ensemble"
CONFIGS: dict[str, dict[str, Any]] = {
    "featureflow": {"dimensions": 6, "blocks": 2, "hidden": 16, "training": _QUICK, "top": 0.05},
    "rad": {"blocks": 2, "hidden": 16, "views": [{}, {"turns": 2}], "training": _QUICK},
    "headflow": _HEADFLOW,
    ENSEMBLE: _HEADFLOW | ensemble_options(3),
    "csflow": {"blocks": 2, "hidden": 8, "training": _QUICK | {"batch": 16, "noise": 0.3}},
    "glass": {
        "anomalies_per_image": 1,
        "hidden": 16,
        "steps": 120,
        "patches": 64,
        "learning_rate": 1e-2,
        "top": 0.05,
        "local": 1,
    },
    "lamp": {"patches": 2, "layers": 4, "width": 8, "training": {"steps": 60, "batch": 8, "learning_rate": 5e-3}},
    "multidirectional": {"episodes": 10, "batch": 4, "top": 0.05},
}
assert {name.split(",")[0] for name in CONFIGS} == set(DETECTORS), "every detector runs through the conformance suite"


PIXELS = FeatureShape(channels=(3,), strides=(1,), size=64)


def small(name: str) -> Detector:
    kind = name.split(",")[0]
    return create(kind, CONFIGS[name], PIXELS if kind in FROM_PIXELS else SHAPE)


def features(images: int, seed: int, defect: bool = False, pyramid_levels: Sequence[int] = (0,)) -> tuple[Tensor, ...]:
    """Noise; a defect adds a blob of other values around the middle. One scale, the whole image, by default."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for times, (channels, stride) in product(pyramid_levels, zip(SHAPE.channels, SHAPE.strides, strict=True)):
        side = SHAPE.size // 2**times // stride
        x = torch.randn(images, channels, side, side, generator=generator)
        if defect:
            x[:, :, side // 4 : max(1, side // 2), side // 4 : max(1, side // 2)] += 4
        maps.append(x)
    return tuple(maps)


def shown(detector: Detector, images: int, seed: int, defect: bool = False) -> tuple[Tensor, ...]:
    """The same at the sizes that the detector asks for; images of soft stripes where it reads pixels."""
    if detector.shape.strides == (1,):
        return (stripes(images, seed, defect),)
    return features(images, seed, defect, detector.pyramid_levels)


def stripes(images: int, seed: int, defect: bool) -> Tensor:
    """(images, 3, 64, 64) in [-1, 1], each of its own phase; a defect is a checkered square."""
    generator = torch.Generator().manual_seed(seed)
    along = torch.arange(64) / 64
    phase = torch.rand(images, 1, 1, 1, generator=generator)
    x = (0.5 * torch.sin(2 * torch.pi * (3 * along + phase))).expand(images, 3, 64, 64).clone()
    if defect:
        checkers = 2.0 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2) - 1
        x[:, :, 16:32, 16:32] = checkers
    return x


def mask(images: int, detector: Detector) -> Tensor:
    side = detector.grid[0]
    share = torch.zeros(images, side, side)
    share[:, side // 4 : side // 2, side // 4 : side // 2] = 1
    return share


def training_set(detector: Detector, images: int = 24) -> TrainingSet:
    views = [detector.embed(shown(detector, images, seed=view)) for view in range(len(detector.training_views(images)))]
    return TrainingSet(
        good=joined(views),
        image=torch.arange(images).repeat(len(views)),
        synthetic=detector.embed(shown(detector, images, seed=50, defect=True)),
        synthetic_image=torch.arange(images),
        mask=mask(images, detector),
        defects=detector.embed(shown(detector, 4, seed=60, defect=True)),
        kinds=("dent", "dent", "hole", ""),
    )


def trained(name: str, seed: int = 0) -> Detector:
    detector = small(name)
    detector.learn(training_set(detector), seed=seed, progress=lambda what, done, total: None)
    return detector.eval()
