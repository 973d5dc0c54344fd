"""Anomaly maps for people: a heatmap over the dimmed image, and boxes around what stands out."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from flowgauge.domain.messages import Region
from flowgauge.vision.decoding import Picture

LONGEST_SIDE = 512
MOST_REGIONS = 10

# shares of the ceiling at which the table below holds; beyond the last, its colour stays
_STOPS = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 2.0], np.float32)
# purple to pale yellow: lightness rises throughout, so the order also shows in gray and to colour-blind eyes
_COLOURS = np.array(
    [(40, 20, 90), (110, 30, 130), (190, 50, 110), (240, 110, 60), (255, 190, 40), (255, 255, 190)], np.float32
)
# never opaque: a person must see what lies under the colour
_OPACITY = np.array([0.0, 0.12, 0.3, 0.45, 0.55, 0.65], np.float32)
# a cyan that occurs nowhere in the table, bright on every colour of it
_CONTOUR = np.array((0, 255, 220), np.float32)
# of the image under the map: brighter, and pale colours of the map vanish; darker, and the part does
_DIMMED = 0.75


Backdrop = NDArray[np.uint8]
"""What heatmaps are drawn on: a gray picture (h, w) in its proportions, at most `LONGEST_SIDE` wide or high."""


def backdrop(picture: Picture) -> Backdrop:
    width, height = picture.size
    shrink = min(1.0, LONGEST_SIDE / max(width, height))
    shown = max(1, round(width * shrink)), max(1, round(height * shrink))
    return np.asarray(Image.fromarray(picture.pixels).convert("L").resize(shown, Image.Resampling.BOX))


def heatmap_png(picture: Picture, anomaly_map: NDArray[np.float32], ceiling: float) -> bytes:
    """See `heatmap_over`, on the picture itself."""
    return heatmap_over(backdrop(picture), anomaly_map, ceiling)


def heatmap_over(drawn_on: Backdrop, anomaly_map: NDArray[np.float32], ceiling: float) -> bytes:
    """A PNG of the dimmed backdrop under the coloured map.

    `anomaly_map`: (h, w), covers the whole image; 0 and below is transparent. `ceiling` > 0 is the value of the
    threshold: what lies above is bright and outlined in cyan.
    """
    height, width = drawn_on.shape
    shares = Image.fromarray(np.ascontiguousarray(anomaly_map / np.float32(ceiling), np.float32))
    heat = np.asarray(shares.resize((width, height), Image.Resampling.BICUBIC))
    dimmed = drawn_on.astype(np.float32)[:, :, None] * np.float32(_DIMMED)
    opacity = np.interp(heat, _STOPS, _OPACITY)[:, :, None]
    colour = np.stack([np.interp(heat, _STOPS, channel) for channel in _COLOURS.T], axis=2)
    blended = np.asarray(dimmed * (1 - opacity) + colour * opacity, np.float32)
    # the rim of what lies above the threshold, one pixel wide, inside it
    above = heat >= 1
    blended[above & ~ndimage.binary_erosion(above, border_value=1)] = _CONTOUR
    buffer = BytesIO()
    Image.fromarray(np.rint(blended).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def regions(anomaly_map: NDArray[np.float32], level: float, size: tuple[int, int]) -> tuple[Region, ...]:
    """The connected places (sides or corners touching) where the map lies above `level`, strongest first, at most
    `MOST_REGIONS`.

    `anomaly_map`: (h, w); `size`: (width, height) of the original image, in whose pixels the boxes are given. A box is
    never empty and never leaves the image; its score is the highest map value inside the place.
    """
    labels, count = ndimage.label(anomaly_map > level, structure=np.ones((3, 3)))
    if not count:
        return ()
    peaks = ndimage.maximum(anomaly_map, labels, np.arange(1, count + 1))
    boxes = ndimage.find_objects(labels)
    strongest = np.argsort(-np.asarray(peaks), kind="stable")[:MOST_REGIONS]
    found = []
    for index in strongest:
        rows, columns = boxes[index]
        top, bottom = _span(rows, anomaly_map.shape[0], size[1])
        left, right = _span(columns, anomaly_map.shape[1], size[0])
        found.append(Region(left=left, top=top, right=right, bottom=bottom, score=float(peaks[index])))
    return tuple(found)


def _span(cells: slice, count: int, pixels: int) -> tuple[int, int]:
    """The pixels that `cells` of a row of `count` cells cover, rounded outwards."""
    return cells.start * pixels // count, -(-cells.stop * pixels // count)
