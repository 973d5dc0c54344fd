"""Engines: what runs a gauge's networks. Torch in single precision is the reference; others have to agree with it.

A compiled gauge is a gauge whose backbone and detector are replaced by compiled ones of the same inputs and outputs.
The backbone is frozen and may be rounded to bfloat16; the detector's likelihoods are sums over thousands of terms, so
it stays in single precision. Whether that is near enough is measured on the snapshot's own probe images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from flowgauge.domain.choices import Engine
from flowgauge.domain.errors import SettingsError, install
from flowgauge.models.detector import Detector, Scores
from flowgauge.training.gauge import Gauge, decide_by_score, score_by_each

# The most by which a compiled gauge's score of a probe image may differ, as a share of the distance from the median
# good score to the threshold: a tenth of the usual review band's width. With more, decisions near the threshold depend
# on the machine; with less, bfloat16 is refused on lines where it decides nothing.
TOLERANCE = 0.02


Network = Callable[..., Sequence[Tensor]]
"""What stands in for `Scoring`."""


class Scoring(nn.Module):
    """A detector's features of all levels to image score and map, which are tensors as engines want them."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.detector.score(features)
        return scores.image, scores.maps


@dataclass(frozen=True)
class Compiled:
    """`gauge` runs on `engine`; `refused` says why not on the one that was asked for, "" where it does."""

    gauge: Gauge
    engine: Engine
    refused: str = ""


def chosen(engine: Engine, device: str) -> Engine:
    """The engine to use on `cpu` or `cuda`; `auto` takes the fastest that is installed.

    Raises `SettingsError` for one that is not installed, or that is of another device.
    """
    openvino = device == "cpu" and find_spec("openvino") is not None
    if engine is Engine.AUTO:
        return Engine.CUDAGRAPHS if device == "cuda" else Engine.OPENVINO if openvino else Engine.TORCH
    if engine is Engine.CUDAGRAPHS and device != "cuda":
        raise SettingsError("The engine cudagraphs needs a GPU.", "Use --device cuda, or another engine.")
    if engine is Engine.OPENVINO and device != "cpu":
        raise SettingsError("The engine openvino runs on the CPU.", "Use --device cpu, or another engine.")
    if engine is Engine.OPENVINO and not openvino:
        raise SettingsError("OpenVINO is not installed.", install("openvino"))
    return engine


def compiled(gauge: Gauge, engine: Engine, folder: Path | None = None) -> Compiled:
    """`gauge` on `engine`, which `chosen` gave; on torch, with the reason, where that cannot take it or disagrees.

    Compiled networks are kept in `folder` and taken from there the next time.
    """
    if engine is Engine.TORCH:
        return Compiled(gauge, engine)
    if engine is Engine.OPENVINO:
        from flowgauge.engines.openvino import variants  # an extra's library, and seconds to load
    else:
        from flowgauge.engines.cudagraphs import variants
    refused = ""
    try:
        network, backbones = variants(gauge, folder)
        for backbone in backbones:
            candidate = gauge.running_on(backbone, lambda features: Scores(*network(*features)))
            refused = disagreement(gauge, candidate)
            if not refused:
                return Compiled(candidate, engine)
    # whatever a compiler raises for an operation that it does not know: the reference runs, and the reason is told
    except RuntimeError as error:
        refused = f"{engine} cannot run {gauge.detector_name}: {str(error).strip().splitlines()[0]}"
    return Compiled(gauge, Engine.TORCH, refused)


def disagreement(reference: Gauge, candidate: Gauge) -> str:
    """Why `candidate` must not stand in for `reference`; "" where their scores of the probe images agree."""
    facts = reference.manifest
    ours, theirs = score_by_each([reference, candidate], reference.probes)
    unit = max(abs(facts.threshold.value - facts.calibration.median), 1e-9)
    worst = float(np.abs(ours - theirs).max()) / unit
    if not worst <= TOLERANCE:  # also where a score is no number
        return f"scores differ by {worst:.2g} of the way from the median to the threshold, where {TOLERANCE} is allowed"
    pairs = zip(ours, theirs, strict=True)
    if any(decide_by_score(facts.threshold, a)[0] is not decide_by_score(facts.threshold, b)[0] for a, b in pairs):
        return "decisions on the snapshot's probe images differ"
    return ""
