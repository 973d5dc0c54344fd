"""`flowgauge benchmark`: what methods and their ingredients are worth on a data set."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowgauge.cli import options
from flowgauge.cli.benchmark_suite import suite
from flowgauge.cli.evaluate import check_writable, seeds_of
from flowgauge.cli.output import as_json, emit, say, show, write_whole
from flowgauge.cli.progress import bars
from flowgauge.domain.errors import UserError

if TYPE_CHECKING:
    from flowgauge.evaluation.comparison import Ranking, Spread

Cache = Annotated[
    Path | None,
    typer.Option(help="Folder for features, some 1 MB an image. ~/.cache/flowgauge by default.", show_default=False),
]

benchmark = typer.Typer(no_args_is_help=True, help="What methods and their ingredients are worth on a data set.")


@benchmark.command("contamination")
def noise(
    dataset: Annotated[Path, typer.Argument(help="A data set in the MVTec AD layout.")],
    splits: Annotated[
        Path, typer.Option(help="JSON: which images train and judge, by seed and noise.", metavar="FILE")
    ],
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="full, wide-ensemble, no-ensemble, no-meta, one-sided, iqr, replay, plain, clean-oracle, patchcore or"
            " padim; may be repeated (full and plain)."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="One seed, or several: 0,1,2.")] = "0,1,2",
    detector: options.Detector = None,
    weights: options.Weights = None,
    backbone: options.Backbone = None,
    layers: options.Layers = None,
    size: options.Size = None,
    tiles: options.Tiles = None,
    aspect: options.AspectOption = options.Aspect.SQUASH,
    masks: options.Masks = None,
    groups: options.Groups = None,
    init: Annotated[
        str,
        typer.Option(help="Meta-learned parameters: a file of flowgauge meta-train, or `shipped`.", metavar="FILE"),
    ] = "shipped",
    cache: Cache = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the figures there, after every fit; a second run goes on.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw AUROC against contamination there, as an SVG.")] = None,
) -> None:
    """Fit at rising shares of defects among the images that train, and judge.

    \b
    flowgauge benchmark contamination ./tiles --splits noise_splits.json \\
        --groups groups.json --variant full --variant plain \\
        --json noise.json --plot noise.svg

    full trains an ensemble, each member without one fold of the parts, and
    starts from meta-learned parameters (flowgauge meta-train); all images
    train. wide-ensemble has five members, each without two fifths of the
    parts; no-ensemble and no-meta do without one of the two. one-sided and
    iqr leave out images by cross-fitted scores. plain does nothing of all
    this, replay shows half of the images again as far as an earlier detector
    accepted them, and clean-oracle leaves out what is mislabelled, which only
    a benchmark knows. patchcore and padim are baselines, anomalib's own, on
    the same features and images; they come with the extra named baselines.

    The detector is headflow unless --detector names another one, for the
    ensemble and the meta-learned start are its own. Features are read once
    and cached. Paintings are drawn once for the whole data set, so figures
    differ a little from those of flowgauge evaluate.
    """
    from flowgauge.cli.benchmark_data import BenchmarkData
    from flowgauge.cli.contamination import Benchmark, variants_of
    from flowgauge.cli.model import Model
    from flowgauge.reports.curves import curves_svg

    for path in (json, plot):
        check_writable(path)
    if plot is not None and plot.suffix != ".svg":
        raise UserError(f"{plot} is no SVG.", "Give --plot a name that ends in .svg.")
    chosen = variants_of(variant or ["full", "plain"])
    model = Model(detector or "headflow", weights, backbone, size, aspect, layers=layers, tiles=tiles)
    with bars() as report:
        data = BenchmarkData(dataset, splits, groups, masks, model, device, cache, report)
        found = Benchmark(data, init).run(chosen, seeds_of(seeds), json)
    if plot is not None:
        plot.write_text(curves_svg(found.curves))
    if json is None and plot is None:
        emit(found.document())
        return
    show(
        ("variant", "noise", "image_auroc", "deviation", "seeds"),
        (
            (curve.variant.value, point.noise, point.image_auroc_mean, point.image_auroc_std, len(point.seeds))
            for curve in found.curves
            for point in curve.curve
        ),
    )
    for path in (json, plot):
        if path is not None:
            say(f"wrote {path}")


ChangeOption = Annotated[
    str, typer.Option("--change", help="What the procedural line drifts in: light, contrast, focus or texture.")
]
Material = Annotated[str, typer.Option(help="What the procedural line makes: brushed-metal, ceramic-tile and others.")]
Seeds = Annotated[str, typer.Option(help="One seed, or several: 0,1,2.")]
Out = Annotated[
    Path | None, typer.Option("--json", help="Write the figures there, after every seed; a second run goes on.")
]


@benchmark.command("drift")
def drift(
    dataset: Annotated[
        Path | None,
        typer.Argument(help="Real images: a data set, or the folder that --phases refers to.", show_default=False),
    ] = None,
    phases: Annotated[
        Path | None, typer.Option(help="JSON: which images fit, train and judge, phase by phase.", metavar="FILE")
    ] = None,
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
        typer.Option(help="How to adapt: full, no-head, no-l2, no-rejection, iqr or replay; may be repeated (full)."),
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit/--no-refit", help="Fit anew to every buffer too, which takes most of the time.")
    ] = True,
    seeds: Seeds = "0,1,2",
    detector: options.Detector = None,
    members: options.Members = None,
    weights: options.Weights = None,
    size: options.Size = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Out = None,
) -> None:
    """Follow a line that changes: without adapting, adapting, fitting anew.

    \b
    flowgauge benchmark drift --change contrast --json contrast.json
    flowgauge benchmark drift ./screws --json screws.json
    flowgauge benchmark drift ./tiles --phases drift_phases.json \\
        --groups groups.json --json tiles.json

    Three sources: a procedural line; a data set in the MVTec AD layout, whose
    images are changed; real images in the phases of a file.

    In each phase a buffer, a fifth of it defects that nobody points out, and
    other images that judge. frozen is the first gauge, adapted the candidate
    made from the buffer, in-use the last candidate that the gate accepted,
    refitted a gauge fitted to the buffer alone. seconds are what it took.

    --variant leaves an ingredient of adapting out: no-head (only the flow
    moves), no-l2 (no pull to the anchor), no-rejection; or changes it: iqr
    finds images suspect by the other rule, replay shows the first gauge's
    images again.
    """
    from flowgauge.cli.drift import Benchmarks, Changed, Procedural, Recorded, Source
    from flowgauge.cli.model import Model
    from flowgauge.evaluation.ablations import Ablation
    from flowgauge.synthetic.procedural import Change

    if dataset is None and phases is not None:
        raise UserError("--phases needs the folder of its images.", "Give it, or neither for a procedural line.")
    check_writable(json)
    source: Source = Procedural(material, Change(_one_of(change or "light", Change)), recurring)
    if dataset is not None and phases is not None:
        source = Recorded(dataset, phases, groups)
    elif dataset is not None:
        source = Changed(dataset, groups, tuple(Change) if change is None else [Change(_one_of(change, Change))])
    variants = [Ablation(_one_of(name, Ablation)) for name in dict.fromkeys(variant or ["full"])]
    model = Model(detector, weights, None, size, options.Aspect.SQUASH, members=members)
    with bars() as report:
        benchmarks = Benchmarks(model, device, report)
        found = benchmarks.drift(source, variants, seeds_of(seeds), json, refit=refit)
    columns = (
        "phase",
        "way",
        "variant",
        "false_alarms",
        "misses",
        "image_auroc",
        "image_auroc_std",
        "seconds",
        "refused",
    )
    _conclude(found, json, columns, found["summary"])


@benchmark.command("poisoning")
def poisoning(
    material: Material = "brushed-metal",
    change: ChangeOption = "light",
    rounds: Annotated[int, typer.Option(min=2, help="Adaptations in a row.")] = 20,
    highest: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the last buffer that is poisoned.")] = 0.3,
    seeds: Seeds = "0,1,2",
    detector: options.Detector = None,
    members: options.Members = None,
    weights: options.Weights = None,
    size: options.Size = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Out = None,
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
    from flowgauge.cli.drift import Benchmarks, Procedural
    from flowgauge.cli.model import Model
    from flowgauge.synthetic.procedural import Change

    check_writable(json)
    source = Procedural(material, Change(_one_of(change, Change)))
    model = Model(detector, weights, None, size, options.Aspect.SQUASH, members=members)
    with bars() as report:
        found = Benchmarks(model, device, report).poisoning(source, rounds, highest, seeds_of(seeds), json)
    columns = ("seed", "round", "share", "caught", "first_caught", "others_caught", "first_others_caught")
    _conclude(found, json, (*columns, "false_alarms", "refusals"), found["lines"])


@benchmark.command("leave-one-class-out")
def left_out(
    dataset: Annotated[Path, typer.Argument(help="A data set in the MVTec AD layout.")],
    splits: Annotated[Path, typer.Option(help="JSON: which images train and judge, by seed.", metavar="FILE")],
    labels: Annotated[int, typer.Option(min=1, help="Labelled defects of the other classes.")] = 10,
    seeds: Seeds = "0,1,2",
    weights: options.Weights = None,
    backbone: options.Backbone = None,
    layers: options.Layers = None,
    size: options.Size = None,
    tiles: options.Tiles = None,
    aspect: options.AspectOption = options.Aspect.SQUASH,
    masks: options.Masks = None,
    groups: options.Groups = None,
    cache: Cache = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Out = None,
) -> None:
    """Leave out each class of defects, label a few of the others, and judge it.

    \b
    flowgauge benchmark leave-one-class-out ./tiles --splits splits.json \\
        --groups groups.json --json unseen.json

    What labels are worth to the detector multidirectional on defects of a
    class that nobody has labelled, against the same detector on the same
    features without labels. overlap says how much the places where the
    unseen class stands out resemble those of the labelled ones.
    """
    from flowgauge.cli.benchmark_data import BenchmarkData
    from flowgauge.cli.leave_one_class_out import LeaveOneClassOut
    from flowgauge.cli.model import Model

    check_writable(json)
    model = Model("multidirectional", weights, backbone, size, aspect, layers=layers, tiles=tiles)
    with bars() as report:
        work = LeaveOneClassOut(BenchmarkData(dataset, splits, groups, masks, model, device, cache, report), labels)
        left = work.run(seeds_of(seeds), json)
    if json is None:
        emit(work.document(left))
        return
    write_whole(json, as_json(work.document(left)))
    show(("class", "without labels", "with labels", "gain", "overlap"), left.rows)
    for sentence in left.sentences():
        say(sentence)
    say(f"wrote {json}")


@benchmark.command("loss-amplification")
def lamp(
    dataset: Annotated[
        Path | None, typer.Argument(help="Large images too: a data set in the MVTec AD layout.", show_default=False)
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="JSON: which of them train and judge, by seed.", metavar="FILE")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the optimiser in each fit to digits.")] = 150,
    seeds: Seeds = "0,1,2",
    size: options.Size = None,
    aspect: options.AspectOption = options.Aspect.SQUASH,
    masks: options.Masks = None,
    groups: options.Groups = None,
    cache: Cache = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Out = None,
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
    from flowgauge.cli.benchmark_data import BenchmarkData
    from flowgauge.cli.loss_amplification import Amplification, rows_of
    from flowgauge.cli.model import Model
    from flowgauge.evaluation.loss_amplification import OneClassDigits, comparisons

    check_writable(json)
    if (dataset is None) != (splits is None):
        raise UserError("Large images need both a folder and --splits.", "Give both, or neither for digits alone.")
    with bars() as report:
        data = None
        if dataset is not None and splits is not None:
            model = Model("lamp", None, None, size, aspect)
            data = BenchmarkData(dataset, splits, groups, masks, model, device, cache, report)
        work = Amplification(data, OneClassDigits(steps), report)
        cells = work.run(seeds_of(seeds), json)
    if json is None:
        emit(work.document(cells))
        return
    show(("images", "loss", "optimiser", "base", "amplified", "gain", "higher"), rows_of(comparisons(cells)))
    say(f"wrote {json}")


@benchmark.command("detectors")
def detectors(
    dataset: Annotated[Path, typer.Argument(help="A data set in the MVTec AD layout.")],
    detector: Annotated[
        list[str] | None,
        typer.Option(
            help="One to compare; may be repeated. All that learn from good images alone, and patchcore, padim and"
            " fastflow where anomalib is installed.",
            show_default=False,
        ),
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="JSON: which images train and which judge, by seed.", metavar="FILE")
    ] = None,
    seeds: Annotated[str, typer.Option(help="One seed, or several: 0,1,2.")] = "0",
    weights: options.Weights = None,
    backbone: options.Backbone = None,
    layers: options.Layers = None,
    size: options.Size = None,
    tiles: options.Tiles = None,
    aspect: options.AspectOption = options.Aspect.SQUASH,
    masks: options.Masks = None,
    groups: options.Groups = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many images in training, and of each kind in the test.")
    ] = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the figures there, after every fit; a second run goes on.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page there: figures, ROC curves, heatmaps.")] = None,
) -> None:
    """Compare detectors on the same images: which method holds on this line?

    \b
    flowgauge benchmark detectors ./mvtec/bottle --html bottle.html
    flowgauge benchmark detectors ./tiles --splits splits.json \\
        --groups groups.json --seeds 0,1,2 --json tiles.json --html tiles.html

    Each is fitted and judged in a process of its own: accuracy of images and
    places, by class too; misses and false alarms at its own threshold; seconds
    to fit, images a second, memory, and the size of its snapshot. Baselines are
    anomalib's, on the same backbone; they come with the extra named baselines.
    """
    from flowgauge.cli.detector_comparison import DetectorComparison, entrants_of
    from flowgauge.cli.model import Model
    from flowgauge.reports.comparison import write_comparison

    for path in (json, html):
        check_writable(path)
    models = tuple(
        Model(name, weights, backbone, size, aspect, layers=layers, tiles=tiles) for name in entrants_of(detector or [])
    )
    with bars() as report:
        run_of = DetectorComparison(dataset, splits, groups, masks, models, device, limit, report)
        found = run_of.run(seeds_of(seeds), json)
    if html is not None:
        write_comparison(run_of.name, found.entrants, html)
    if json is None and html is None:
        emit(found.document(run_of.name))
        return
    columns = ("image_auroc", "pixel_auroc", "aupro", "fit_seconds", "images_per_second", "peak_mib", "snapshot_mib")
    show(
        ("detector", *columns),
        ((s.detector, *(spread and spread.mean for spread in _spreads(s, columns))) for s in found.standings),
    )
    for path in (json, html):
        if path is not None:
            say(f"wrote {path}")


benchmark.command("suite")(suite)


def _spreads(ranking: "Ranking", columns: Sequence[str]) -> list["Spread | None"]:
    return [getattr(ranking, column) for column in columns]


def _one_of(name: str, choices: type[StrEnum]) -> str:
    if name not in set(choices):
        raise UserError(f"{name!r} is none of them.", f"Use one of: {', '.join(choices)}.")
    return name


def _conclude(
    found: Mapping[str, Any], json: Path | None, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """The whole on stdout for scripts; or a table for people, with the whole in a file."""
    if json is None:
        emit(found)
        return
    show(columns, ([_words(row[column]) for column in columns] for row in rows))
    say(f"wrote {json}")


def _words(value: object) -> object:
    return "; ".join(value) or "-" if isinstance(value, list) else value
