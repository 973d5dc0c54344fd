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

FITTED, TRAINING, TESTING = 96, 80, 32
RAMP = 16
"""Images of a phase over which the drift goes on; then the line stays as it is, and can be learned."""

WARMUP = 44
"""Images of the changed line before it trains: with those that the alarm took, enough for a buffer's minimum, and
few enough for a phase."""

DEFECT_SHARE = 0.15
"""Of the images that may train: several times what a line should show, so that rejection has work to do."""

DRIFT = (
    ("steady", 0.0, 0.0),
    ("drifting", 0.0, 0.9),
    ("drifted", 0.9, 0.9),
)
"""Phases of the procedural line: name, and how far it has drifted at its start and at its end, 0 to 1."""


@dataclass(frozen=True)
class Frame:
    """One image to come. `read` gives its encoded bytes, the same at every call; `part` is the object it shows."""

    image_id: str
    truth: Truth
    use_for_training: bool
    read: Callable[[], bytes]
    part: str | None = None


@dataclass(frozen=True)
class Act:
    """One phase: first the images that may train, then those that only judge what came of it."""

    phase: Phase
    training: tuple[Frame, ...]
    testing: tuple[Frame, ...]

    @property
    def shots(self) -> tuple[Frame, ...]:
        return self.training + self.testing


@dataclass(frozen=True)
class Script:
    """`fit` are good images for the first gauge; the acts follow each other without a pause.

    `scheduled`: a phase in which no adaptation was decided, for or against, ends its buffer with one on schedule.
    """

    line: str
    source: str
    seed: int
    fit: tuple[Frame, ...]
    acts: tuple[Act, ...]
    scheduled: bool = False

    @property
    def shots(self) -> tuple[Frame, ...]:
        return tuple(frame for act in self.acts for frame in act.shots)


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
        first += TRAINING + TESTING
    return Script(material, f"procedural {material.replace('-', ' ')}", seed, fit, tuple(acts))


def _act(line: ProceduralLine, name: str, start: float, end: float, first: int) -> Act:
    """Parts `first` and following."""
    rng = np.random.default_rng([line.seed, first])
    spoilt = set(rng.choice(TRAINING, round(DEFECT_SHARE * TRAINING), replace=False).tolist())
    amounts = np.interp(np.arange(TRAINING), (0, RAMP), (start, end))
    training = [
        _frame(line, name, first + index, Condition.drifted(float(amount)), index in spoilt, True)
        for index, amount in enumerate(amounts)
    ]
    final = Condition.drifted(end)
    testing = [_frame(line, name, first + TRAINING + index, final, index % 2 == 1, False) for index in range(TESTING)]
    return Act(Phase(name=name, condition=_words(start, end)), tuple(training), tuple(testing))


def _words(start: float, end: float) -> str:
    light = Condition.drifted(end).gain / Condition().gain - 1
    if end == start:
        return "as at the fit" if end == 0 else f"stays at {light:+.0%} light"
    return f"light to {light:+.0%}, warmer, coarser surface"


def _frame(
    line: ProceduralLine, name: str, index: int, condition: Condition, defect: bool, use_for_training: bool
) -> Frame:
    return (_defect if defect else _good)(line, name, index, condition, use_for_training)


def _good(line: ProceduralLine, name: str, index: int, condition: Condition, use_for_training: bool) -> Frame:
    return Frame(f"{name}-{index:04d}", Truth.GOOD, use_for_training, lambda: _png(line.good(index, condition)))


def _defect(line: ProceduralLine, name: str, index: int, condition: Condition, use_for_training: bool) -> Frame:
    kind = DEFECTS[index % len(DEFECTS)]
    return Frame(
        f"{name}-{index:04d}", Truth.DEFECT, use_for_training, lambda: _png(line.defect(index, kind, condition))
    )


def _png(sample: Sample) -> bytes:
    stream = BytesIO()
    Image.fromarray(sample.pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
