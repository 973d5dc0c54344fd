"""The peers by the names under which a process that asks for them can make them."""

from adapters.anomalib.fastflow import Fastflow, FastflowConfig
from adapters.anomalib.padim import Padim, PadimConfig
from adapters.anomalib.patchcore import Patchcore, PatchcoreConfig
from core.detectors.registry import offer


def offer_all() -> None:
    offer(Patchcore, PatchcoreConfig)
    offer(Padim, PadimConfig)
    offer(Fastflow, FastflowConfig)
