"""`flowgauge benchmark`: what methods and their components are worth on a data set. One module a command."""

import typer

from flowgauge.cli.commands import Listed, lazy_group

HERE = "flowgauge.cli.benchmark"
COMMANDS = {
    "contamination": Listed(
        f"{HERE}.contamination:contamination",
        "Fit at rising shares of defects among the images that train, and test.",
    ),
    "drift": Listed(f"{HERE}.drift:drift", "Follow a line that changes: without adapting, adapting, fitting anew."),
    "poisoning": Listed(
        f"{HERE}.drift:poisoning", "Feed a worn tool's mark into the buffers at rising rates, and adapt."
    ),
    "leave-one-class-out": Listed(
        f"{HERE}.leave_one_class_out:leave_one_class_out",
        "Leave out each class of defects, label a few of the others, and test on it.",
    ),
    "loss-amplification": Listed(
        f"{HERE}.loss_amplification:loss_amplification",
        "Does amplifying a reconstruction loss find more? Base against amplified.",
    ),
    "detectors": Listed(
        f"{HERE}.detectors:detectors", "Compare detectors on the same images: which method holds on this line?"
    ),
    "suite": Listed(
        f"{HERE}.suite:suite", "Compare detectors over several data sets: the table that decides on a change."
    ),
    "speed": Listed(
        f"{HERE}.speed:speed",
        "Measure a gauge's speed on this machine, stage by stage, beside the machine's own limits.",
    ),
}

benchmark = typer.Typer(
    cls=lazy_group(COMMANDS), no_args_is_help=True, help="What methods and their components are worth on a data set."
)
