"""Meta-learned parameters with a card."""

from torch import Tensor

from core.backbones import BackboneSpec
from core.meta.settings import MetaTraining
from core.meta.theta import Card, Theta


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
