"""Flat-field correction: images under a changed light, as they would look under the light of the fit.

Light that is stronger or falls from another side, exposure, gain and contrast change a pixel to `a x + b`, with `a` and
`b` that vary slowly over the image. Mean and deviation of the pixels in each cell of a coarse grid, over many images,
tell both, whatever the parts show and wherever they lie. An image is corrected as far as its own light asks: one that
was taken under the light of the fit stays as it is.
"""

from functools import cache
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from flowgauge.domain.messages import FrozenModel
from flowgauge.vision.preprocessing import DARKEST

Channels = tuple[float, float, float]
Grid = tuple[tuple[Channels, ...], ...]
"""(g, g, 3): a value for each cell and channel."""

# Cells along a side. With fewer, light that falls off to a side is a step; with more, a cell of parts that move shows
# too little of them in a few dozen images.
_CELLS = 8
# Deviation, in cells, of the Gaussian by which neighbouring cells share their moments. Without it a cell at the rim of
# a part takes its chance for light; with more, light that falls off steeply is taken for even.
_NEIGHBOURS = 1.0
# Share of the whole image's variance that is added to each cell's, before and after. Without it, cells that show
# nothing but noise have the gain of their noise; with much more, no cell has a gain of its own.
_FLOOR = 0.05
# Odds, in squared spreads, against an image that has the light of the fit again, or one between that and the buffer's.
# With less, a light product under the darker light of the buffer is taken for a dark one of the first light; with more,
# light that has come back is corrected still.
_FIRST, _BETWEEN = 4.0, 12.0
# of 255: images of one level have no contrast to match, and their gain stays near 1
_LEAST_DEVIATION = 1.0
# An image counts whose mean and deviation lie within so many deviations of the median image's, and _SLACK gray levels
# more. With less, a line whose parts differ loses images; with more, a lamp that was off for a tenth of the images is
# taken for a light that has lost a tenth of its contrast.
_USUAL, _SLACK = 5.0, 3.0


class Illumination(FrozenModel):
    """`mean` and `deviation` of a line's pixels in each cell, in gray levels of 255, and the `spread` of whole images'
    means and deviations from image to image. `cut`: crops show the object alone, and black pixels are none of it.
    """

    mean: Grid
    deviation: Grid
    spread: tuple[Channels, Channels]
    cut: bool

    @classmethod
    def of(cls, crops_NSSC: NDArray[np.uint8], *, cut: bool) -> Self:
        """Of crops (N, S, S, 3). Images that are darker, lighter or flatter than most, as of a lamp that was off, do
        not count, while they are fewer than half; what covers a few pixels of some images hardly does.
        """
        moments_NMGGC = np.stack([_moments(crop, cut) for crop in crops_NSSC])
        moments_NMGGC = moments_NMGGC[_usual(moments_NMGGC.mean(axis=(2, 3)))]
        spread = np.std([_of_all(*_levels(each)) for each in moments_NMGGC], axis=0)
        moments = moments_NMGGC.mean(axis=0)
        moments = ndimage.gaussian_filter(moments, (0, _NEIGHBOURS, _NEIGHBOURS, 0), mode="nearest")
        _, mean, deviation = _levels(moments)
        means, deviations = (tuple(each) for each in spread.round(3).tolist())
        return cls(mean=_grid(mean), deviation=_grid(deviation), spread=(means, deviations), cut=cut)

    def correction_to(self, other: "Illumination") -> "FlatField":
        """What makes images of this illumination look as under the `other` one."""
        variance, wanted = (np.square(each.deviation) for each in (self, other))
        floor, wanted_floor = (_FLOOR * v.mean(axis=(0, 1)) + _LEAST_DEVIATION**2 for v in (variance, wanted))
        gain = np.sqrt((wanted + wanted_floor) / (variance + floor))
        return FlatField(gain=_grid(gain), offset=_grid(other.mean - gain * self.mean), wanted=other)


