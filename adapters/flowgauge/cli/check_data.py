"""`flowgauge check-data`: what is wrong with a data set, before a gauge is fitted to it and after."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from flowgauge.cli import options
from flowgauge.cli.features import opened
from flowgauge.cli.model import stored_in, torch_device
from flowgauge.cli.output import as_json, emit, say, show, warn
from flowgauge.cli.progress import bars
from flowgauge.cli.results import check_writable
from flowgauge.datachecks.examine import Examination, examine
from flowgauge.domain.progress import Progress
from flowgauge.evaluation.datasets import Sample, sift
from flowgauge.evaluation.splits import read_groups
from flowgauge.reports.diagnosis import render
from flowgauge.reports.pages import write_page
from flowgauge.training.fit import FitSettings, embedder_for
from flowgauge.vision.decoding import SixteenBit
from flowgauge.vision.preprocessing import sixteen_bit_rule

SCHEMA = 1
# images that the terminal names of each issue: more push earlier issues off the screen; JSON and the report name all
NAMED = 3


def check_data(
    dataset: Annotated[Path, typer.Argument(help="A data set in the MVTec AD layout, or a folder of good images.")],
    gauge: Annotated[
        Path | None,
        typer.Option(help="A snapshot's folder: examine what the gauge makes of the images.", metavar="DIR"),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            help='JSON: {"IMAGE": "PART", ...} names the part that each image shows, by the path in the data set. The'
            " near duplicates found are compared with it.",
            metavar="FILE",
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with pictures there.", metavar="FILE")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write all findings there; - is stdout.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where a problem was found.")] = False,
    device: options.DeviceOption = options.Device.AUTO,
) -> None:
    """Look for what makes figures on a data set mislead, or a gauge fail.

    \b
    flowgauge check-data ./mvtec/bottle --report check.html
    flowgauge check-data ./tiles --groups groups.json --json check.json
    flowgauge check-data ./tiles --gauge ./plant/objects/snapshots/press-3/fit-0a1b

    Duplicates and near duplicates across the split, images out of focus, of another size or light, suspects among the
    training images, orientations that training lacks, a background that gives the class away, too few parts for the
    threshold's promise. With a gauge: whether rotated good parts pass, and whether it rejects defects because of
    the background. Each problem is reported with its figures and a remedy. Limits are corrected for the number of
    images, so a clean data set reports no problem.
    """
    printed = str(json) == "-"
    check_writable(None if printed else json)
    check_writable(report, option="--report")
    with bars() as progress:
        found = examination(dataset, gauge, groups, device, progress)
    if report is not None:
        write_page(render(dataset.resolve().name, found), report)
    if printed:
        emit(document(dataset, found))
    else:
        if json is not None:
            json.write_text(as_json(document(dataset, found)))
        print_issues(found)
    if strict and found.problems:
        raise typer.Exit(1)


def examination(
    dataset: Path, gauge: Path | None, groups: Path | None, device: options.Device, report: Progress
) -> Examination:
    """Raises `DatasetError` for what cannot be examined, `SnapshotInvalid` for a gauge that must not be loaded."""
    where = torch_device(device)
    found = opened(dataset)
    known = None if groups is None else read_groups(groups)
    fitted = None if gauge is None else stored_in(gauge, where)
    embedder = embedder_for(FitSettings(), where)
    if fitted is not None:
        rule = fitted.manifest.preprocessing.sixteen_bit
    else:
        # as `fit` would guess it
        rule = sixteen_bit_rule(sample.picture for sample in sift(found.train) if isinstance(sample, Sample))
        if rule is not SixteenBit.FULL_RANGE:
            warn(f"16-bit files are read as {rule}, 0 to {rule.white}, which holds all values of the training images.")
    preprocessing = embedder.preprocessing.model_copy(update={"sixteen_bit": rule})
    return examine(found, replace(embedder, preprocessing=preprocessing), fitted, known, report)


def document(dataset: Path, found: Examination) -> dict[str, Any]:
    """`problems` counts findings that are more than notes; each check has its figures whether it found anything."""
    seen = found.seen
    return {
        "schema_version": SCHEMA,
        "dataset": dataset.resolve().name,
        "images": {
            "train": seen.trained,
            "test_good": int((~seen.train & seen.good).sum()),
            "test_defect": int((~seen.good).sum()),
            "unreadable": len(seen.unreadable),
        },
        "problems": len(found.problems),
        "checks": found.checks,
    }


def print_issues(found: Examination) -> None:
    """A row per check, and each issue with its first images and its remedy."""
    rows = []
    for check in found.checks:
        outcome = "skipped" if check.skipped else "noted" if check.findings else "fine"
        rows.append((check.name, f"{len(check.problems)} found" if check.problems else outcome, check.question))
    show(("check", "outcome", "question"), rows)
    for finding in found.findings:
        say(f"\n{finding.level.upper()}: {finding.title}\n  {finding.seen}")
        for image in finding.images[:NAMED]:
            beside = f" beside {image.beside}" if image.beside else ""
            say(f"  - {image.name}{beside}: {image.words}")
        if len(finding.images) > NAMED:
            say(f"  - and {len(finding.images) - NAMED} more (--json or --report names all)")
        say(f"  {finding.remedy}")
    if not found.problems:
        say("\nNo problem was found.")
