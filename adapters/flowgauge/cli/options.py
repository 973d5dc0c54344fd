"""Options that several commands share, so that they read alike everywhere."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flowgauge.domain.choices import Aspect, Engine


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Bits(StrEnum):
    """Of what cameras put into 16-bit files."""

    TEN = "10"
    TWELVE = "12"
    FOURTEEN = "14"
    SIXTEEN = "16"


def _show_detector_options(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Of `--detector` and `--set`, which are read before all others: whichever comes second answers `--set help`, so
    that it needs none of those that the command requires.
    """
    given = context.params | {str(parameter.name): value}
    if {"detector", "changes"} <= given.keys() and "help" in (given["changes"] or ()):
        # torch and every detector, which most commands that have options of this module do without
        from flowgauge.cli.model import show_options_of
        from flowgauge.models.registry import DEFAULT

        show_options_of(given["detector"] or DEFAULT)
        raise typer.Exit
    return value


Store = Annotated[
    str,
    typer.Option(
        envvar="FLOWGAUGE_STORE", help="Where lines, gauges and verdicts are kept: a directory, or s3://BUCKET."
    ),
]
Line = Annotated[str, typer.Option(help="The line: 1 to 64 letters, digits, dots, underscores or hyphens.")]
LineArgument = Annotated[str, typer.Argument(help="The line.")]
OnlyLine = Annotated[str | None, typer.Option(help="Only this line's.")]
DatasetArgument = Annotated[Path, typer.Argument(help="A data set in the MVTec AD layout.")]
DeviceOption = Annotated[
    Device, typer.Option("--device", envvar="FLOWGAUGE_DEVICE", help="Where the model runs; auto takes a GPU if any.")
]
EngineOption = Annotated[
    Engine,
    typer.Option(
        "--engine",
        envvar="FLOWGAUGE_ENGINE",
        help="What runs the model: torch is the reference; openvino (an extra) on CPUs and cudagraphs on NVIDIA GPUs"
        " are faster, and stand in for it where their scores of the gauge's own probe images agree. auto takes the"
        " fastest that is installed.",
    ),
]
Notify = Annotated[
    Path | None,
    typer.Option(
        "--notify",
        envvar="FLOWGAUGE_NOTIFY",
        metavar="FILE",
        help="Tell people of alerts by the routes in this TOML file; see flowgauge notify.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of a table.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print verdicts and alerts, one JSON object a line.")]
Batch = Annotated[int, typer.Option(min=1, help="Images that are scored together at most.")]

Detector = Annotated[
    str | None,
    typer.Option(
        help="featureflow (default), headflow, csflow, rad, glass, lamp or multidirectional.",
        is_eager=True,
        callback=_show_detector_options,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="An option of the detector's own, as its class names it: clamp=1.5, or synthesis.hypothesis=hypersphere;"
        " may be repeated. `help` lists them.",
        metavar="NAME=VALUE",
        show_default=False,
        is_eager=True,
        callback=_show_detector_options,
    ),
]
Refine = Annotated[
    bool,
    typer.Option(
        "--filter-outliers", help="Leave out images that look suspect: for images that nobody has called good."
    ),
]
FalseAlarms = Annotated[
    float | None,
    typer.Option(
        "--false-alarms",
        min=1e-4,
        max=0.49,
        help="Share of false alarms that the threshold promises on new good parts, such as 0.01. (0.05)",
        metavar="RATE",
        show_default=False,
    ),
]
Members = Annotated[
    int | None,
    typer.Option(
        "--ensemble",
        min=1,
        max=10,
        help="Of headflow: an ensemble of so many members, each trained without some parts: for images among which"
        " defects may be. 3 lose little where there are none; 5 hold best where one defect may be on many of the"
        " images. Fitting takes longer with each, scoring some 6 per cent.",
    ),
]
MetaInit = Annotated[
    str | None,
    typer.Option(
        help="Where the fit starts: at meta-learned parameters, of a file of flowgauge meta-train or, for featureflow"
        " and headflow, `shipped`; or at `random`. (featureflow with up to 16 images: shipped; else random)",
        metavar="FILE",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Backbone weights: a .safetensors or .pth file of a timm model. Its name begins with the model's, or"
        " --backbone names it.",
        metavar="FILE",
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="lite0 (default); lite1 or lite2, which come with the extra named backbones; convnext, wideresnet50,"
        " dinov2, dinov3 or any timm model, whose weights come from timm's hub or from --weights.",
        metavar="NAME",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        help="Of vision transformers: the blocks whose patch tokens are used, from 0, as 5,8,11. By default three of"
        " the second half.",
        metavar="N,N,...",
        show_default=False,
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        help="Side of the square that images are resampled to, in pixels (256): a multiple of 32. Twice the side takes"
        " four times as long, and shows defects of half the size. With --tiles, the side of each tile."
    ),
]
Tiles = Annotated[
    str | None,
    typer.Option(
        help="Cut images into overlapping tiles of --size pixels, as 2x2: the backbone sees each alone, the detector"
        " all of them as one. For small defects on large images where the backbone wants small ones: transformers.",
        metavar="ROWSxCOLUMNS",
        show_default=False,
    ),
]
AspectOption = Annotated[
    Aspect,
    typer.Option(
        "--aspect",
        help="How an image becomes a square: whole; padded; around the object, as large as it; or masked: around the"
        " object, all at one scale, the background black.",
    ),
]
BitsOption = Annotated[
    Bits | None,
    typer.Option(
        "--bits",
        help="How many bits the camera puts into 16-bit files. By default the smallest number that holds all values of"
        " the training images; fit prints it.",
        show_default=False,
    ),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        help="Folder of masks that cut the objects out: for each image one of the same path, white on the object.",
        metavar="DIR",
    ),
]
_FORM = 'The page "Your own images" has its form.'
Phases = Annotated[
    Path | None, typer.Option(help=f"JSON: which images fit, train and test, phase by phase. {_FORM}", metavar="FILE")
]
SplitsFile = typer.Option(
    help=f"JSON: which images train and which test, by seed and share of defects in training. {_FORM}",
    metavar="FILE",
    show_default=False,
)
Splits = Annotated[Path | None, SplitsFile]
Groups = Annotated[
    Path | None,
    typer.Option(
        help='JSON: {"IMAGE": "PART", ...} names the part that each image shows, by the path in the data set. Parts'
        " stay whole in folds.",
        metavar="FILE",
    ),
]