class FlatField(FrozenModel):
    """`gain`, and `offset` in gray levels of 255, in the middle of each cell, of a full correction to the illumination
    that is `wanted`. Where objects are cut out, black stays black, and what is shown does not become black.
    """

    gain: Grid
    offset: Grid
    wanted: Illumination

    def apply(self, crops_NSSC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(N, S, S, 3) -> the same under the light of the fit."""
        gain_SSC, offset_SSC = (_over(grid, crops_NSSC.shape[1]) for grid in (self.gain, self.offset))
        gain_SSC -= 1
        corrected, cut = np.empty_like(crops_NSSC), self.wanted.cut
        for crop, out in zip(crops_NSSC, corrected, strict=True):
            strength = self.strength(crop)
            levels = crop * (1 + strength * gain_SSC)
            levels += strength * offset_SSC
            np.rint(levels.clip(DARKEST if cut else 0, 255, out=levels), out=levels)
            np.multiply(levels, crop.any(axis=2, keepdims=True) if cut else 1, out=out, casting="unsafe")
        return corrected

    def strength(self, crop_SSC: NDArray[np.uint8]) -> np.float32:
        """How much of the full correction this image is given, in [0, 1].

        A share t of the correction moves the mean and the deviation of an image's pixels by about t times what all of
        it does, so the t that brings them nearest to those of the fit follows (least squares, in units of their
        spread). All of it, none of it (the light of the fit has come back) or t, whichever explains the image best: all
        of it has the odds for it, for images differ by what they show too.
        """
        share, mean, deviation = _levels(_moments(crop_SSC, self.wanted.cut))
        gain = np.array(self.gain)
        seen = _of_all(share, mean, deviation)
        fits = _of_all(share, np.array(self.wanted.mean), np.array(self.wanted.deviation))
        spread = np.array(self.wanted.spread) + _LEAST_DEVIATION
        moved = (_of_all(share, gain * mean + self.offset, gain * deviation) - seen) / spread
        away = np.sqrt(np.square(moved).mean())
        strength = (moved * (fits - seen) / spread).sum() / (np.square(moved).sum() + 1e-9)
        costs = {1.0: ((1 - strength) * away) ** 2, 0.0: (strength * away) ** 2 + _FIRST, strength: _BETWEEN}
        return np.float32(np.clip(min(costs, key=lambda share: costs[share]), 0, 1))


def _levels(moments: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Share (g, g, 3) of each cell that is shown, mean and deviation of what is shown there. A cell that shows no
    object has those of all the others.
    """
    share, mean, square = moments + 1e-9 * moments.mean(axis=(1, 2), keepdims=True)
    mean, square = mean / share, square / share
    return share, mean, np.sqrt((square - mean**2).clip(0))


def _of_all(
    share: NDArray[np.float64], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(2, 3): mean and deviation of all pixels of an image, from those of its cells. They are the same wherever a part
    lies, which those of single cells are not.
    """
    weight = share / share.sum(axis=(0, 1))
    whole = (weight * mean).sum(axis=(0, 1))
    square = (weight * (mean**2 + deviation**2)).sum(axis=(0, 1))
    return np.stack([whole, np.sqrt((square - whole**2).clip(0))])


def _moments(crop_SSC: NDArray[np.uint8], cut: bool) -> NDArray[np.float64]:
    """(3, g, g, 3): of each cell the share that is shown, and the sums of levels and of their squares, a pixel."""
    side = len(crop_SSC) // _CELLS
    # squares of 255 fit into 16 bits: an image of 1024 pixels would take 25 MB in double precision
    shown = np.broadcast_to(crop_SSC.any(axis=2, keepdims=True) if cut else np.True_, crop_SSC.shape)
    parts = (shown, crop_SSC, np.square(crop_SSC, dtype=np.uint16))
    cells = [each.reshape(_CELLS, side, _CELLS, side, 3).sum(axis=(1, 3), dtype=np.int64) for each in parts]
    return np.stack(cells) / side**2


def _usual(moments_NMC: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,): whose mean and deviation lie near those of the median image, in each channel; half of them at least."""
    share, mean, square = np.moveaxis(moments_NMC, 1, 0) + 1e-9
    mean = mean / share
    seen = np.concatenate([mean, np.sqrt((square / share - mean**2).clip(0))], axis=1)
    away = np.abs(seen - np.median(seen, axis=0))
    # 1.4826 median absolute deviations are the deviation of a normal distribution
    deviation = 1.4826 * np.median(away, axis=0) + 1e-9
    distance_N = ((away - _SLACK) / deviation).max(axis=1)
    # where parts come in several looks, another look may be the median of each figure, and no image near all of them
    return np.asarray(distance_N <= max(_USUAL, float(np.median(distance_N))))


def _grid(values_GGC: NDArray[np.float64]) -> Grid:
    grid: Grid = tuple(tuple(tuple(cell) for cell in row) for row in np.round(values_GGC, 3).tolist())
    return grid


def _over(grid: Grid, side: int) -> NDArray[np.float32]:
    """(S, S, 3): between the cells' middles by bilinear interpolation."""
    weights_SG = _weights(side)
    return weights_SG @ np.tensordot(weights_SG, np.array(grid, np.float32), 1)


@cache
def _weights(side: int) -> NDArray[np.float32]:
    """(S, g): of the cells' values along a side."""
    middles = (np.arange(side) + 0.5) / side * _CELLS - 0.5
    return np.stack([np.interp(middles, np.arange(_CELLS), cell) for cell in np.eye(_CELLS)], axis=1).astype(np.float32)
