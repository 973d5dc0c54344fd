"""Views of an image: the changes of light and geometry under which a good part stays good."""

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from flowgauge.domain.messages import FrozenModel
from flowgauge.vision.preprocessing import Preprocessing


class View(FrozenModel):
    """`apply` flips (left-right), then turns by quarter turns anticlockwise, then changes the light.

    On values v in [0, 1]: gain * (contrast * (v - mean) + mean) ** gamma, with the mean of each image, clipped to
    [0, 1].
    """

    turns: int = Field(0, ge=0, le=3)
    flip: bool = False
    gain: float = Field(1.0, gt=0)
    contrast: float = Field(1.0, gt=0)
    gamma: float = Field(1.0, gt=0)

    def apply(self, images_BCHW: Tensor) -> Tensor:
        moved = self.move(images_BCHW)
        if (self.gain, self.contrast, self.gamma) == (1.0, 1.0, 1.0):
            return moved
        mean = moved.mean(dim=(1, 2, 3), keepdim=True)
        stretched = (self.contrast * (moved - mean) + mean).clamp(0, 1)
        return (self.gain * stretched**self.gamma).clamp(0, 1)

    def move(self, images: Tensor) -> Tensor:
        """Flip and turn (..., H, W) alone: maps as well as images."""
        flipped = images.flip(-1) if self.flip else images
        return torch.rot90(flipped, self.turns, dims=(-2, -1))

    def undo(self, maps_BHW: Tensor) -> Tensor:
        """Put a map that was made of this view back in the place of the plain image."""
        turned = torch.rot90(maps_BHW, -self.turns, dims=(-2, -1))
        return turned.flip(-1) if self.flip else turned


PLAIN = View()


def normalised(preprocessing: Preprocessing, crops_BHWC: NDArray[np.uint8], view: View = PLAIN) -> Tensor:
    """The view of (B, size, size, 3) crops as (B, 3, size, size) float32, normalised as the backbone was trained."""
    images = torch.from_numpy(np.ascontiguousarray(crops_BHWC)).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (view.apply(images) - mean) / std
