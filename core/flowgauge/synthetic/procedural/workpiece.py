"""A part's surface before any light falls on it, and the noise that surfaces are made of.

Lengths, heights included, are in units of which `FRAME` span the image, so a texture looks the same at every size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from flowgauge.synthetic.noise import Field, standardised

FRAME = 256.0

Colour = tuple[float, float, float]
Rng = np.random.Generator


@dataclass(frozen=True)
class Workpiece:
    """What light meets, on an (N, N) grid.

    `albedo` (N, N, 3): diffuse reflectance in [0, 1], RGB; `height` (N, N): relief; `gloss` (N, N): strength of the
    highlight, 0 is matt; `body`: the colour that shows where the skin is broken; `grain` (N, N) or None: direction in
    radians of grooves too fine to see, which stretch the highlight; `part` (N, N): 1 on the part, 0 beside it.
    """

    albedo: Field
    height: Field
    gloss: Field
    body: Colour
    part: Field
    grain: Field | None = None

    @property
    def scale(self) -> float:
        """Pixels per unit."""
        return len(self.height) / FRAME


MaterialFactory = Callable[[Rng, Rng, int, float], Workpiece]
"""(line, part, size, wear): see `flowgauge.synthetic.procedural.materials`."""


def plane(size: int) -> tuple[Field, Field]:
    """(y, x) of every pixel's centre, 0 in the middle of the frame."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) * np.float32(FRAME)
    return np.repeat(axis[:, None], size, axis=1), np.repeat(axis[None, :], size, axis=0)


def turned(y: Field, x: Field, angle: float) -> tuple[Field, Field]:
    """(along, across) a direction that lies `angle` radians from the x axis."""
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cosine + y * sine, y * cosine - x * sine


def streaks(rng: Rng, size: int, angle: float, length: float, width: float) -> Field:
    """(N, N) noise of mean 0 and deviation 1 whose features are about `length` by `width`, the long side at `angle`."""
    along, across = turned(*_frequencies(size), angle)
    return _shaped(rng, size, np.exp(-((along * length) ** 2) - (across * width) ** 2))


def grains(rng: Rng, size: int, smallest: float, largest: float, roughness: float = 1.0) -> Field:
    """(N, N) noise of mean 0 and deviation 1 with features from `smallest` to `largest`, amplitude falling with
    frequency to the power `roughness`."""
    fy, fx = _frequencies(size)
    squared = fy**2 + fx**2
    fall = (squared + np.float32(1 / largest**2)) ** np.float32(-roughness / 2)
    return _shaped(rng, size, fall * np.exp(-squared * np.float32(smallest**2)))


def tinted(colour: Colour, shade: Field) -> Field:
    """(N, N, 3): `colour` times the gray field `shade`."""
    return shade[:, :, None] * np.array(colour, np.float32)


def between(first: Colour, second: Colour, share: Field) -> Field:
    """(N, N, 3): from `first` where `share` is 0 to `second` where it is 1."""
    start, end = np.array(first, np.float32), np.array(second, np.float32)
    return start + share[:, :, None] * (end - start)


def varied(colour: Colour, rng: Rng, spread: float) -> Colour:
    """`colour` with its lightness, and a little of its hue, drawn anew."""
    lightness = 1 + rng.normal(0, spread)
    red, green, blue = (float(np.clip(part * lightness * (1 + rng.normal(0, spread / 4)), 0, 1)) for part in colour)
    return red, green, blue


def filled(size: int, value: float = 1.0) -> Field:
    return np.full((size, size), value, np.float32)


@lru_cache(maxsize=4)
def _frequencies(size: int) -> tuple[Field, Field]:
    """(fy, fx) in cycles per unit, on the grid of a real Fourier transform."""
    step = FRAME / size
    fy = fft.fftfreq(size, step).astype(np.float32)[:, None]
    fx = fft.rfftfreq(size, step).astype(np.float32)[None, :]
    return fy, fx


def _shaped(rng: Rng, size: int, gain: NDArray[np.float32]) -> Field:
    white = rng.standard_normal((size, size), dtype=np.float32)
    return standardised(fft.irfft2(fft.rfft2(white) * gain, s=(size, size)))
