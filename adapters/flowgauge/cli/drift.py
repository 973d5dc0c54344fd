"""The benchmarks of adaptation as the command line asks for them. Loads torch: imported when a command runs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from flowgauge.adaptation.adapt import adapt
from flowgauge.cli.model import Model, torch_device
from flowgauge.cli.opened import opened
from flowgauge.cli.options import Device
from flowgauge.cli.output import write_whole
from flowgauge.cli.progress import Report
from flowgauge.cli.recorded_script import recorded_script
from flowgauge.cli.resumption import left_in
from flowgauge.cli.script import Act, Frame, Script
from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.ablations import Ablation, settings_of
from flowgauge.evaluation.changed_images import ChangedImages
from flowgauge.evaluation.changing_lines import ChangingLine
from flowgauge.evaluation.drift import DriftPhase, DriftReplay, ObservedImage, Reading, summaries
from flowgauge.evaluation.poisoning import PoisoningOutcome, poisoned
from flowgauge.evaluation.splits import read_groups
from flowgauge.reports.story import Truth
from flowgauge.synthetic.procedural import MATERIALS, Change, ProceduralLine
from flowgauge.training.fit import fit
from flowgauge.training.gauge import Gauge
from flowgauge.vision.decoding import Picture, decode

Line = TypeVar("Line", Reading, PoisoningOutcome)
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
class Changed:
    """The images of any data set, under changes that are made."""

    data: Path
    groups: Path | None
    changes: Sequence[Change]

    def images(self, seed: int) -> ChangedImages:
        groups = {} if self.groups is None else read_groups(self.groups)
        return ChangedImages(opened(self.data), groups, seed, self.changes)

    @property
    def words(self) -> str:
        read = b"" if self.groups is None else self.groups.read_bytes()
        return f"{self.data.resolve().name} {' '.join(self.changes)} {sha256(read).hexdigest()}"


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


Source = Recorded | Changed | Procedural


@dataclass(frozen=True)
class Benchmarks:
    """One seed after the other; what the file `out` tells of is not run again."""

    model: Model
    device: Device
    report: Report

    def drift(
        self,
        source: Source,
        variants: Sequence[Ablation],
        seeds: Sequence[int],
        out: Path | None,
        *,
        refit: bool,
    ) -> dict[str, Any]:
        words = f"drift {source.words}{'' if refit else ', without refitting'}"
        known = self._earlier(Reading, out, words)
        for seed in seeds:
            reported = {line.variant for line in known if line.seed == seed}
            missing = [variant for variant in variants if variant not in reported]
            for readings in self._follow(source, missing, seed, refit=refit, compared=not reported):
                known += readings
                self._keep(out, words, known)
        return self._written(out, words, known, {"summary": [_json(s) for s in summaries(known)]})

    def _follow(
        self, source: Source, variants: Sequence[Ablation], seed: int, *, refit: bool, compared: bool
    ) -> Iterator[list[Reading]]:
        """The readings of each variant; beside those of the first one, if `compared`, those of what is not adapted."""
        if not variants:
            return
        fitted, _ = _shown(source, seed)
        anchor = self._first(fitted, seed)
        for variant in variants:
            beside = compared and variant is variants[0]
            replay = replace(
                self._replay(seed, variant, refit=refit and beside),
                frozen=beside,
                replayed=fitted if variant is Ablation.REPLAY else (),
            )
            _, phases = _shown(source, seed)
            yield list(replay.follow(anchor, self._with_progress(phases, f"seed {seed}, {variant}")))

    def poisoning(
        self, source: Procedural, rounds: int, highest: float, seeds: Sequence[int], out: Path | None
    ) -> dict[str, Any]:
        words = f"poisoning {source.words} {rounds} {highest:g}"
        known = self._earlier(PoisoningOutcome, out, words)
        for seed in seeds:
            if all(line.seed != seed for line in known):
                known += self._poisoned(source, rounds, highest, seed)
                self._keep(out, words, known)
        return self._written(out, words, known, {})

    def _poisoned(self, source: Procedural, rounds: int, highest: float, seed: int) -> Iterator[PoisoningOutcome]:
        line = source.line(seed)
        anchor = self._first(line.fitted(), seed)
        replay = self._replay(seed, Ablation.FULL)
        for after in poisoned(replay, anchor, line.doses(rounds, highest)):
            self.report(f"seed {seed}: adapting", after.round, rounds)
            yield after

    def _replay(self, seed: int, variant: Ablation, *, refit: bool = False) -> DriftReplay:
        adapting = partial(adapt, settings=settings_of(variant))
        return DriftReplay(adapting, self._refit if refit else None, perf_counter, BEGAN, seed, variant=variant)

    def _first(self, fitted: Sequence[ObservedImage], seed: int) -> Gauge:
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

    def _with_progress(self, phases: Iterator[DriftPhase], what: str) -> Iterator[DriftPhase]:
        for number, phase in enumerate(phases, start=1):
            self.report(f"{what}, phase {number}: {phase.name}", 0, 1)
            yield phase

    def _earlier(self, kind: type[Line], out: Path | None, words: str) -> list[Line]:
        def read(document: dict[str, Any]) -> list[Line]:
            return [kind.model_validate(line, strict=False) for line in document["lines"]]

        return left_in(out, lambda: self._key(words), read, "this benchmark") or []

    def _keep(self, out: Path | None, words: str, lines: Sequence[FrozenModel]) -> None:
        if out is not None:
            write_whole(out, json.dumps(self._document(words, lines, {}), indent=2))

    def _written(
        self, out: Path | None, words: str, lines: Sequence[FrozenModel], more: dict[str, Any]
    ) -> dict[str, Any]:
        document = self._document(words, lines, more)
        if out is not None:
            write_whole(out, json.dumps(document, indent=2))
        return document

    def _document(self, words: str, lines: Sequence[FrozenModel], more: dict[str, Any]) -> dict[str, Any]:
        return {"benchmark": words, "key": self._key(words)} | more | {"lines": [_json(line) for line in lines]}

    def _key(self, words: str) -> str:
        """Changes with everything that a figure depends on, but the seed."""
        reported = f"{words} {version('flowgauge')} {version('torch')} {self.model.settings().model_dump_json()}"
        return sha256(reported.encode()).hexdigest()


def _json(part: FrozenModel) -> dict[str, Any]:
    return part.model_dump(mode="json")


def _shown(source: Source, seed: int) -> tuple[list[ObservedImage], Iterator[DriftPhase]]:
    """What the first gauge is fitted to, and what follows."""
    if isinstance(source, Procedural):
        line = source.line(seed)
        return line.fitted(), line.phases()
    if isinstance(source, Changed):
        images = source.images(seed)
        return images.fitted(), images.phases()
    script = source.script(seed)
    return [_observed(frame) for frame in script.fit], (_phase(act) for act in script.acts)


def _phase(act: Act) -> DriftPhase:
    return DriftPhase(
        name=act.phase.name,
        buffer=[_observed(frame) for frame in act.training],
        test_good=[decode(frame.read()) for frame in act.testing if frame.truth is Truth.GOOD],
        test_defect=[decode(frame.read()) for frame in act.testing if frame.truth is Truth.DEFECT],
    )


def _observed(frame: Frame) -> ObservedImage:
    return ObservedImage(frame.image_id, frame.part or frame.image_id, decode(frame.read()))
