"""`flowgauge benchmark`: what methods and their components are worth on a data set. One module a command."""

import typer

from flowgauge.cli.commands import lazy_group

COMMANDS = {
    "contamination": "Fit at rising shares of defects among the images that train, and test.",
    "drift": "Follow a line that changes: without adapting, adapting, fitting anew.",
    "poisoning": "Feed a worn tool's mark into the buffers at rising rates, and adapt.",
    "leave-one-class-out": "Leave out each class of defects, label a few of the others, and test on it.",
    "loss-amplification": "Does amplifying a reconstruction loss find more? Base against amplified.",
    "detectors": "Compare detectors on the same images: which method holds on this line?",
    "suite": "Compare detectors over several data sets: the table that decides on a change.",
    "speed": "Measure a gauge's speed on this machine, stage by stage, beside the machine's own limits.",
}

benchmark = typer.Typer(cls=lazy_group(__name__, COMMANDS, {"poisoning": "drift"}), no_args_is_help=True)
