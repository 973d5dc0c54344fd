"""Light and camera: from a surface to the photograph that the line takes of it."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from flowgauge.synthetic.noise import Field
from flowgauge.synthetic.procedural.workpiece import FRAME, Colour, Rng, Workpiece, plane


class Change(StrEnum):
    """What a line may drift in, one at a time."""

    LIGHT = "light"
    CONTRAST = "contrast"
    FOCUS = "focus"
    TEXTURE = "texture"


@dataclass(frozen=True)
class Condition:
    """How the line stands on the day. The defaults are the nominal line.

    `gain`: light as a multiple of nominal; `gradient`: by what share the light falls from one side of the frame to the
    other; `direction`: degrees that the lamp has turned around the part; `gamma`: above 1 darkens the mid-tones;
    `contrast`: around mid-gray; `blur`: defocus, deviation in units of 1/256 of the frame; `tint`: RGB factors of the
    light; `wear`: coarseness of the texture in [0, 1]; `noise`: of the sensor, as a multiple of nominal.
    """

    gain: float = 1.0
    gradient: float = 0.0
    direction: float = 0.0
    gamma: float = 1.0
    contrast: float = 1.0
    blur: float = 0.0
    tint: Colour = (1.0, 1.0, 1.0)
    wear: float = 0.0
    noise: float = 1.0

    @classmethod
    def drifted(cls, amount: float) -> "Condition":
        """A line that has drifted from nominal (`amount` 0) to badly (1): a stronger, warmer light from elsewhere and
        a coarser surface. Raises ValueError outside [0, 1]."""
        if not 0 <= amount <= 1:
            raise ValueError(f"A drift of {amount} is not between 0 (nominal) and 1.")
        return cls(
            gain=1 + 0.4 * amount,
            gradient=0.3 * amount,
            direction=35 * amount,
            gamma=1 - 0.15 * amount,
            blur=0.4 * amount,
            tint=(1 + 0.06 * amount, 1.0, 1 - 0.08 * amount),
            wear=0.6 * amount,
            noise=1 + 0.5 * amount,
        )

    @classmethod
    def changed(cls, change: Change, amount: float) -> "Condition":
        """A line on which one thing has changed, from nominal (`amount` 0) to badly (1): stronger light, half the
        contrast, a lens out of focus, a coarser surface. Raises ValueError outside [0, 1].
        """
        if not 0 <= amount <= 1:
            raise ValueError(f"A change of {amount} is not between 0 (nominal) and 1.")
        match change:
            case Change.LIGHT:
                return cls(gain=1 + 0.6 * amount, gradient=0.3 * amount)
            case Change.CONTRAST:
                return cls(contrast=1 - 0.5 * amount)
            case Change.FOCUS:
                return cls(blur=2.0 * amount)
            case Change.TEXTURE:
                return cls(wear=amount)


NOMINAL = Condition()


# share of the light that comes from everywhere: less, and shadows are black; more, and relief does not show
_AMBIENT = 0.35
# the highlight's exponent as a power of two: by squaring, ten times as fast as a general power
_SHININESS = 5
# deviations of the sensor's noise: in the dark, and per root of the light
_READ_NOISE, _PHOTON_NOISE = 0.004, 0.012
# deviation of the lens's own blur, in units: what makes edges look photographed and not drawn
_OPTICS = 0.45


def photograph(
    workpiece: Workpiece, azimuth: float, elevation: float, condition: Condition, sensor: Rng
) -> NDArray[np.uint8]:
    """(N, N, 3) uint8 RGB: diffuse and specular reflection, occlusion in hollows, then lens, tone curve and sensor. In
    the nominal condition the light comes from `azimuth` around the part and `elevation` above it, in radians.
    """
    azimuth += math.radians(condition.direction)
    # light falls off with the distance from the lamp, and towards the corners of the frame
    y, x = plane(len(workpiece.height))
    side = (x * math.cos(azimuth) + y * math.sin(azimuth)) / FRAME
    vignette = 1 - 0.12 * (x**2 + y**2) / (FRAME / 2) ** 2
    light = np.asarray(condition.gain * (1 + (condition.gradient + 0.12) * side) * vignette, np.float32)
    radiance = _reflected(workpiece, azimuth, elevation) * light[:, :, None] * np.array(condition.tint, np.float32)
    sigma = math.hypot(_OPTICS, condition.blur) * len(workpiece.height) / FRAME
    focused = np.asarray(ndimage.gaussian_filter(radiance, (sigma, sigma, 0), truncate=3), np.float32)
    exposed = np.clip(focused, 0, None)
    grain = sensor.standard_normal(exposed.shape, dtype=np.float32) * np.float32(condition.noise)
    noisy = np.clip(exposed + grain * (_READ_NOISE + _PHOTON_NOISE * np.sqrt(exposed)), 0, None)
    # straight in the dark, bending towards 1, so that highlights keep their texture: x / (1 + x^4)^(1/4)
    toned = np.asarray(noisy / np.sqrt(np.sqrt(1 + noisy**2 * noisy**2)), np.float32) ** condition.gamma
    contrasted = 0.5 + condition.contrast * (toned - 0.5)
    return np.asarray(np.rint(np.clip(contrasted, 0, 1) * 255), np.uint8)


def _reflected(workpiece: Workpiece, azimuth: float, elevation: float) -> Field:
    # Lambert's law on the surface normal (-slope_x, -slope_y, 1) / norm
    slope_y, slope_x = np.gradient(workpiece.height, np.float32(FRAME / len(workpiece.height)))
    upright = np.asarray(1 / np.sqrt(1 + slope_x**2 + slope_y**2), np.float32)
    towards_x, towards_y = math.cos(azimuth), math.sin(azimuth)
    facing = np.asarray(-(slope_x * towards_x + slope_y * towards_y), np.float32)
    diffuse = np.clip(facing / math.tan(elevation) + 1, 0, 2) * upright
    # hollows are dark, whatever the lamp does: they see less of the surrounding light
    depth = ndimage.gaussian_filter(workpiece.height, 3 * workpiece.scale, truncate=2) - workpiece.height
    open_sky = np.asarray(np.exp(-0.22 * np.clip(depth, 0, None)), np.float32)
    shade = (_AMBIENT + (1 - _AMBIENT) * diffuse) * open_sky
    # Blinn and Phong's highlight; fine grooves stretch it across themselves, as on a turned face
    half = (math.pi / 2 - elevation) / 2
    highlight = np.clip((facing * math.sin(half) + math.cos(half)) * upright, 0, 1)
    for _ in range(_SHININESS):
        highlight = np.square(highlight)
    if workpiece.grain is not None:
        highlight = 0.5 * highlight + 0.9 * (1 - np.cos(workpiece.grain - azimuth) ** 2) ** 6
    glint = workpiece.gloss * np.asarray(highlight, np.float32)
    return np.asarray(workpiece.albedo * shade[:, :, None] + glint[:, :, None], np.float32)
