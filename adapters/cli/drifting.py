"""The benchmarks of adaptation as the command line asks for them. Loads torch: imported when a command runs."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from adapters.cli.model import Model, torch_device
from adapters.cli.options import Device
from adapters.cli.output import write_whole
from adapters.cli.progress import Report
from adapters.cli.recording import recorded_script
from adapters.cli.script import Act, Script, Shot
from adapters.report.story import Truth
from core.adaptation.adapt import adapt
from core.errors import DatasetError, UserError
from core.evaluation.changinglines import ChangingLine
from core.evaluation.drift import DriftPhase, Follower, Reading, Sighting, summaries
from core.evaluation.ingredients import Ingredients, settings_of
from core.evaluation.poisoning import Aftermath, poisoned
from core.evaluation.splits import read_groups
from core.fitting import fit
from core.gauge import Gauge
from core.images import Picture, decode
from core.messages import Part
from core.procedural import MATERIALS, Change, ProceduralLine

Line = TypeVar("Line", Reading, Aftermath)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Recorded:
    """Real images, phase by phase."""

    data: Path
    phases: Path
    groups: Path | None

    def script(self, seed: int) -> Script:
        groups = None if self.groups is None else read_groups(self.groups)
        return recorded_script(self.data, self.phases, seed, groups)

    @property
    def words(self) -> str:
        read = [path.read_bytes() for path in (self.phases, self.groups) if path is not None]
        return f"{self.data.resolve().name} {sha256(b''.join(read)).hexdigest()}"


@dataclass(frozen=True)
class Procedural:
    """A line out of nothing but its seed."""

    material: str
    change: Change
    recurring: bool = False

    def line(self, seed: int) -> ChangingLine:
        """Raises `DatasetError` for a material that there is not."""
        if self.material not in MATERIALS:
            raise DatasetError(f"There is no material {self.material!r}.", f"Choose one of {', '.join(MATERIALS)}.")
        return ChangingLine(ProceduralLine(self.material, seed), self.change, self.recurring)

    @property
    def words(self) -> str:
        return f"{self.material} {self.change} {'recurring' if self.recurring else 'distinct'}"


@dataclass(frozen=True)
class Benchmarks:
    """One seed after the other; those that the file `out` tells of are not run again."""

    model: Model
    device: Device
    report: Report

    def drift(
        self,
        source: Recorded | Procedural,
        ingredients: Ingredients,
        seeds: Sequence[int],
        out: Path | None,
        *,
        refit: bool,
    ) -> dict[str, Any]:
        def readings(seed: int) -> Iterator[Reading]:
            fitted, phases = _shown(source, seed)
            follower = self._follower(seed, ingredients, refit=refit)
            if ingredients is Ingredients.REPLAY:
                follower = replace(follower, replayed=fitted)
            yield from follower.follow(self._first(fitted, seed), self._told(phases, seed))

        words = f"drift {source.words}, {ingredients}{'' if refit else ' without refitting'}"
        found = self._resumed(Reading, readings, seeds, out, words)
        return self._written(out, words, found, {"summary": [_json(s) for s in summaries(found)]})

    def poisoning(
        self, source: Procedural, rounds: int, highest: float, seeds: Sequence[int], out: Path | None
    ) -> dict[str, Any]:
        words = f"poisoning {source.words} {rounds} {highest:g}"

        def aftermaths(seed: int) -> Iterator[Aftermath]:
            line = source.line(seed)
            anchor = self._first(line.fitted(), seed)
            follower = self._follower(seed, Ingredients.FULL)
            for after in poisoned(follower, anchor, line.doses(rounds, highest)):
                self.report(f"seed {seed}: adapting", after.round, rounds)
                yield after

        return self._written(out, words, self._resumed(Aftermath, aftermaths, seeds, out, words), {})

    def _follower(self, seed: int, ingredients: Ingredients, *, refit: bool = False) -> Follower:
        adapting = partial(adapt, settings=settings_of(ingredients))
        return Follower(adapting, self._refit if refit else None, perf_counter, BEGAN, seed)

    def _first(self, fitted: Sequence[Sighting], seed: int) -> Gauge:
        return self._fit(self.model, [s.picture for s in fitted], [s.part for s in fitted], seed, self.report)

    def _refit(self, pictures: Sequence[Picture], parts: Sequence[str], seed: int) -> Gauge:
        return self._fit(self.model.refining(), pictures, parts, seed, self.report)

    def _fit(self, model: Model, pictures: Sequence[Picture], parts: Sequence[str], seed: int, report: Report) -> Gauge:
        return fit(
            pictures,
            line="benchmark",
            settings=model.settings(),
            at=BEGAN,
            groups=parts,
            seed=seed,
            device=torch_device(self.device),
            progress=report,
        )

    def _told(self, phases: Iterator[DriftPhase], seed: int) -> Iterator[DriftPhase]:
        for number, phase in enumerate(phases, start=1):
            self.report(f"seed {seed}, phase {number}: {phase.name}", 0, 1)
            yield phase

    def _resumed(
        self, kind: type[Line], run: Callable[[int], Iterator[Line]], seeds: Sequence[int], out: Path | None, words: str
    ) -> list[Line]:
        known = self._earlier(kind, out, words)
        for seed in seeds:
            if any(line.seed == seed for line in known):
                continue
            known += list(run(seed))
            if out is not None:
                write_whole(out, json.dumps(self._document(words, known, {}), indent=2))
        return known

    def _earlier(self, kind: type[Line], out: Path | None, words: str) -> list[Line]:
        """Raises `UserError` for a file of something else, which stays as it is."""
        if out is None or not out.exists():
            return []
        try:
            document = json.loads(out.read_text())
            key, lines = document["key"], [kind.model_validate(line, strict=False) for line in document["lines"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{out} is no result of this benchmark ({error}).", "Give --json another name.") from error
        if key != self._key(words):
            raise UserError(
                f"{out} tells of another line or other settings.", "Give --json another name, or remove it."
            )
        return lines

    def _written(self, out: Path | None, words: str, lines: Sequence[Part], more: dict[str, Any]) -> dict[str, Any]:
        document = self._document(words, lines, more)
        if out is not None:
            write_whole(out, json.dumps(document, indent=2))
        return document

    def _document(self, words: str, lines: Sequence[Part], more: dict[str, Any]) -> dict[str, Any]:
        return {"benchmark": words, "key": self._key(words)} | more | {"lines": [_json(line) for line in lines]}

    def _key(self, words: str) -> str:
        """Changes with everything that a figure depends on, but the seed."""
        told = f"{words} {version('flowgauge')} {version('torch')} {self.model.settings().model_dump_json()}"
        return sha256(told.encode()).hexdigest()


def _json(part: Part) -> dict[str, Any]:
    return part.model_dump(mode="json")


def _shown(source: Recorded | Procedural, seed: int) -> tuple[list[Sighting], Iterator[DriftPhase]]:
    """What the first gauge is fitted to, and what follows."""
    if isinstance(source, Procedural):
        line = source.line(seed)
        return line.fitted(), line.phases()
    script = source.script(seed)
    return [_sighting(shot) for shot in script.fit], (_phase(act) for act in script.acts)


def _phase(act: Act) -> DriftPhase:
    return DriftPhase(
        name=act.phase.name,
        buffer=[_sighting(shot) for shot in act.teaching],
        judge_good=[decode(shot.read()) for shot in act.judging if shot.truth is Truth.GOOD],
        judge_defect=[decode(shot.read()) for shot in act.judging if shot.truth is Truth.DEFECT],
    )


def _sighting(shot: Shot) -> Sighting:
    return Sighting(shot.image_id, shot.part or shot.image_id, decode(shot.read()))
