"""`flowgauge benchmark drift` and `poisoning`: adaptation on a line that changes, and on one that misleads it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, TypeVar

import typer

from flowgauge.adaptation.adapt import adapt
from flowgauge.cli import options
from flowgauge.cli.demo.scenario import Frame, procedural_line, recorded_script
from flowgauge.cli.evaluate import Seeds, numbers_in
from flowgauge.cli.features import opened
from flowgauge.cli.model import FitOptions, Model, torch_device
from flowgauge.cli.progress import bars
from flowgauge.cli.results import OutAfterSeeds, check_writable, conclude, items_left_in, write_results
from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import Progress
from flowgauge.evaluation.ablations import ADAPTATIONS, Ablation
from flowgauge.evaluation.changed_images import ChangedImages
from flowgauge.evaluation.drift import (
    ChangingLine,
    DriftPhase,
    DriftReplay,
    ObservedImage,
    PoisoningOutcome,
    Reading,
    poisoned,
    summaries,
)
from flowgauge.evaluation.splits import read_groups
from flowgauge.meta.initialization import default_start
from flowgauge.reports.story import Truth
from flowgauge.synthetic.procedural import Change
from flowgauge.training.fit import fit
from flowgauge.training.gauge import Gauge
from flowgauge.vision.decoding import Picture, decode

Line = TypeVar("Line", Reading, PoisoningOutcome)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)

ChangeOption = Annotated[
    str, typer.Option("--change", help="What the procedural line drifts in: light, contrast, focus or texture.")
]
Material = Annotated[str, typer.Option(help="What the procedural line makes: brushed-metal, ceramic-tile and others.")]


@dataclass(frozen=True)
class GaugeOptions:
    """How the first gauge is made: options of both commands."""

    detector: options.Detector = None
    members: options.Members = None
    weights: options.Weights = None
    size: options.Size = None

    def model(self) -> Model:
        return FitOptions(weights=self.weights, size=self.size, members=self.members).model(self.detector)


def drift(
    dataset: Annotated[
        Path | None,
        typer.Argument(help="Real images: a data set, or the folder that --phases refers to.", show_default=False),
    ] = None,
    phases: options.Phases = None,
    groups: options.Groups = None,
    material: Material = "brushed-metal",
    change: Annotated[
        str | None,
        typer.Option(
            help="What changes: light, contrast, focus or texture (a procedural line's light; all four, one after the"
            " other, on a data set)."
        ),
    ] = None,
    recurring: Annotated[
        bool, typer.Option("--recurring", help="The procedural line's defects are all one worn tool's mark.")
    ] = False,
    variant: Annotated[
        list[str] | None,
        typer.Option(help=f"How to adapt: {', '.join(ADAPTATIONS)}; may be repeated (full)."),
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit/--no-refit", help="Fit anew to every buffer too, which takes most of the time.")
    ] = True,
    seeds: Seeds = "0,1,2",
    gauge: GaugeOptions = GaugeOptions(),
    device: options.DeviceOption = options.Device.AUTO,
    json: OutAfterSeeds = None,
) -> None:
    """Follow a line that changes: without adapting, adapting, fitting anew.

    \b
    flowgauge benchmark drift --change contrast --json contrast.json
    flowgauge benchmark drift ./screws --json screws.json
    flowgauge benchmark drift ./tiles --phases drift_phases.json \\
        --groups groups.json --json tiles.json

    Three sources: a procedural line; a data set in the MVTec AD layout, whose
    images are changed; real images in the phases of a file.

    In each phase a buffer, a fifth of it unlabelled defects, and
    other images that test. frozen is the first gauge, adapted the candidate
    made from the buffer, in-use the last candidate that the gate accepted,
    refitted a gauge fitted to the buffer alone. seconds are what it took.
    first_image_auroc is that gauge's on the first phase's test images: what
    it has forgotten of where the line began.

    --variant leaves a component of adapting out: no-head (only the flow
    moves), no-l2 (no pull to the anchor), no-rejection; or changes it: iqr
    finds images suspect by the other rule, replay shows the first gauge's
    images again.
    """
    if dataset is None and phases is not None:
        raise UserError("--phases needs the folder of its images.", "Give it, or neither for a procedural line.")
    check_writable(json)
    changes = [Change(one_of(change, Change))] if change is not None else list(Change)
    source: Source = Procedural(material, changes[0], recurring)
    if dataset is not None and phases is not None:
        source = Recorded(dataset, phases, groups)
    elif dataset is not None:
        source = Changed(dataset, groups, changes)
    variants = [Ablation(one_of(name, ADAPTATIONS)) for name in dict.fromkeys(variant or ["full"])]
    with bars() as report:
        work = AdaptationBenchmarks(gauge.model(), device, report)
        found = work.drift(source, variants, numbers_in(seeds), json, refit=refit)
    columns = ("phase", "way", "variant", "false_alarms", "misses", "image_auroc", "image_auroc_std")
    _conclude(found, json, (*columns, "first_image_auroc", "seconds", "refused"), found["summary"])


def poisoning(
    material: Material = "brushed-metal",
    change: ChangeOption = "light",
    rounds: Annotated[int, typer.Option(min=2, help="Adaptations in a row.")] = 20,
    highest: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the last buffer that is poisoned.")] = 0.3,
    seeds: Seeds = "0,1,2",
    gauge: GaugeOptions = GaugeOptions(),
    device: options.DeviceOption = options.Device.AUTO,
    json: OutAfterSeeds = None,
) -> None:
    """Feed a worn tool's mark into the buffers at rising rates, and adapt.

    \b
    flowgauge benchmark poisoning --json poisoning.json
    flowgauge benchmark poisoning --material wood-veneer --rounds 20

    One line is adapted again and again while it changes slowly. After each
    adaptation: what share of parts with that mark, and of parts with another
    defect, the gauge in use still catches, beside what the first gauge
    catches of the same images; and why the gate refused, if it did.
    """
    check_writable(json)
    source = Procedural(material, Change(one_of(change, Change)))
    with bars() as report:
        found = AdaptationBenchmarks(gauge.model(), device, report).poisoning(
            source, rounds, highest, numbers_in(seeds), json
        )
    columns = ("seed", "round", "share", "caught", "first_caught", "others_caught", "first_others_caught")
    _conclude(found, json, (*columns, "false_alarms", "refusals"), found["lines"])


def one_of(name: str, choices: Iterable[str]) -> str:
    """Raises `UserError` for a name that there is not."""
    if name not in set(choices):
        raise UserError(f"{name!r} is none of them.", f"Use one of: {', '.join(choices)}.")
    return name


def _conclude(found: dict[str, Any], json: Path | None, columns: Sequence[str], rows: Sequence[FrozenModel]) -> None:
    def shown(value: object) -> object:
        return "; ".join(value) or "-" if isinstance(value, tuple) else value

    conclude(found, [json], columns, ([shown(getattr(row, column)) for column in columns] for row in rows))


@dataclass(frozen=True)
class Recorded:
    """Real images, phase by phase."""

    data: Path
    phases: Path
    groups: Path | None

    def observed(self, seed: int) -> tuple[list[ObservedImage], Iterator[DriftPhase]]:
        """What the first gauge is fitted to, and what follows; images are read when their phase is asked for."""
        groups = None if self.groups is None else read_groups(self.groups)
        script = recorded_script(self.data, self.phases, seed, groups)

        def image(frame: Frame) -> ObservedImage:
            return ObservedImage(frame.image_id, frame.part or frame.image_id, decode(frame.read()))

        phases = (
            DriftPhase(
                name=act.phase.name,
                buffer=[image(frame) for frame in act.training],
                test_good=[decode(frame.read()) for frame in act.testing if frame.truth is Truth.GOOD],
                test_defect=[decode(frame.read()) for frame in act.testing if frame.truth is Truth.DEFECT],
            )
            for act in script.acts
        )
        return [image(frame) for frame in script.fit], phases

    @property
    def words(self) -> str:
        read = [path.read_bytes() for path in (self.phases, self.groups) if path is not None]
        return f"{self.data.resolve().name} {sha256(b''.join(read)).hexdigest()}"


@dataclass(frozen=True)
class Changed:
    """The images of a data set, under changes that are made."""

    data: Path
    groups: Path | None
    changes: Sequence[Change]

    def observed(self, seed: int) -> tuple[list[ObservedImage], Iterator[DriftPhase]]:
        """As of `Recorded`."""
        groups = {} if self.groups is None else read_groups(self.groups)
        images = ChangedImages(opened(self.data), groups, seed, self.changes)
        return images.fitted(), images.phases()

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
        return ChangingLine(procedural_line(self.material, seed), self.change, self.recurring)

    def observed(self, seed: int) -> tuple[list[ObservedImage], Iterator[DriftPhase]]:
        """As of `Recorded`."""
        line = self.line(seed)
        return line.fitted(), line.phases()

    @property
    def words(self) -> str:
        return f"{self.material} {self.change} {'recurring' if self.recurring else 'distinct'}"


Source = Recorded | Changed | Procedural


@dataclass(frozen=True)
class AdaptationBenchmarks:
    """One seed after the other; what is in the file `out` is not run again."""

    model: Model
    device: options.Device
    report: Progress

    def drift(
        self,
        source: Source,
        variants: Sequence[Ablation],
        seeds: Sequence[int],
        out: Path | None,
        *,
        refit: bool,
    ) -> dict[str, Any]:
        """The document that is also in `out`: readings of each variant and, once a seed, without adapting."""
        words = f"drift {source.words}{'' if refit else ', without refitting'}"
        known = self._earlier(Reading, out, words)
        for seed in seeds:
            reported = {line.variant for line in known if line.seed == seed}
            missing = [variant for variant in variants if variant not in reported]
            if not missing:
                continue
            fitted, _ = source.observed(seed)
            anchor = self._fit(self.model, [s.picture for s in fitted], [s.part for s in fitted], seed)
            for variant in missing:
                # the frozen and the refitted gauge are the same beside every variant: they are read once a seed
                beside = not reported and variant is missing[0]
                replay = replace(
                    self._replay(seed, variant),
                    refit=partial(self._fit, self.model.refining()) if refit and beside else None,
                    frozen=beside,
                    replayed=fitted if variant is Ablation.REPLAY else (),
                )
                _, phases = source.observed(seed)
                known += replay.follow(anchor, self._reported(phases, f"seed {seed}, {variant}"))
                write_results(out, self._document(words, known))
        document = self._document(words, known, summary=summaries(known))
        write_results(out, document)
        return document

    def poisoning(
        self, source: Procedural, rounds: int, highest: float, seeds: Sequence[int], out: Path | None
    ) -> dict[str, Any]:
        """The document that is also in `out`: what each round's gauge catches."""
        words = f"poisoning {source.words} {rounds} {highest:g}"
        known = self._earlier(PoisoningOutcome, out, words)
        for seed in seeds:
            if any(line.seed == seed for line in known):
                continue
            line = source.line(seed)
            fitted = line.fitted()
            anchor = self._fit(self.model, [s.picture for s in fitted], [s.part for s in fitted], seed)
            for after in poisoned(self._replay(seed, Ablation.FULL), anchor, line.poisoned_runs(rounds, highest)):
                self.report(f"seed {seed}: adapting", after.round, rounds)
                known.append(after)
            write_results(out, self._document(words, known))
        document = self._document(words, known)
        write_results(out, document)
        return document

    def _replay(self, seed: int, variant: Ablation) -> DriftReplay:
        adapting = partial(adapt, settings=ADAPTATIONS[variant])
        return DriftReplay(adapting, None, perf_counter, BEGAN, seed, variant=variant)

    def _fit(self, model: Model, pictures: Sequence[Picture], parts: Sequence[str], seed: int) -> Gauge:
        return fit(
            pictures,
            line="benchmark",
            settings=model.settings(),
            at=BEGAN,
            groups=parts,
            start=default_start,
            seed=seed,
            device=torch_device(self.device),
            progress=self.report,
        )

    def _reported(self, phases: Iterator[DriftPhase], what: str) -> Iterator[DriftPhase]:
        for number, phase in enumerate(phases, start=1):
            self.report(f"{what}, phase {number}: {phase.name}", 0, 1)
            yield phase

    def _earlier(self, kind: type[Line], out: Path | None, words: str) -> list[Line]:
        return items_left_in(out, lambda: self._key(words), kind, "lines")

    def _document(self, words: str, lines: Sequence[FrozenModel], **more: Any) -> dict[str, Any]:
        head = {"benchmark": words, "key": self._key(words)}
        return head | more | {"lines": lines}

    def _key(self, words: str) -> str:
        """Changes with everything that a figure depends on, but the seed."""
        inputs = f"{words} {version('flowgauge')} {version('torch')} {self.model.settings().model_dump_json()}"
        return sha256(inputs.encode()).hexdigest()
