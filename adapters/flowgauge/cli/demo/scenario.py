"""The demonstration's script: which images a line shows, in which order, under which condition; drawn or recorded."""

from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import AliasChoices, Field, ValidationError

from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.datasets import posix
from flowgauge.reports.story import Phase, Truth
from flowgauge.synthetic.procedural.defects import DEFECTS
from flowgauge.synthetic.procedural.light import Condition
from flowgauge.synthetic.procedural.line import MATERIALS, ProceduralLine
from flowgauge.vision.encoding import png

# images of the first gauge, and of each phase those that may train and those that test, half of which are defects: with
# fewer a phase has no room for ramp, warm-up and a buffer's minimum, with more a demonstration takes more than minutes
FITTED, TRAINING, TESTING = 96, 80, 32
# images of a phase over which the drift goes on; then the line stays as it is, and can be adapted to
RAMP = 16
# images of the changed line before it trains: with those that the alarm took, enough for a buffer's minimum, and few
# enough for a phase
WARMUP = 44
# of the images that may train: several times what a line should show, so that rejection has work to do
DEFECT_SHARE = 0.15
# phases of the procedural line: name, and how far it has drifted at its start and at its end, 0 to 1
DRIFT = (
    ("steady", 0.0, 0.0),
    ("drifting", 0.0, 0.9),
    ("drifted", 0.9, 0.9),
)


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
    """One phase: first the images that may train, then those that only test what came of it."""

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


def procedural_line(material: str, seed: int, size: int = 256) -> ProceduralLine:
    """Raises `DatasetError` for a material that there is not."""
    if material not in MATERIALS:
        raise DatasetError(f"There is no material {material!r}.", f"Choose one of {', '.join(MATERIALS)}.")
    return ProceduralLine(material, seed, size)


def procedural_script(material: str, seed: int, size: int = 256) -> Script:
    """Good parts and defects of a line that drifts. Same arguments, same images. Raises as `procedural_line` does."""
    line = procedural_line(material, seed, size)
    fit = tuple(_drawn(line, "fit", index, Condition(), defect=False, use_for_training=True) for index in range(FITTED))
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
        _drawn(line, name, first + index, Condition.drifted(amount), defect=index in spoilt, use_for_training=True)
        for index, amount in enumerate(amounts.tolist())
    ]
    final = Condition.drifted(end)
    testing = [
        _drawn(line, name, first + TRAINING + index, final, defect=index % 2 == 1, use_for_training=False)
        for index in range(TESTING)
    ]
    light = final.gain / Condition().gain - 1
    if end != start:
        words = f"light to {light:+.0%}, warmer, coarser surface"
    else:
        words = "as at the fit" if end == 0 else f"stays at {light:+.0%} light"
    return Act(Phase(name=name, condition=words), tuple(training), tuple(testing))


def _drawn(
    line: ProceduralLine, name: str, index: int, condition: Condition, *, defect: bool, use_for_training: bool
) -> Frame:
    def read() -> bytes:
        kind = DEFECTS[index % len(DEFECTS)]
        sample = line.defect(index, kind, condition) if defect else line.good(index, condition)
        return png(sample.pixels)

    return Frame(f"{name}-{index:04d}", Truth.DEFECT if defect else Truth.GOOD, use_for_training, read)


class RecordedPhase(FrozenModel):
    """`mislabelled` are those of `buffer` that are truly defective: for the report alone. Files written before
    schema 2 say `judge_good` and `judge_defect`.
    """

    name: str = ""
    condition: str = ""
    buffer: tuple[str, ...] = Field(min_length=1)
    mislabelled: frozenset[str] = frozenset()
    test_good: tuple[str, ...] = Field((), validation_alias=AliasChoices("test_good", "judge_good"))
    test_defect: tuple[str, ...] = Field((), validation_alias=AliasChoices("test_defect", "judge_defect"))


class RecordedRun(FrozenModel):
    """`in_order`: images come as they are listed, for a line that wears; shuffled within their phase otherwise."""

    seed: int
    fit: tuple[str, ...] = Field(min_length=1)
    phases: tuple[RecordedPhase, ...] = Field(min_length=1)
    in_order: bool = False


class RecordedLine(FrozenModel):
    """Real images in a given order; paths are relative to the folder of the data."""

    protocol: str = ""
    runs: tuple[RecordedRun, ...] = Field(min_length=1)


def recorded_script(data: Path, phases: Path, seed: int, groups: Mapping[str, str] | None = None) -> Script:
    """The run with `seed` of the file `phases`, on the images in `data`; within a phase, buffer and test images are
    each shuffled, unless the run is in order. `groups` names the part that each image shows.

    Raises `DatasetError` for a file that is no recording, a seed that it does not have, or an image that is not there.
    """
    recorded = _recorded_line(phases)
    run = next((run for run in recorded.runs if run.seed == seed), None)
    if run is None:
        offered = ", ".join(str(run.seed) for run in recorded.runs)
        raise DatasetError(f"{phases} has no run with seed {seed}.", f"Give --seed one of: {offered}.")
    frame = partial(_recorded, data, groups or {})
    fit = tuple(frame(name, Truth.GOOD, True) for name in run.fit)
    acts = []
    for index, phase in enumerate(run.phases):
        testing = [frame(name, Truth.GOOD, False) for name in phase.test_good]
        testing += [frame(name, Truth.DEFECT, False) for name in phase.test_defect]
        truths = {name: Truth.DEFECT if name in phase.mislabelled else Truth.GOOD for name in phase.buffer}
        buffer = [frame(name, truths[name], True) for name in phase.buffer]
        rng = np.random.default_rng([seed, index])
        training, shown = tuple(buffer), tuple(testing)
        if not run.in_order:
            training, shown = (tuple(frames[at] for at in rng.permutation(len(frames))) for frames in (buffer, testing))
        named = Phase(name=phase.name or phase.condition, condition=phase.condition if phase.name else "")
        acts.append(Act(named, training, shown))
    # the folder's name, as far as it may name a line
    kept = (letter if letter.isascii() and letter.isalnum() else "-" for letter in data.resolve().name)
    line = "".join(kept).strip("-")[:64] or "line"
    return Script(line, data.resolve().name, seed, fit, tuple(acts), scheduled=True)


def _recorded_line(path: Path) -> RecordedLine:
    try:
        return RecordedLine.model_validate_json(path.read_bytes().removeprefix(BOM_UTF8))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.", "Check the path given to --phases.") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the whole"
        raise DatasetError(
            f"{path} is no file of phases ({where}: {problem['msg']}).",
            "It needs runs, each with seed, fit and phases; each phase with buffer, test_good and test_defect.",
        ) from error


def _recorded(data: Path, groups: Mapping[str, str], name: str, truth: Truth, use_for_training: bool) -> Frame:
    if not (data / name).is_file():
        name = posix(name)
    path = data / name
    if not path.is_file():
        raise DatasetError(f"There is no image {path}.", "Check that --data and --phases belong together.")
    return Frame(name, truth, use_for_training, path.read_bytes, groups.get(name))
