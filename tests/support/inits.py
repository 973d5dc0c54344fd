"""Meta-learned parameters with a card."""

from torch import Tensor

from flowgauge.meta.initialization import Card, MetaInit
from flowgauge.meta.outer_loop import MetaTraining
from flowgauge.models.backbones import BackboneSpec


def init_of(parameters: dict[str, Tensor], backbone_sha256: str = "", detector: str = "headflow") -> MetaInit:
    card = Card(
        detector=detector,
        config={},
        backbone=BackboneSpec(sha256=backbone_sha256),
        size=64,
        lines=("line 0", "line 1"),
        training=MetaTraining(),
        head_loss=0.5,
        flow_loss=1.0,
        seconds=1.0,
        software="flowgauge",
    )
    return MetaInit(card, parameters)
