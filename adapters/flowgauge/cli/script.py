"""The script of the demonstration: which images a line shows, in which order and under which condition."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from flowgauge.domain.errors import DatasetError
from flowgauge.reports.story import Phase, Truth
from flowgauge.synthetic.procedural.defects import DEFECTS
from flowgauge.synthetic.procedural.light import Condition
from flowgauge.synthetic.procedural.line import MATERIALS, ProceduralLine, Sample

FITTED, TEACHING, JUDGING = 96, 80, 32
RAMP = 16
"""Images of a phase over which the drift goes on; then the line stays as it is, and can be learned."""

SETTLE = 44
"""Images of the changed line before it teaches: with those that the alarm took, enough for a buffer's minimum, and
few enough for a phase."""

DEFECT_SHARE = 0.15
"""Of the images that may teach: several times what a line should show, so that rejection has work to do."""

DRIFT = (
    ("steady", 0.0, 0.0),
    ("drifting", 0.0, 0.9),
    ("drifted", 0.9, 0.9),
)
"""Phases of the procedural line: name, and how far it has drifted at its start and at its end, 0 to 1."""


@dataclass(frozen=True)
class Shot:
    """One image to come. `read` gives its encoded bytes, the same at every call; `part` is the object it shows."""

    image_id: str
    truth: Truth
    teaches: bool
    read: Callable[[], bytes]
    part: str | None = None


@dataclass(frozen=True)
class Act:
    """One phase: first the images that may teach, then those that only judge what came of it."""

    phase: Phase
    teaching: tuple[Shot, ...]
    judging: tuple[Shot, ...]

    @property
    def shots(self) -> tuple[Shot, ...]:
        return self.teaching + self.judging


@dataclass(frozen=True)
class Script:
    """`fit` are good images for the first gauge; the acts follow each other without a pause.

    `scheduled`: a phase in which no adaptation was decided, for or against, ends its buffer with one on schedule.
    """

    line: str
    source: str
    seed: int
    fit: tuple[Shot, ...]
    acts: tuple[Act, ...]
    scheduled: bool = False

    @property
    def shots(self) -> tuple[Shot, ...]:
        return tuple(shot for act in self.acts for shot in act.shots)


def procedural_script(material: str, seed: int, size: int = 256) -> Script:
    """Good parts and defects of a line that drifts. Same arguments, same images.

    Raises `DatasetError` for a material that there is not.
    """
    if material not in MATERIALS:
        raise DatasetError(f"There is no material {material!r}.", f"Choose one of {', '.join(MATERIALS)}.")
    line = ProceduralLine(material, seed, size)
    fit = tuple(_good(line, "fit", index, Condition(), True) for index in range(FITTED))
    acts, first = [], FITTED
    for name, start, end in DRIFT:
        acts.append(_act(line, name, start, end, first))
        first += TEACHING + JUDGING
    return Script(material, f"procedural {material.replace('-', ' ')}", seed, fit, tuple(acts))


def _act(line: ProceduralLine, name: str, start: float, end: float, first: int) -> Act:
    """Parts `first` and following."""
    rng = np.random.default_rng([line.seed, first])
    spoilt = set(rng.choice(TEACHING, round(DEFECT_SHARE * TEACHING), replace=False).tolist())
    amounts = np.interp(np.arange(TEACHING), (0, RAMP), (start, end))
    teaching = [
        _shot(line, name, first + index, Condition.drifted(float(amount)), index in spoilt, True)
        for index, amount in enumerate(amounts)
    ]
    final = Condition.drifted(end)
    judging = [_shot(line, name, first + TEACHING + index, final, index % 2 == 1, False) for index in range(JUDGING)]
    return Act(Phase(name=name, condition=_words(start, end)), tuple(teaching), tuple(judging))


def _words(start: float, end: float) -> str:
    light = Condition.drifted(end).gain / Condition().gain - 1
    if end == start:
        return "as at the fit" if end == 0 else f"stays at {light:+.0%} light"
    return f"light to {light:+.0%}, warmer, coarser surface"


def _shot(line: ProceduralLine, name: str, index: int, condition: Condition, defect: bool, teaches: bool) -> Shot:
    return (_defect if defect else _good)(line, name, index, condition, teaches)


def _good(line: ProceduralLine, name: str, index: int, condition: Condition, teaches: bool) -> Shot:
    return Shot(f"{name}-{index:04d}", Truth.GOOD, teaches, lambda: _png(line.good(index, condition)))


def _defect(line: ProceduralLine, name: str, index: int, condition: Condition, teaches: bool) -> Shot:
    kind = DEFECTS[index % len(DEFECTS)]
    return Shot(f"{name}-{index:04d}", Truth.DEFECT, teaches, lambda: _png(line.defect(index, kind, condition)))


def _png(sample: Sample) -> bytes:
    stream = BytesIO()
    Image.fromarray(sample.pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
