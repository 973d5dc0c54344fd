"""Images per second of backbones alone, in turns, so that the machine cancels out of their ratios."""

from statistics import median
from time import perf_counter

import torch

from flowgauge.models.backbones import BackboneSpec, load_backbone
from flowgauge.vision.tiling import tiled_side

BATCH = 16
TURNS = 7  # an odd number, so that the median is a time that was measured
WARM_UPS = 2
TILED = BackboneSpec(tile=256)
ARMS = {
    "lite0 at 256": (BackboneSpec.named("lite0"), 256),
    "lite1 at 256": (BackboneSpec.named("lite1"), 256),
    "lite2 at 256": (BackboneSpec.named("lite2"), 256),
    "lite0 at 448": (BackboneSpec.named("lite0"), 448),
    "lite0 at 256, 2x2 tiles": (TILED, tiled_side(256, 2)),
    "lite0 at 512": (BackboneSpec.named("lite0"), 512),
}


def test_larger_backbones_and_inputs_cost_speed() -> None:
    load_backbone.cache_clear()
    work = {name: (load_backbone(spec), torch.rand(BATCH, 3, size, size)) for name, (spec, size) in ARMS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(WARM_UPS + TURNS):
        for name, (backbone, images) in work.items():
            start = perf_counter()
            backbone(images)
            seconds[name].append(perf_counter() - start)
    speeds = {name: BATCH / median(times[WARM_UPS:]) for name, times in seconds.items()}
    fastest = speeds["lite0 at 256"]
    for name, speed in speeds.items():
        print(f"\n{name}: {speed:.1f} images/s, {speed / fastest:.2f} of lite0's at 256", end="")  # noqa: T201
    assert all(speed < fastest for name, speed in speeds.items() if name != "lite0 at 256")
