"""`flowgauge check-data`: what is wrong with a data set, before a gauge is fitted to it and after."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowgauge.cli import options
from flowgauge.cli.evaluate import check_writable
from flowgauge.cli.output import as_json, emit, say, show
from flowgauge.cli.progress import bars
from flowgauge.domain.errors import UserError

if TYPE_CHECKING:
    from flowgauge.datachecks.examine import Examination
    from flowgauge.datachecks.issue import Check

_NAMED = 3  # images that the terminal names of each finding; JSON and the report name all


def check_data(
    dataset: Annotated[Path, typer.Argument(help="A data set in the MVTec AD layout, or a folder of good images.")],
    gauge: Annotated[
        Path | None,
        typer.Option(help="A snapshot's folder: examine what the gauge makes of the images.", metavar="DIR"),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            help="JSON: each image's path -> the part it shows. Judges the near duplicates found.", metavar="FILE"
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
    flowgauge check-data ./tiles --gauge ./plant/objects/lines/press-3/snapshots/fit-0a1b

    Duplicates and near duplicates across the split, images out of focus, of another size or light, suspects among the
    training images, orientations that training lacks, a background that gives the class away, too few parts for the
    threshold's promise. With a gauge: whether turned goods pass, and whether it rejects defects for where they are.
    A problem is told with its figures and its remedy; limits hold for the whole family of images, so that a clean set
    is told clean.
    """
    from flowgauge.cli.examination import document, examination

    check_writable(json if str(json) != "-" else None)
    if report is not None and (report.is_dir() or not report.parent.is_dir()):
        raise UserError(f"{report} is no place for a file.", "Give --report a file name in a folder that exists.")
    with bars() as progress:
        found = examination(dataset, gauge, groups, device, progress)
    if report is not None:
        from flowgauge.reports.diagnosis import write_diagnosis

        write_diagnosis(dataset.resolve().name, found, report)
    if json is not None and str(json) == "-":
        emit(document(dataset, found))
    else:
        if json is not None:
            json.write_text(as_json(document(dataset, found)))
        _tell(found)
    if strict and found.problems:
        raise typer.Exit(1)


def _tell(found: "Examination") -> None:
    show(("check", "outcome", "question"), ((check.name, _outcome(check), check.question) for check in found.checks))
    for finding in found.findings:
        say(f"\n{finding.level.upper()}: {finding.title}\n  {finding.seen}")
        for image in finding.images[:_NAMED]:
            beside = f" beside {image.beside}" if image.beside else ""
            say(f"  - {image.name}{beside}: {image.words}")
        if len(finding.images) > _NAMED:
            say(f"  - and {len(finding.images) - _NAMED} more (--json or --report names all)")
        say(f"  {finding.remedy}")
    if not found.problems:
        say("\nNo problem was found.")


def _outcome(check: "Check") -> str:
    if check.problems:
        return f"{len(check.problems)} found"
    return "skipped" if check.skipped else "noted" if check.findings else "fine"
