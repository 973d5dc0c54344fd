"""`flowgauge benchmark contamination`: what defects among the training images cost, and what helps against them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from flowgauge.cli import options
from flowgauge.cli.evaluate import Seeds, numbers_in
from flowgauge.cli.features import BenchmarkData, Cache
from flowgauge.cli.model import DEFAULT_FEATURES, SHIPPED, FeatureOptions, fitting_start, torch_device
from flowgauge.cli.progress import bars
from flowgauge.cli.results import OutAfterFits, check_writable, conclude, items_left_in, write_results
from flowgauge.domain.errors import UserError, install
from flowgauge.domain.progress import reported
from flowgauge.evaluation.ablations import Ablation
from flowgauge.evaluation.contamination import (
    BASELINES,
    Baseline,
    Cell,
    baseline_fit,
    contaminated_fit,
    curves,
    needs_init,
    variant_of,
)
from flowgauge.evaluation.splits import Split, contaminated_splits
from flowgauge.models.headflow.detector import HeadFlow
from flowgauge.reports.plots import curves_svg


def contamination(
    dataset: options.DatasetArgument,
    splits: options.Splits = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="full, wide-ensemble, no-ensemble, no-meta, one-sided, iqr, replay, plain, clean-oracle, patchcore or"
            " padim; may be repeated (full and plain)."
        ),
    ] = None,
    seeds: Seeds = "0,1,2",
    detector: Annotated[str | None, typer.Option(help="headflow (default), featureflow, csflow, rad or glass.")] = None,
    features: FeatureOptions = DEFAULT_FEATURES,
    masks: options.Masks = None,
    groups: options.Groups = None,
    init: Annotated[
        str,
        typer.Option(help="Meta-learned parameters: a file of flowgauge meta-train, or `shipped`.", metavar="FILE"),
    ] = SHIPPED,
    cache: Cache = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: OutAfterFits = None,
    plot: Annotated[Path | None, typer.Option(help="Draw AUROC against contamination there, as an SVG.")] = None,
) -> None:
    """Fit at rising shares of defects among the images that train, and test.

    \b
    flowgauge benchmark contamination ./screws --detector featureflow \\
        --variant plain --json screws.json --plot screws.svg
    flowgauge benchmark contamination ./tiles --splits noise_splits.json \\
        --groups groups.json --variant full --variant plain \\
        --json noise.json --plot noise.svg

    Without --splits, 0, 10, 20, 30 and 50 % of the training images are
    defective: every second defect of a class may be among them, the others
    are tested. So what contaminates recurs in the test.

    full trains an ensemble, each member without one fold of the parts, and
    starts from meta-learned parameters (flowgauge meta-train); all images
    train. wide-ensemble has five members, each without two fifths of the
    parts; no-ensemble and no-meta do without one of the two. one-sided and
    iqr leave out images by cross-fitted scores. plain does nothing of all
    this, replay shows half of the images again as far as an earlier detector
    accepted them, and clean-oracle leaves out what is mislabelled, which only
    a benchmark knows. patchcore and padim are baselines, anomalib's own, on
    the same features and images; they come with the extra named baselines.

    The detector is headflow unless --detector names another one: the
    ensembles of full and wide-ensemble are its own. Features are read once
    and cached. Synthetic anomalies are drawn once for the whole data set, so
    figures differ a little from those of flowgauge evaluate.
    """
    check_writable(json, plot)
    if plot is not None and plot.suffix != ".svg":
        raise UserError(f"{plot} is no SVG.", "Give --plot a name that ends in .svg.")
    variants = [variant_of(name) for name in dict.fromkeys(variant or ["full", "plain"])]
    model = features.model(detector or "headflow")
    with bars() as report:
        data = BenchmarkData(dataset, splits, groups, masks, model, device, cache, report)
        work = Contamination(data, init)
        cells = work.run(variants, numbers_in(seeds), json)
    found = curves(cells)
    if plot is not None:
        plot.write_text(curves_svg(found))
    conclude(
        work.document(cells),
        (json, plot),
        ("variant", "noise", "image_auroc", "deviation", "seeds"),
        (
            (curve.variant.value, point.noise, point.image_auroc_mean, point.image_auroc_std, len(point.seeds))
            for curve in found
            for point in curve.curve
        ),
    )


@dataclass(frozen=True)
class Contamination:
    data: BenchmarkData
    init: str

    def run(self, variants: Sequence[Ablation], seeds: Sequence[int], out: Path | None) -> list[Cell]:
        """Fit what has no cell in `out` yet, which is written after each fit. Returns all its cells in order, those of
        other variants and seeds too.

        Raises `SettingsError` where the initialization is of another detector or backbone.
        """
        where, report = torch_device(self.data.device), self.data.report
        baselines = self._baselines(variants)
        start = None
        if any(needs_init(variant) for variant in variants):
            start = fitting_start(self.init, self.data.settings, where, len(self.data.names))
        splits = self._splits(seeds)
        known = {(c.variant, c.noise, c.seed): c for c in items_left_in(out, lambda: self._key, Cell, "cells")}
        plan = [(v, split) for split in splits for v in variants if (v, split.noise, split.seed) not in known]
        for variant, split in reported(plan, "fitting and testing", report):
            features, settings = self.data.embedded, self.data.settings
            if variant in baselines:
                cell = baseline_fit(features, split, variant, baselines[variant], perf_counter)
            else:
                cell = contaminated_fit(features, split, self.data.parts, variant, settings, perf_counter, start)
            known[variant, split.noise, split.seed] = cell
            write_results(out, self.document([known[case] for case in sorted(known)]))
        return [known[case] for case in sorted(known)]

    def document(self, cells: Sequence[Cell]) -> dict[str, Any]:
        """One variant's curve stands at the top, those of several under `curves`. `key` names data and settings."""
        found = [curve.model_dump(mode="json") for curve in curves(cells)]
        head = {
            "dataset": self.data.name,
            "detector": self.data.settings.detector,
            "key": self._key,
        }
        body = found[0] if len(found) == 1 else {"curves": found}
        return head | body | {"cells": cells}

    def _splits(self, seeds: Sequence[int]) -> list[Split]:
        """Raises `UserError` for a seed that the file does not have, and as `contaminated_splits` does."""
        return contaminated_splits(self.data.opened, seeds) if self.data.splits is None else self.data.chosen(seeds)

    def _baselines(self, variants: Sequence[Ablation]) -> dict[Ablation, Baseline]:
        """Those that `variants` ask for. Raises `UserError` where there is no anomalib, or where the detector keeps of
        the features what is no use to baselines.
        """
        wanted = [variant for variant in variants if variant in BASELINES]
        if not wanted:
            return {}
        if self.data.settings.detector != HeadFlow.name:
            raise UserError(f"{wanted[0]} needs the features that {HeadFlow.name} keeps.", "Leave --detector out.")
        try:
            from flowgauge.anomalib.detectors import BASELINES as FOUND
        except ModuleNotFoundError as error:
            raise UserError(
                f"{wanted[0]} needs {error.name}, which is not installed.",
                install("baselines"),
            ) from error
        return {variant: FOUND[variant] for variant in wanted}

    @cached_property
    def _key(self) -> str:
        """Changes with everything that a figure depends on, but the seed, the variant and the baselines' version."""
        return self.data.key(*([] if self.init == SHIPPED else [Path(self.init)]))
