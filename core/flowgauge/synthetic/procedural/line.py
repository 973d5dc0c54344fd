"""A seeded production line that photographs its parts: any part, good or defective, under any condition."""

import math
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from flowgauge.synthetic.procedural.defects import damaged
from flowgauge.synthetic.procedural.light import NOMINAL, Condition, photograph
from flowgauge.synthetic.procedural.materials import brushed, cast_iron, ceramic, fabric, leather, turned_washer, wood
from flowgauge.synthetic.procedural.workpiece import FRAME, MaterialFactory, Rng, Workpiece

MATERIALS: dict[str, MaterialFactory] = {
    "brushed-metal": brushed,
    "turned-washer": turned_washer,
    "cast-iron": cast_iron,
    "ceramic-tile": ceramic,
    "woven-fabric": fabric,
    "wood-veneer": wood,
    "leather": leather,
}

GOOD = "good"

# pixels a side below which no texture shows
_SMALLEST = 64
# Mean change over a defect's mask from which a person who looks closely sees it: in levels of 255, and as a multiple of
# the deviation of the part's own texture. With less, a benchmark asks for what nobody sees; with more, only for blots.
_VISIBLE, _AGAINST_TEXTURE = 9.0, 0.8
# units squared; anything smaller passes for a speck
_SMALLEST_MARK = 16.0
_STILL = replace(NOMINAL, noise=0.0)
# draws of a defect, each bolder, until it shows
_ATTEMPTS = 24
# contrast of a tool's mark: as the clearer ones of single defects
_WORN_TOOL = 3.0


@dataclass(frozen=True)
class Sample:
    """`pixels` (N, N, 3) uint8 RGB; `mask` (N, N) bool, None for a good part; `kind`: `good` or the defect's."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    kind: str
    index: int


class ProceduralLine:
    """A line whose look (grain, colours, lamp) follows from `material` and `seed`, and each part from its index.

    The same arguments give the same bytes; another index gives another part. A condition changes light, camera and
    coarseness and leaves the part what it is. `defect(i, ...)` is part `good(i)` after an accident.
    """

    def __init__(self, material: str, seed: int, size: int = 256) -> None:
        if material not in MATERIALS:
            raise ValueError(f"{material!r} is no material. Use one of: {', '.join(MATERIALS)}.")
        if size < _SMALLEST:
            raise ValueError(f"Images of {size} pixels show no texture. Use a size of at least {_SMALLEST}.")
        self.material = material
        self.seed = seed
        self.size = size

    def good(self, index: int, condition: Condition = NOMINAL) -> Sample:
        pixels = self._photograph(self._workpiece(index, condition.wear), condition, index, GOOD)
        return Sample(pixels, None, GOOD, index)

    def defect(self, index: int, kind: str, condition: Condition = NOMINAL) -> Sample:
        """Raises ValueError for a kind that is not in `DEFECTS`."""
        workpiece = self._workpiece(index, condition.wear)
        before = self._photograph(workpiece, _STILL, index, kind).astype(np.int16)
        needed = max(_VISIBLE, _AGAINST_TEXTURE * float(before[workpiece.part > 0.5, 1].std()))
        fewest = _SMALLEST_MARK * (self.size / FRAME) ** 2
        # the first of ever clearer defects that shows under the nominal light
        for attempt in range(_ATTEMPTS):
            defective, mask = damaged(workpiece, kind, self._rng("defect", kind, index, attempt), 1 + attempt / 4)
            change = np.abs(self._photograph(defective, _STILL, index, kind) - before).max(axis=2)
            if mask.sum() >= fewest and change[mask].mean() >= needed:
                return Sample(self._photograph(defective, condition, index, kind), mask, kind, index)
        raise AssertionError(f"no visible {kind} on {self.material}, seed {self.seed}, part {index}")

    def marked(self, index: int, kind: str, condition: Condition = NOMINAL) -> Sample:
        """Part `good(index)` with the mark that a worn tool leaves on every part: one `kind`, place and shape.

        Raises ValueError for a kind that is not in `DEFECTS`.
        """
        defective, mask = damaged(self._workpiece(index, condition.wear), kind, self._rng("tool", kind), _WORN_TOOL)
        return Sample(self._photograph(defective, condition, index, kind), mask, kind, index)

    def _workpiece(self, index: int, wear: float) -> Workpiece:
        return MATERIALS[self.material](self._rng("look"), self._rng("part", index), self.size, wear)

    def _photograph(self, workpiece: Workpiece, condition: Condition, index: int, kind: str) -> NDArray[np.uint8]:
        look = self._rng("lamp")
        azimuth, elevation = look.uniform(0, 2 * math.pi), math.radians(look.uniform(42, 58))
        return photograph(workpiece, azimuth, elevation, condition, self._rng("sensor", kind, index))

    def _rng(self, *purpose: str | int) -> Rng:
        """A stream of its own for each purpose, so that drawing more for one never changes another."""
        words = (self.material, self.seed, *purpose)
        return np.random.default_rng([crc32(str(word).encode()) for word in words])
