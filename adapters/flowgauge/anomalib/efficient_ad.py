"""anomalib's EfficientAd, for its speed alone: it reads pixels, so it is no detector on features of our backbone."""

import warnings

import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Importing from timm.models.layers is deprecated", FutureWarning)
    from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel

from flowgauge.evaluation.speed import Forward


def untrained(device: str) -> Forward:
    """Batzner et al., arXiv 2303.14535, the small one. Its random weights take as long as trained ones."""
    model = EfficientAdModel().to(device).eval()

    def forward(images_BCHW: Tensor) -> Tensor:
        with torch.inference_mode():
            scores: Tensor = model(images_BCHW.to(device)).pred_score
        return scores

    return forward
