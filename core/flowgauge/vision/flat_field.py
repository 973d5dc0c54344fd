"""Flat-field correction: images under a changed light, as they would look under the light of the fit.

Light that is stronger or falls from another side, exposure, gain and contrast change a pixel to `a x + b`, with `a` and
`b` that vary slowly over the image. Mean and deviation of the pixels in each cell of a coarse grid, over many images,
tell both, whatever the parts show and wherever they lie. An image that was taken under the light of the fit stays as
it is: light may come and go.
"""

from functools import cache, cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from flowgauge.domain.even_spacing import evenly_spaced
from flowgauge.domain.messages import FrozenModel
from flowgauge.vision.preprocessing import DARKEST

Grid = tuple[tuple[tuple[float, float, float], ...], ...]
"""(g, g, 3): a value for each cell and channel."""
Levels = tuple[float, float, float, float, float, float]
"""Mean and deviation of an image's pixels, each by channel."""

# Cells along a side. With fewer, light that falls off to a side is a step; with more, a cell of parts that move shows
# too little of them in a few dozen images.
_CELLS = 8
# Deviation, in cells, of the Gaussian by which neighbouring cells share their moments. Without it a cell at the rim of
# a part takes its chance for light; with more, light that falls off steeply is taken for even.
_NEIGHBOURS = 1.0
# Share of the whole image's variance that is added to each cell's, before and after. Without it, cells that show
# nothing but noise have the gain of their noise; with much more, no cell has a gain of its own.
_FLOOR = 0.05
# Images whose levels are kept. With fewer, a product that is one in twenty may have none; more make manifests longer.
_KEPT = 64
# One pixel of so many along each side tells an image's levels. With fewer pixels those of small images are left to
# chance; with more, asking takes as long as correcting.
_STEP = 4
# of 255: a corrected image may lie so far from all of the fit's. With less, an error of the correction is taken for
# light that has come back; with more, light that differs a little is corrected when it has come back.
_PRECISION = 5.0
# of 255: images of one level have no contrast to match, and their gain stays near 1
_LEAST_DEVIATION = 1.0
# An image counts whose mean and deviation lie within so many deviations of the median image's, and _SLACK gray levels
# more. With less, a line whose parts differ loses images; with more, a lamp that was off for a tenth of the images is
# taken for a light that has lost a tenth of its contrast.
_USUAL, _SLACK = 5.0, 3.0


class Illumination(FrozenModel):
    """`mean` and `deviation` of a line's pixels in each cell, in gray levels of 255, and `levels` of some of its
    images, odd ones too. `cut`: crops show the object alone, and black pixels are none of it.
    """

    mean: Grid
    deviation: Grid
    levels: tuple[Levels, ...]
    cut: bool

    @classmethod
    def of(cls, crops_NSSC: NDArray[np.uint8], *, cut: bool) -> Self:
        """Of crops (N, S, S, 3). Images that are darker, lighter or flatter than most, as of a lamp that was off, do
        not count, while they are fewer than half; what covers a few pixels of some images hardly does.
        """
        moments_NMGGC = np.stack([_moments(crop, cut) for crop in crops_NSSC])
        moments = moments_NMGGC[_usual(moments_NMGGC.mean(axis=(2, 3)))].mean(axis=0)
        moments = ndimage.gaussian_filter(moments, (0, _NEIGHBOURS, _NEIGHBOURS, 0), mode="nearest")
        # a cell that shows no object has the moments of all the others
        share, mean, square = moments + 1e-9 * moments.mean(axis=(1, 2), keepdims=True)
        mean, square = mean / share, square / share
        deviation = np.sqrt((square - mean**2).clip(0))
        kept = crops_NSSC[evenly_spaced(len(crops_NSSC), _KEPT)]
        levels = tuple(tuple(each) for each in np.round([_levels(crop, cut) for crop in kept], 2).tolist())
        return cls(mean=_grid(mean), deviation=_grid(deviation), levels=levels, cut=cut)

    def correction_to(self, other: "Illumination") -> "FlatField":
        """What makes images of this illumination look as under the `other` one."""
        variance, wanted = (np.square(each.deviation) for each in (self, other))
        floor, wanted_floor = (_FLOOR * v.mean(axis=(0, 1)) + _LEAST_DEVIATION**2 for v in (variance, wanted))
        gain = np.sqrt((wanted + wanted_floor) / (variance + floor))
        return FlatField(gain=_grid(gain), offset=_grid(other.mean - gain * self.mean), fit=other)


class FlatField(FrozenModel):
    """`gain`, and `offset` in gray levels of 255, in the middle of each cell: they make images of a line as they were
    under the light of the `fit`. Where objects are cut out, black stays black, and what is shown does not become black.
    """

    gain: Grid
    offset: Grid
    fit: Illumination

    def apply(self, crops_NSSC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(N, S, S, 3) -> the same under the light of the fit."""
        gain_SSC, offset_SSC = (_over(grid, crops_NSSC.shape[1]) for grid in (self.gain, self.offset))
        corrected, cut = np.empty_like(crops_NSSC), self.fit.cut
        for crop, out in zip(crops_NSSC, corrected, strict=True):
            levels = crop * gain_SSC
            levels += offset_SSC
            np.rint(levels.clip(DARKEST if cut else 0, 255, out=levels), out=levels)
            np.multiply(levels, crop.any(axis=2, keepdims=True) if cut else 1, out=out, casting="unsafe")
            if self._is_back(crop, out):
                out[:] = crop
        return corrected

    def _is_back(self, crop_SSC: NDArray[np.uint8], corrected_SSC: NDArray[np.uint8]) -> bool:
        """Whether the light of the fit has come back: corrected, the image has levels that none of the fit's images
        have, and as it is it has those of one. In doubt it is corrected, for the light of the buffer is that of now:
        a light product under less light has the levels of a dark one.
        """
        as_it_is, corrected = (
            float(_distances(_levels(each, self.fit.cut), self._levels_of_fit).min())
            for each in (crop_SSC, corrected_SSC)
        )
        return as_it_is <= self._apart < corrected

    @cached_property
    def _levels_of_fit(self) -> NDArray[np.float64]:
        return np.array(self.fit.levels)

    @cached_property
    def _apart(self) -> float:
        """How far the levels of an image may lie from those of the nearest other one of the fit."""
        known = self._levels_of_fit
        between = np.stack([_distances(each, known) for each in known]) + np.diag(np.full(len(known), np.inf))
        return max(float(between.min(axis=1).max()), _PRECISION)


def _levels(crop_SSC: NDArray[np.uint8], cut: bool) -> NDArray[np.float64]:
    """(6,): mean and deviation of what an image shows, by channel. They are the same wherever a part lies."""
    pixels = crop_SSC[::_STEP, ::_STEP].reshape(-1, 3)
    pixels = pixels[pixels.any(axis=1)] if cut else pixels
    return np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)]) if len(pixels) else np.zeros(6)


def _distances(levels: NDArray[np.float64], others_N6: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) in gray levels: root mean squares of the differences."""
    return np.asarray(np.sqrt(np.square(others_N6 - levels).mean(axis=1)))


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
