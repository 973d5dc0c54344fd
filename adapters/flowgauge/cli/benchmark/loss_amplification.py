"""`flowgauge benchmark loss-amplification`: whether amplifying a reconstruction's loss finds more."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache as cached
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from flowgauge.cli import options
from flowgauge.cli.evaluate import Seeds, numbers_in
from flowgauge.cli.features import BenchmarkData, Cache
from flowgauge.cli.model import Model
from flowgauge.cli.progress import bars
from flowgauge.cli.results import OutAfterSeeds, check_writable, conclude, items_left_in, write_results
from flowgauge.domain.choices import Aspect
from flowgauge.domain.errors import UserError
from flowgauge.domain.progress import Progress
from flowgauge.evaluation.loss_amplification import (
    Amplified,
    LargeImages,
    OneClassDigits,
    Setting,
    comparisons,
    settings_of,
)
from flowgauge.models.lamp.reconstruction import Optimiser, Reconstructing


def loss_amplification(
    dataset: Annotated[
        Path | None, typer.Argument(help="Large images too: a data set in the MVTec AD layout.", show_default=False)
    ] = None,
    splits: options.Splits = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the optimiser in each fit to digits.")] = 150,
    seeds: Seeds = "0,1,2",
    size: options.Size = None,
    aspect: options.AspectOption = Aspect.SQUASH,
    masks: options.Masks = None,
    groups: options.Groups = None,
    cache: Cache = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: OutAfterSeeds = None,
) -> None:
    """Does amplifying a reconstruction loss find more? Base against amplified.

    \b
    flowgauge benchmark loss-amplification --json digits.json
    flowgauge benchmark loss-amplification ./tiles --splits splits.json \\
        --groups groups.json --json lamp.json

    The same autoencoder, from the same start, with the same images in the
    same order, is trained by L1, L2 and SSIM and by each of them amplified;
    the squared error is the score of all. On scikit-learn's digits one class
    is good in turn, with SGD, RMSprop and Adam, each at the learning rate
    that is best under another seed. On large images, with Adam, by patches.
    higher counts the fits that amplification improves.
    """
    check_writable(json)
    if (dataset is None) != (splits is None):
        raise UserError("Large images need both a folder and --splits.", "Give both, or neither for digits alone.")
    with bars() as report:
        data = None
        if dataset is not None and splits is not None:
            model = Model(detector="lamp", size=size, aspect=aspect)
            data = BenchmarkData(dataset, splits, groups, masks, model, device, cache, report)
        work = LossAmplification(data, OneClassDigits(steps), report)
        cells = work.run(numbers_in(seeds), json)
    rows = [
        (
            row.where,
            row.loss.value,
            row.optimiser.value,
            f"{row.base:.3f} ({row.base_std:.3f})",
            f"{row.amplified:.3f} ({row.amplified_std:.3f})",
            f"{row.gain:+.3f}",
            f"{row.higher} of {row.pairs}",
        )
        for row in comparisons(cells)
    ]
    conclude(work.document(cells), [json], ("images", "loss", "optimiser", "base", "amplified", "gain", "higher"), rows)


class _Job(NamedTuple):
    setting: Setting
    seed: int
    work: OneClassDigits | LargeImages
    rate: Callable[[Setting], float]


@dataclass(frozen=True)
class LossAmplification:
    """On digits, and on the images of `data` where it is given."""

    data: BenchmarkData | None
    digits: OneClassDigits
    report: Progress

    def run(self, seeds: Sequence[int], out: Path | None) -> list[Amplified]:
        """Fit what has no cell in `out` yet, which is written after each fit and keeps other cells. Returns those of
        `seeds`.
        """
        earlier = items_left_in(out, lambda: self._key, Amplified, "cells")
        known = {(cell.setting, cell.seed): cell for cell in earlier}
        jobs = list(self._jobs(seeds))
        for done, (setting, seed, work, rate) in enumerate(jobs):
            amplified = ", amplified" if setting.amplified else ""
            self.report(f"{setting.where}: {setting.loss}, {setting.optimiser}{amplified}", done, len(jobs))
            if (setting, seed) not in known:
                known[setting, seed] = work.run(setting, seed, rate(setting))
                write_results(out, self.document(list(known.values())))
        self.report("fitting and testing", len(jobs), len(jobs))
        return [known[job.setting, job.seed] for job in jobs]

    def document(self, cells: Sequence[Amplified]) -> dict[str, Any]:
        return {"key": self._key, "comparisons": comparisons(cells), "cells": cells}

    def _jobs(self, seeds: Sequence[int]) -> Iterator[_Job]:
        # a rate is searched for once a setting, and only if a fit with that setting is to be done
        best_rate = cached(self.digits.best_rate)
        for setting in settings_of(self.digits.name, Optimiser):
            yield from (_Job(setting, seed, self.digits, best_rate) for seed in seeds)
        if self.data is None:
            return
        # of several shares of defects among the training images the lowest: it is the last that the dict keeps
        splits = {split.seed: split for split in sorted(self.data.chosen(seeds), key=lambda split: -split.noise)}
        name = f"{self.data.name}, by patches"
        images = LargeImages(name, self.data.embedded, splits, self.data.parts, self.data.settings)
        # Adam's steps do not grow with the loss: one rate serves both sides
        rate = Reconstructing().learning_rate
        for setting in settings_of(images.name, [Optimiser.ADAM]):
            yield from (_Job(setting, seed, images, lambda setting: rate) for seed in seeds)

    @cached_property
    def _key(self) -> str:
        digits = f"{version('flowgauge')} digits {self.digits.steps}"
        return digits if self.data is None else f"{digits} {self.data.key()}"
