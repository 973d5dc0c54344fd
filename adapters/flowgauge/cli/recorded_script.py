"""The demonstration's script out of a file of phases: real images, in a given order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import AliasChoices, Field, ValidationError

from flowgauge.cli.script import Act, Frame, Script
from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import FrozenModel
from flowgauge.reports.story import Phase, Truth


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
    seed: int
    fit: tuple[str, ...] = Field(min_length=1)
    phases: tuple[RecordedPhase, ...] = Field(min_length=1)


class RecordedLine(FrozenModel):
    """Real images in a given order; paths are relative to the folder of the data."""

    protocol: str = ""
    runs: tuple[RecordedRun, ...] = Field(min_length=1)


def recorded_script(data: Path, phases: Path, seed: int, groups: Mapping[str, str] | None = None) -> Script:
    """The run with `seed` of the file `phases`, on the images in `data`; within a phase, buffer and test images are
    each shuffled. `groups` names the part that each image shows.

    Raises `DatasetError` for a file that is no recording, a seed that it does not have, or an image that is not there.
    """
    run = _run(_recorded_line(phases), seed, phases)
    frame = partial(_file, data, groups or {})
    fit = tuple(frame(name, Truth.GOOD, True) for name in run.fit)
    acts = (_recorded_act(phase, frame) for phase in run.phases)
    shuffled = tuple(_shuffled(act, np.random.default_rng([seed, index])) for index, act in enumerate(acts))
    return Script(_line_name(data), data.resolve().name, seed, fit, shuffled, scheduled=True)


def _recorded_line(path: Path) -> RecordedLine:
    try:
        return RecordedLine.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.", "Check the path given to --phases.") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the whole"
        raise DatasetError(
            f"{path} is no file of phases ({where}: {problem['msg']}).",
            "It needs runs, each with seed, fit and phases; each phase with buffer, judge_good and judge_defect.",
        ) from error


def _run(phases_of: RecordedLine, seed: int, path: Path) -> RecordedRun:
    for run in phases_of.runs:
        if run.seed == seed:
            return run
    offered = ", ".join(str(run.seed) for run in phases_of.runs)
    raise DatasetError(f"{path} has no run with seed {seed}.", f"Give --seed one of: {offered}.")


def _recorded_act(phase: RecordedPhase, frame: Callable[[str, Truth, bool], Frame]) -> Act:
    def truth(name: str) -> Truth:
        return Truth.DEFECT if name in phase.mislabelled else Truth.GOOD

    testing = [frame(name, Truth.GOOD, False) for name in phase.test_good]
    testing += [frame(name, Truth.DEFECT, False) for name in phase.test_defect]
    training = tuple(frame(name, truth(name), True) for name in phase.buffer)
    named = Phase(name=phase.name or phase.condition, condition=phase.condition if phase.name else "")
    return Act(named, training, tuple(testing))


def _file(data: Path, groups: Mapping[str, str], name: str, truth: Truth, use_for_training: bool) -> Frame:
    path = data / name
    if not path.is_file():
        raise DatasetError(f"There is no image {path}.", "Check that --data and --phases belong together.")
    return Frame(name, truth, use_for_training, path.read_bytes, groups.get(name))


def _shuffled(act: Act, rng: np.random.Generator) -> Act:
    return replace(act, training=_in_disorder(act.training, rng), testing=_in_disorder(act.testing, rng))


def _in_disorder(shots: Sequence[Frame], rng: np.random.Generator) -> tuple[Frame, ...]:
    return tuple(shots[index] for index in rng.permutation(len(shots)))


def _line_name(data: Path) -> str:
    """The folder's name, as far as it may name a line."""
    kept = (letter if letter.isascii() and letter.isalnum() else "-" for letter in data.resolve().name)
    return "".join(kept).strip("-")[:64] or "line"
