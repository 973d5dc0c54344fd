"""`flowgauge benchmark speed`: what a gauge takes on this machine, stage by stage, beside the machine's own limits."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

from typer import Option

from flowgauge.cli import options
from flowgauge.cli.evaluate import numbers_in
from flowgauge.cli.model import ENGINE_FOLDER, stored_in, torch_device
from flowgauge.cli.output import say, show, write_whole
from flowgauge.cli.progress import bars
from flowgauge.cli.results import check_writable
from flowgauge.domain.choices import Engine
from flowgauge.domain.errors import UserError, install
from flowgauge.domain.progress import Progress, reported
from flowgauge.engines.choice import chosen, compiled
from flowgauge.evaluation.speed import MATERIAL, Forward, SpeedBenchmark, forward_of
from flowgauge.evaluation.speed_results import QUICK, TORCH, ImageFormat, ImageSize, Plan, SpeedResults
from flowgauge.models.backbones import BackboneSpec, Origin
from flowgauge.reports.pages import write_page
from flowgauge.reports.speed import TABLES, render_speed
from flowgauge.synthetic.procedural import ProceduralLine
from flowgauge.training.fit import MINIMUM_IMAGES, FitSettings, fit
from flowgauge.training.gauge import Gauge
from flowgauge.vision.decoding import Picture

ENGINES = tuple(engine.value for engine in Engine if engine is not Engine.AUTO)
# Few, for speed does not depend on what was learned. PatchCore alone slows down with more images.
_IMAGES = 16
# the kernels of EfficientAd's autoencoder are larger than what it makes of smaller images
_EFFICIENT_AD_SIDE = 256


class Baseline(StrEnum):
    PATCHCORE = "patchcore"
    PADIM = "padim"
    FASTFLOW = "fastflow"
    EFFICIENT_AD = "efficient_ad"


# as short a training as each takes: networks are as fast after the first step as after the last
_SHORTEST: dict[str, dict[str, Any]] = {
    "featureflow": {"epochs": 1, "training": {"steps": 10, "check_every": 10}},
    Baseline.FASTFLOW: {"epochs": 1},
}


@dataclass(frozen=True)
class PlanOptions:
    """What is measured."""

    engine: Annotated[
        list[str] | None,
        Option(help=f"What runs the networks: {', '.join(ENGINES)}; may be repeated. ({TORCH})", show_default=False),
    ] = None
    image: Annotated[
        list[ImageSize] | None, Option(help="A size of images; may be repeated. All of them.", show_default=False)
    ] = None
    format_: Annotated[
        list[ImageFormat] | None,
        Option("--format", help="A format of files; may be repeated. All of them.", show_default=False),
    ] = None
    lines: Annotated[
        str | None, Option(help="Numbers of lines that take turns. (1,16,64)", metavar="N,N", show_default=False)
    ] = None
    repeats: Annotated[
        int | None,
        Option(
            min=3,
            help="Rounds of single images, a fifth as many of batches; p99 of a few rounds is the slowest. (50)",
            show_default=False,
        ),
    ] = None
    quick: Annotated[
        bool, Option("--quick", help="JPEG of 256 px and 5 MP, 1 and 16 lines, 15 rounds, unless told otherwise.")
    ] = False

    def plan(self) -> Plan:
        """What was asked for, and the default or the quick plan for the rest. Raises `UserError` for what cannot be."""
        for name in self.engine or ():
            if name not in ENGINES:
                raise UserError(f"There is no engine {name!r}.", f"Choose from {', '.join(ENGINES)}.")
        asked: dict[str, Any] = {
            "engines": tuple(dict.fromkeys(self.engine or ())),
            "sizes": tuple(dict.fromkeys(self.image or ())),
            "formats": tuple(dict.fromkeys(self.format_ or ())),
            "lines": line_counts(self.lines),
            "repeats": self.repeats,
        }
        plan = QUICK if self.quick else Plan()
        return plan.model_copy(update={name: value for name, value in asked.items() if value})


def speed(
    asked: PlanOptions = PlanOptions(),
    gauge: Annotated[
        Path | None,
        Option(help="A snapshot's folder, of a store or copied, instead of a gauge of its own.", metavar="DIR"),
    ] = None,
    images: Annotated[
        int, Option(min=MINIMUM_IMAGES, help="Good images that its own gauge and the baselines are fitted to.")
    ] = _IMAGES,
    baseline: Annotated[
        list[Baseline] | None,
        Option(help="A method of anomalib's to measure beside the gauge; may be repeated.", show_default=False),
    ] = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Annotated[Path | None, Option("--json", help="Write all figures there.")] = None,
    html: Annotated[Path | None, Option(help="Write a page there: tables, and bars beside the limits.")] = None,
) -> None:
    """Measure a gauge's speed on this machine, stage by stage, beside the machine's own limits.

    \b
    flowgauge benchmark speed --quick
    flowgauge benchmark speed --device cuda --json gpu.json --html gpu.html
    flowgauge benchmark speed --gauge ./plant/objects/snapshots/press-3/VERSION
    flowgauge benchmark speed --quick --baseline patchcore --baseline fastflow

    Images are those of a procedural line, enlarged to what a camera takes and
    under a sensor's noise. The gauge is fitted to a few of them, with random
    weights in its backbone: what was learned changes nothing about speed.

    Stages are of one image at a time: decode (statistics are a part of it),
    crop, backbone, detector; predict is all that follows decoding. Rates are
    images a second: pictures in memory, one and 16 at a time, and 16 files
    decoded one after the other on the same thread, where a worker decodes on
    several. Limits are the bare backbone, Pillow's bare decoder, and what the
    processor achieves in multiplying large matrices.

    All that is compared takes turns within one run. Figures of two machines,
    or of two runs on a busy one, do not compare: look at the load. On cores
    that others use too, set OMP_NUM_THREADS=1: threads that wait for one
    another in every operation measure the others' work.
    """
    check_writable(json, html)
    plan = asked.plan()
    baselines = require_baselines(baseline or [])
    with bars() as report:
        found = measured(plan, gauge, images, baselines, torch_device(device), report)
    if json is not None:
        write_whole(json, found.model_dump_json(indent=2))
    if html is not None:
        write_page(render_speed(found), html)
    machine = found.machine
    say(f"{machine.device}; {machine.processor}; {machine.cores} cores, {machine.threads} threads of torch")
    say(f"load before: {machine.load:.1f} runnable processes")
    for table in TABLES:
        if rows := list(table.rows(found)):
            say(f"\n{table.title}")
            show(table.columns, rows)
    for path in filter(None, (json, html)):
        say(f"wrote {path}")


def line_counts(text: str | None) -> tuple[int, ...]:
    """Ascending, none where nothing was said. Raises `UserError` for what is no list of numbers from 1 up."""
    if text is None:
        return ()
    counts = sorted({*numbers_in(text, "numbers of lines", "1,16,64")})
    if counts[0] < 1:
        raise UserError(f"{counts[0]} lines have no images.", "Give numbers from 1 up to --lines.")
    return tuple(counts)


def require_baselines(names: Sequence[Baseline]) -> tuple[Baseline, ...]:
    """Each once. Raises `UserError` where anomalib is not installed."""
    if names and find_spec("anomalib") is None:
        raise UserError(f"{names[0]} is anomalib's.", install("baselines"))
    return tuple(dict.fromkeys(names))


def measured(
    plan: Plan, folder: Path | None, images: int, baselines: Sequence[Baseline], device: str, report: Progress
) -> SpeedResults:
    """Of the gauge in `folder`, or of one that is fitted to so many `images`."""
    line = ProceduralLine(MATERIAL, seed=0)
    pictures = [Picture(line.good(index).pixels, sha256="") for index in range(images)]
    settings = FitSettings(backbone=BackboneSpec(origin=Origin.NONE), config=_SHORTEST["featureflow"])
    gauge = fitted(pictures, settings, device, report) if folder is None else stored_in(folder, device)
    facts = gauge.manifest
    settings = settings.model_copy(update={"backbone": facts.backbone, "preprocessing": facts.preprocessing})
    forwards = {
        str(name): baseline_forward(name, pictures, settings, device, report)
        for name in reported(baselines, "baselines fitted", report)
    }

    def make(engine: str) -> Gauge:
        return on_engine(gauge, engine)

    return SpeedBenchmark(make, plan, device, perf_counter, facts.images, report, forwards).run()


def on_engine(gauge: Gauge, engine: str) -> Gauge:
    """`gauge`, which torch runs on its device, as one of `ENGINES` runs it: with every call as that of another line,
    with a detector of its own on the same backbone.
    """
    own = Gauge(gauge.manifest, gauge.backbone, deepcopy(gauge.detector), gauge.probes)
    made = compiled(own, chosen(Engine(engine), gauge.backbone.device.type), ENGINE_FOLDER)
    if made.refused:
        raise UserError(f"{engine} cannot stand in for torch here: {made.refused}.", "Leave this engine out.")
    return made.gauge


def fitted(pictures: Sequence[Picture], settings: FitSettings, device: str, report: Progress) -> Gauge:
    return fit(pictures, line="speed", settings=settings, at=datetime.now(UTC), device=device, progress=report)


def baseline_forward(
    name: Baseline, pictures: Sequence[Picture], settings: FitSettings, device: str, report: Progress
) -> Forward:
    """anomalib's model, fitted to `pictures` on the gauge's backbone; EfficientAd, which has its own, as it is.

    Raises `UserError` for a gauge whose crops are too small for EfficientAd.
    """
    from flowgauge.anomalib.detectors import efficient_ad, offer_all

    if name is Baseline.EFFICIENT_AD:
        if settings.preprocessing.size < _EFFICIENT_AD_SIDE:
            raise UserError(
                f"{name} takes images of {_EFFICIENT_AD_SIDE} pixels a side or more, and this gauge sees "
                f"{settings.preprocessing.size}.",
                "Leave it out, or give another gauge.",
            )
        return efficient_ad(device)
    offer_all()
    own = settings.model_copy(update={"detector": str(name), "config": _SHORTEST.get(name, {})})
    return forward_of(fitted(pictures, own, device, report))
