"""What the inner loop can adapt: a detector whose likelihood is a flow's."""

from abc import abstractmethod

from torch import Tensor, nn

from flowgauge.domain.errors import UserError
from flowgauge.models.detector import Detector, Embedding
from flowgauge.models.flows.flow import Flow

FLOW = "flow."
"""How names of a flow's parameters begin among what is meta-learned."""


class Adaptable(Detector):
    """A density of good images. An adaptation changes the parameters of its `flow` and its `heads`, and no others."""

    flow: Flow

    @abstractmethod
    def tokens(self, embedding: Embedding) -> Tensor:
        """What the flow sees: (B, T, D)."""

    @abstractmethod
    def image_scores(self, token_scores_BT: Tensor, embedding: Embedding) -> Tensor:
        """(B,) from the flow's token scores, (B, T) or (B, T, K), and whatever else the detector weighs."""

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """What a change of the line may be trained to beside the flow, by synthetic anomalies: none, by default."""
        return ()

    def rescale(self, embedding: Embedding) -> None:
        """Take the tokens' scale anew from good images, after heads have moved. Nothing, by default."""

    def realign(self, embedding: Embedding) -> None:
        """Move what stands still in statistics, not in parameters, to where the line's recent images are. Robust to
        defects among them while they are fewer than half. Nothing, by default.
        """

    def nll(self, embedding: Embedding) -> Tensor:
        """(B, T) in nats per dimension."""
        x_BTD = self.tokens(embedding)
        return self.flow.nll(x_BTD.flatten(0, 1)).view(x_BTD.shape[:2])


class Ensemble(Adaptable):
    """M members, each fitted to the images of all folds but its own; `flow` is the product of all members' flows.

    An adaptation divides the buffered images in the same way. So each image has a score by a member that it did not
    train, and these out-of-fold scores set the scales and the threshold, as in a first fit (CV+, arXiv 1905.02928).
    """

    member_count: int
    """M."""

    @abstractmethod
    def member_flow(self, member: int) -> Flow:
        """The flow of one member, counted from 0: its parameters are those of `flow`."""

    @abstractmethod
    def member_tokens(self, member: int, embedding: Embedding) -> Tensor:
        """What that flow sees: (B, T, D)."""

    @abstractmethod
    def realign_member(self, member: int, embedding: Embedding, images: int) -> None:
        """Move what stands still in one member's statistics, not in parameters, to where so many recent images of the
        line are, by one view or several of each. A fifth of them may be defective.
        """

    @abstractmethod
    def calibrate(self, token_scores_NTK: Tensor, embedding: Embedding) -> None:
        """Take the scales of scores and maps from good images and their out-of-fold token scores."""

    @abstractmethod
    def maps(self, token_scores_BTK: Tensor) -> Tensor:
        """Anomaly maps (B, h, w) from the token scores under one member's flow."""


def require_adaptable(detector: Detector) -> Adaptable:
    """Raises `UserError` for a detector that only `fit` can train."""
    if not isinstance(detector, Adaptable):
        raise UserError(
            f"The detector {detector.name} cannot be adapted: it has no likelihood that could be moved.",
            "Fit the line anew, or choose a detector with a flow: featureflow, headflow, csflow or rad.",
        )
    return detector
