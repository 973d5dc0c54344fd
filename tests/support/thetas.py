"""Meta-learned parameters with a card."""

from torch import Tensor

from flowgauge.meta.initialization import Card, Theta
from flowgauge.meta.settings import MetaTraining
from flowgauge.models.backbones import BackboneSpec


def theta_of(parameters: dict[str, Tensor], backbone_sha256: str = "") -> Theta:
    card = Card(
        detector="headflow",
        config={},
        backbone=BackboneSpec(sha256=backbone_sha256),
        size=64,
        lines=("line 0", "line 1"),
        training=MetaTraining(),
        guide_loss=0.5,
        flow_loss=1.0,
        seconds=1.0,
        software="flowgauge",
    )
    return Theta(card, parameters)
