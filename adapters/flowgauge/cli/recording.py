"""The demonstration's script out of a file of phases: real images, in a given order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from flowgauge.cli.script import Act, Script, Shot
from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import Part
from flowgauge.reports.story import Phase, Truth


class RecordedPhase(Part):
    """`mislabelled` are those of `buffer` that are truly defective: for the report alone."""

    name: str = ""
    condition: str = ""
    buffer: tuple[str, ...] = Field(min_length=1)
    mislabelled: frozenset[str] = frozenset()
    judge_good: tuple[str, ...] = ()
    judge_defect: tuple[str, ...] = ()


class RecordedRun(Part):
    seed: int
    fit: tuple[str, ...] = Field(min_length=1)
    phases: tuple[RecordedPhase, ...] = Field(min_length=1)


class Recording(Part):
    """Real images in a given order; paths are relative to the folder of the data."""

    protocol: str = ""
    runs: tuple[RecordedRun, ...] = Field(min_length=1)


def recorded_script(data: Path, phases: Path, seed: int, groups: Mapping[str, str] | None = None) -> Script:
    """The run with `seed` of the file `phases`, on the images in `data`; within a phase, buffer and judge images are
    each shuffled. `groups` names the part that each image shows.

    Raises `DatasetError` for a file that is no recording, a seed that it does not have, or an image that is not there.
    """
    run = _run(_recording(phases), seed, phases)
    shot = partial(_file, data, groups or {})
    fit = tuple(shot(name, Truth.GOOD, True) for name in run.fit)
    acts = (_recorded_act(phase, shot) for phase in run.phases)
    shuffled = tuple(_shuffled(act, np.random.default_rng([seed, index])) for index, act in enumerate(acts))
    return Script(_line_name(data), data.resolve().name, seed, fit, shuffled, scheduled=True)


def _recording(path: Path) -> Recording:
    try:
        return Recording.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.", "Check the path given to --phases.") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the whole"
        raise DatasetError(
            f"{path} is no file of phases ({where}: {problem['msg']}).",
            "It needs runs, each with seed, fit and phases; each phase with buffer, judge_good and judge_defect.",
        ) from error


def _run(recording: Recording, seed: int, path: Path) -> RecordedRun:
    for run in recording.runs:
        if run.seed == seed:
            return run
    offered = ", ".join(str(run.seed) for run in recording.runs)
    raise DatasetError(f"{path} has no run with seed {seed}.", f"Give --seed one of: {offered}.")


def _recorded_act(phase: RecordedPhase, shot: Callable[[str, Truth, bool], Shot]) -> Act:
    def truth(name: str) -> Truth:
        return Truth.DEFECT if name in phase.mislabelled else Truth.GOOD

    judging = [shot(name, Truth.GOOD, False) for name in phase.judge_good]
    judging += [shot(name, Truth.DEFECT, False) for name in phase.judge_defect]
    teaching = tuple(shot(name, truth(name), True) for name in phase.buffer)
    named = Phase(name=phase.name or phase.condition, condition=phase.condition if phase.name else "")
    return Act(named, teaching, tuple(judging))


def _file(data: Path, groups: Mapping[str, str], name: str, truth: Truth, teaches: bool) -> Shot:
    path = data / name
    if not path.is_file():
        raise DatasetError(f"There is no image {path}.", "Check that --data and --phases belong together.")
    return Shot(name, truth, teaches, path.read_bytes, groups.get(name))


def _shuffled(act: Act, rng: np.random.Generator) -> Act:
    return replace(act, teaching=_in_disorder(act.teaching, rng), judging=_in_disorder(act.judging, rng))


def _in_disorder(shots: Sequence[Shot], rng: np.random.Generator) -> tuple[Shot, ...]:
    return tuple(shots[index] for index in rng.permutation(len(shots)))


def _line_name(data: Path) -> str:
    """The folder's name, as far as it may name a line."""
    kept = (letter if letter.isascii() and letter.isalnum() else "-" for letter in data.resolve().name)
    return "".join(kept).strip("-")[:64] or "line"
