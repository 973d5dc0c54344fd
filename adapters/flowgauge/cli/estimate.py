"""`flowgauge estimate`: what the factory will see."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import TypeAdapter

from flowgauge.cli import options
from flowgauge.cli.features import BenchmarkData, Cache
from flowgauge.cli.model import (
    DEFAULT_FEATURES,
    FeatureOptions,
    fitting_start,
    init_digest,
    torch_device,
)
from flowgauge.cli.output import as_json, emit, warn, write_whole
from flowgauge.cli.progress import bars
from flowgauge.cli.results import check_writable, conclude, left_in
from flowgauge.domain.errors import UserError
from flowgauge.domain.progress import reported
from flowgauge.evaluation.choices import Choice, Chooser, Costs
from flowgauge.evaluation.estimate import EstimateReport, Origin, Repeat, estimated
from flowgauge.evaluation.near_duplicates import NearDuplicates, duplicate_groups, near_duplicates_of
from flowgauge.evaluation.replicates import Material, Replicates, require_divisible
from flowgauge.evaluation.splits import Groups, groups_by_name
from flowgauge.reports.estimate import render_estimate
from flowgauge.reports.pages import write_page
from flowgauge.training.fit import Initialization, embedder_for

Known = dict[int, Repeat]
"""By seed."""


def estimate(
    dataset: options.DatasetArgument,
    choose: Annotated[
        Choice, typer.Option(help="How to choose the threshold; own is the gauge's own, from good images alone.")
    ] = Choice.YOUDEN,
    cost_miss: Annotated[float, typer.Option(min=0, help="What a missed defect costs, in any currency.")] = 10.0,
    cost_false_alarm: Annotated[float, typer.Option(min=0, help="What a false alarm costs.")] = 1.0,
    prevalence: Annotated[
        float, typer.Option(min=1e-6, max=0.999, help="Share of the line's parts that are defective, for costs.")
    ] = 0.01,
    budget: Annotated[
        float, typer.Option(min=1e-4, max=0.5, help="Share of false alarms that --choose budget allows.")
    ] = 0.05,
    repeats: Annotated[int, typer.Option(min=2, max=1000, help="Splits, each with a fit of its own.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the first repeat; the others count up.")] = 0,
    groups: options.Groups = None,
    group: Annotated[
        str | None,
        typer.Option(help="Instead of --groups: what this finds in an image's path is its part.", metavar="REGEX"),
    ] = None,
    keep_apart: Annotated[
        bool,
        typer.Option("--keep-apart", help="train/good only trains; test/good alone chooses and tests the threshold."),
    ] = False,
    detector: options.Detector = None,
    members: options.Members = None,
    init: options.MetaInit = None,
    features: FeatureOptions = DEFAULT_FEATURES,
    masks: options.Masks = None,
    cache: Cache = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write all there, after every repeat; a second run goes on.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report there: one page that needs nothing else.")] = None,
) -> None:
    """Say what a factory would see: false alarms and misses with honest intervals.

    \b
    flowgauge estimate ./tiles --groups groups.json \\
        --json tiles.json --html tiles.html
    flowgauge estimate ./tiles --group 'tile-(\\d+)' --choose cost \\
        --cost-miss 200 --cost-false-alarm 3 --prevalence 0.02

    Again and again all good images are divided anew: half of the defects
    choose the threshold and the other half test it, each beside as many
    good images; the rest trains. That takes train/good and test/good for
    the same kind of images; if they are not, use --keep-apart.

    Intervals are 95 %. A plain t interval over the repeats would be far too
    narrow: repeats share their images, so their errors are correlated, and
    more repeats tell nothing new. Intervals are therefore corrected for that
    overlap, after Nadeau and Bengio, and for how many images and parts test.

    Images of one part stay on one side. Without --groups or --group,
    near duplicates are looked for and kept together, and the report says how much
    better the figures would look had they been torn apart.

    --prevalence matters for costs alone. A defect in a hundred, ten times as
    dear as a false alarm, is an assumption: give your own.
    """
    check_writable(json, html)
    if groups is not None and group is not None:
        raise UserError("--groups and --group both say which part an image shows.", "Give one of them.")
    costs = Costs(miss=cost_miss, false_alarm=cost_false_alarm, prevalence=prevalence)
    chooser = Chooser(choice=choose, costs=costs, budget=budget)
    model, seeds = replace(features.model(detector), members=members), range(seed, seed + repeats)
    with bars() as report:
        data = BenchmarkData(dataset, None, groups, masks, model, device, cache, report)
        found = Estimation(data, chooser, seeds, group, keep_apart, init).run(json)
    if html is not None:
        write_page(render_estimate(found), html)
    for words in found.warnings():
        warn(words)
    if json is None:
        emit(found)
        return
    rows = []
    for name, figure in found.estimate.figures().items():
        (low, high), (plain_low, plain_high) = figure.interval, figure.plain_interval
        intervals = f"{low:.4g} to {high:.4g}", f"{plain_low:.4g} to {plain_high:.4g}"
        rows.append((name, figure.mean, figure.spread, *intervals))
    columns = ("figure", "mean", "spread", "95 % interval", "a plain t interval")
    conclude(found, (json, html), columns, rows, ("", *found.sentences()))


@dataclass(frozen=True)
class Estimation:
    """What a person asked for. Parts are what a file of groups says, or what `pattern` finds in images' paths."""

    data: BenchmarkData
    chooser: Chooser
    seeds: range
    pattern: str | None
    keep_apart: bool
    init: str | None

    def run(self, out: Path | None) -> EstimateReport:
        """Make the repeats that are not in `out` yet, which is written after each."""
        data, chooser = self.data, self.chooser
        named, single = self._named_parts, {name: name for name in data.names}
        require_divisible(self._material(named or single))
        kept, apart = self._earlier(out)
        near_duplicates: tuple[NearDuplicates, ...] = () if named is not None else self._near_duplicates()
        groups = named or duplicate_groups(data.names, near_duplicates)
        plan = [(groups, kept, seed) for seed in self.seeds if seed not in kept]
        # where near duplicates are kept together, the same once more with each image as a part of its own: what the
        # figures would look like had they been torn apart
        plan += [(single, apart, seed) for seed in self.seeds if near_duplicates and seed not in apart]
        for parts, known, seed in reported(plan, "repeats", data.report):
            replicates = Replicates(
                data.embedded,
                self._material(parts),
                chooser,
                data.settings,
                self._init,
                perf_counter,
                data.report,
            )
            known[seed] = replicates.repeat(seed)
            if out is not None:
                write_whole(out, as_json(self._progress_document(kept, apart)))
        estimate_report = self._estimate_report(groups, kept, apart, near_duplicates)
        if out is not None:
            write_whole(out, as_json(estimate_report.model_dump(mode="json") | self._progress_document(kept, apart)))
        return estimate_report

    def _estimate_report(
        self, groups: Groups, kept: Known, apart: Known, near_duplicates: tuple[NearDuplicates, ...]
    ) -> EstimateReport:
        material = self._material(groups)
        costs, good = self.chooser.costs, int((~material.defective & ~material.trains).sum())
        repeats, torn = ([known[seed] for seed in self.seeds if seed in known] for known in (kept, apart))
        if self.data.groups is not None:
            origin = Origin.FILE
        elif self.pattern is not None:
            origin = Origin.NAMES
        else:
            origin = Origin.NEAR_DUPLICATES if near_duplicates else Origin.IMAGES
        single = {name: name for name in self.data.names}
        return EstimateReport(
            dataset=self.data.name,
            detector=self.data.settings.detector,
            software=f"flowgauge {version('flowgauge')}",
            key=self._key,
            chooser=self.chooser,
            good_images=int((~material.defective).sum()),
            defective_images=int(material.defective.sum()),
            parts=len(set(material.groups)),
            origin=origin,
            estimate=estimated(repeats, groups, costs, good),
            duplicates_apart=estimated(torn, single, costs, good) if near_duplicates else None,
            near_duplicates=near_duplicates,
            repeats=tuple(repeats),
            repeats_apart=tuple(torn) if near_duplicates else (),
        )

    def _progress_document(self, kept: Known, apart: Known) -> dict[str, Any]:
        """All that was ever repeated, of other seeds too."""
        values = [[known[seed] for seed in sorted(known)] for known in (kept, apart)]
        return {"key": self._key, "repeats": values[0], "repeats_apart": values[1]}

    def _earlier(self, out: Path | None) -> tuple[Known, Known]:
        def by_seed(repeats: Iterable[Any]) -> Known:
            return {found.seed: found for found in TypeAdapter(list[Repeat]).validate_python(repeats, strict=False)}

        def read(document: dict[str, Any]) -> tuple[Known, Known]:
            return by_seed(document["repeats"]), by_seed(document["repeats_apart"])

        return left_in(out, lambda: self._key, read, "an estimate") or ({}, {})

    @cached_property
    def _named_parts(self) -> Groups | None:
        """What the person said; None: nothing."""
        if self.data.groups is not None:
            return self.data.parts
        return None if self.pattern is None else groups_by_name(self.data.names, self.pattern)

    def _material(self, groups: Groups) -> Material:
        trains = {entry.name for entry in self.data.opened.train} if self.keep_apart else set()
        return Material(
            defective=np.array([entry.defective for entry in self.data.entries]),
            groups=tuple(groups[name] for name in self.data.names),
            trains=np.array([name in trains for name in self.data.names]),
        )

    def _near_duplicates(self) -> tuple[NearDuplicates, ...]:
        data = self.data.embedded
        detector = embedder_for(self.data.settings, torch_device(self.data.device)).detector
        patch_features = detector.patch_features(data.plain(data.names)).float().numpy()
        train = {entry.name for entry in self.data.opened.train}
        return tuple(near_duplicates_of(data.names, patch_features, train))

    @cached_property
    def _init(self) -> Initialization | None:
        """As `flowgauge fit` of the data set starts. Raises `SettingsError` where that is of another detector or
        backbone.
        """
        where, images = torch_device(self.data.device), len(self.data.opened.train)
        return fitting_start(self.init, self.data.settings, where, images)

    @cached_property
    def _key(self) -> str:
        """Changes with everything that a repeat depends on, but its seed."""
        choice = self.chooser.choice
        values_of: dict[Choice, Any] = {Choice.COST: self.chooser.costs, Choice.BUDGET: self.chooser.budget}
        words = f"{choice} {values_of.get(choice)} {self.keep_apart}"
        digest = sha256(f"{self.data.settings_words} {words}".encode())
        digest.update(json.dumps(self._named_parts, sort_keys=True).encode())
        if self.init is not None:
            digest.update(init_digest(self.init).encode())
        digest.update(self.data.images_sha256.encode())
        return digest.hexdigest()
