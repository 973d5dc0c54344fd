"""anomalib's PatchCore, PaDiM and FastFlow as detectors: fitted, judged, timed and stored as ours are.

Their GLASS is not among them: it paints defects on its training images anew at every step and runs a backbone over
them, so features that were taken beforehand cannot train it unless its training is written again.
"""

from flowgauge.anomalib.fastflow import Fastflow, FastflowConfig
from flowgauge.anomalib.padim import Padim, PadimConfig
from flowgauge.anomalib.patchcore import Patchcore, PatchcoreConfig
from flowgauge.models.registry import offer


def offer_all() -> None:
    """Make them known by name in this process."""
    offer(Patchcore, PatchcoreConfig)
    offer(Padim, PadimConfig)
    offer(Fastflow, FastflowConfig)
