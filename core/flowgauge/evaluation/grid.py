"""The grid on which pixel metrics are taken: images of many sizes count alike, and figures compare with others' at 256.

Anomaly maps go up bilinearly, masks go down by nearest neighbour (a grid point is defective if the image is, there).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowgauge.evaluation.metrics import Mask

GRID = (256, 256)


def map_on_grid(anomaly_map: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """(h, w) -> `GRID`, sampled at pixel centres."""
    image = Image.fromarray(np.ascontiguousarray(anomaly_map, dtype=np.float32))
    return np.asarray(image.resize(GRID, Image.Resampling.BILINEAR))


def mask_on_grid(mask: Mask) -> Mask:
    """(H, W) -> `GRID`. A defect that is thinner than a step of the grid may vanish."""
    return np.asarray(Image.fromarray(mask).resize(GRID, Image.Resampling.NEAREST))
