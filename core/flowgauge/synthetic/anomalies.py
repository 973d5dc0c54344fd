"""Synthetic anomalies on images of good parts: heads train with them, and the gate tests a candidate with them.

They need no labels and no knowledge of the part. After CutPaste (Li et al., arXiv 2104.04015) and DRAEM (Zavrtanik et
al., arXiv 2108.07610), with the marks that surfaces really get: scratches, cracks, pits, chips, uneven light.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from flowgauge.synthetic.noise import Field, Points, smooth_noise, stroke, through, wander

NOTICEABLE = 6
"""Levels of 255: the change that belongs to the mask. Below, JPEG and sensor noise would do as much."""

# the least of a mask, in pixels and as a share of the image: with less, a mark is a speck and no defect
_FEWEST_PIXELS, _SMALLEST_SHARE = 8, 1 / 4000
# pixels a side that every kind fits on
_SMALLEST_SIDE = 24
# draws, each with a stronger contrast, until a mark is seen
_ATTEMPTS = 40
# levels of 255 by which a mark departs from its surroundings, before the surface's own texture is allowed for
_FAINTEST, _CLEAREST = 14.0, 90.0


@dataclass(frozen=True)
class SyntheticAnomaly:
    """`pixels` (H, W, 3) uint8; `mask` (H, W) bool, never empty: where some channel changed by `NOTICEABLE` or more."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def draw_anomaly_on(
    pixels: NDArray[np.uint8], part: NDArray[np.bool_], kind: str, rng: np.random.Generator
) -> SyntheticAnomaly:
    """The same as `draw_anomaly` on that part (H, W) of the picture alone, which is not empty, and scaled with it;
    where the part is too thin for that kind, anywhere.
    """
    spans = []
    for found, size in zip(ndimage.find_objects(part.astype(np.uint8))[0], part.shape, strict=True):
        # widened to the fewest pixels that every kind fits on, as far as there are so many
        start = max(0, min(found.start, size - _SMALLEST_SIDE))
        spans.append(slice(start, max(found.stop, start + _SMALLEST_SIDE)))
    box = (spans[0], spans[1])
    try:
        inner = draw_anomaly(pixels[box], kind, rng, part[box])
    except ValueError:
        return draw_anomaly(pixels, kind, rng)
    whole, mask = pixels.copy(), np.zeros_like(part)
    whole[box], mask[box] = inner.pixels, inner.mask
    return SyntheticAnomaly(whole, mask)


def draw_anomaly(
    pixels: NDArray[np.uint8], kind: str, rng: np.random.Generator, on: NDArray[np.bool_] | None = None
) -> SyntheticAnomaly:
    """`pixels` (H, W, 3) with one defect of `kind`, subtle to clear, scaled with the image; where `on` (H, W) is given,
    nothing changes elsewhere.

    The input stays as it is; the same state of `rng` draws the same. Gray images stay gray. Raises ValueError for a
    kind that is not in `KINDS`.
    """
    if kind not in _DRAWN:
        raise ValueError(f"{kind!r} is no defect that can be painted. Use one of: {', '.join(KINDS)}.")
    image = pixels.astype(np.float32)
    fewest = max(_FEWEST_PIXELS, image[..., 0].size * _SMALLEST_SHARE)
    for attempt in range(_ATTEMPTS):
        changed = _DRAWN[kind](image, rng, 1 + attempt / 4)
        synthetic = np.rint(np.clip(changed, 0, 255)).astype(np.uint8)
        if on is not None:
            synthetic = np.where(on[:, :, None], synthetic, pixels)
        mask = np.abs(synthetic - image).max(axis=2) >= NOTICEABLE
        if mask.sum() >= fewest:
            return SyntheticAnomaly(synthetic, mask)
    raise ValueError(f"No visible {kind} fits on an image of {pixels.shape[1]} x {pixels.shape[0]} pixels.")


def scar(image: Field, rng: np.random.Generator, contrast: float) -> Field:
    """A thin strip of the image itself, brighter or darker, turned and pasted elsewhere."""
    shape, unit = _frame(image)
    width, height = max(8, round(unit * rng.uniform(0.1, 0.3))), max(3, round(unit * rng.uniform(0.02, 0.06)))
    top, left = rng.integers(shape[0] - height), rng.integers(shape[1] - min(width, shape[1] - 1))
    strip = image[top : top + height, left : left + width]
    strip = np.clip(strip + _step(strip, rng, contrast * 0.8), 0, 255)
    angle = rng.uniform(-90, 90)
    turned, shown = (
        Image.fromarray(layer.astype(np.uint8)).rotate(angle, Image.Resampling.BILINEAR, expand=True)
        for layer in (strip, np.full(strip.shape, 255, np.float32))
    )
    canvas = Image.fromarray(image.astype(np.uint8))
    y, x = (int(centre) for centre in _position(shape, rng, margin=0.15))
    canvas.paste(turned, (x - turned.width // 2, y - turned.height // 2), shown.convert("L"))
    return np.asarray(canvas, np.float32)


def blend(image: Field, rng: np.random.Generator, contrast: float) -> Field:
    """Another texture under a patch of thresholded smooth noise."""
    shape, unit = _frame(image)
    spread = unit * np.exp(rng.uniform(np.log(0.05), np.log(0.2)))
    hill = np.exp(-(_radius(shape, _position(shape, rng)) ** 2) / (2 * spread**2))
    noise = smooth_noise(rng, shape, rng.uniform(6, 20))
    opacity = rng.uniform(0.6, 1) * np.clip((1.6 * hill + 0.4 * noise * hill**0.5 - 0.8) * 6, 0, 1)
    foreign = _other_texture(image, rng)
    return _mixed(image, foreign + _step(image, rng, contrast * 0.8), opacity)


def scratch(image: Field, rng: np.random.Generator, contrast: float) -> Field:
    """A thin, slightly bent line, dark or bright, whose width and depth vary along it."""
    shape, unit = _frame(image)
    steps = round(unit * rng.uniform(0.15, 0.8))
    path = through(_position(shape, rng), wander(rng, (0, 0), rng.uniform(0, 2 * np.pi), steps, 0.004, 0.02))
    widths = unit / 256 * rng.uniform(0.9, 2.4) * np.clip(1 + 0.4 * _profile(rng, steps), 0.3, 2)
    depth = np.clip(0.8 + 0.4 * _profile(rng, steps), 0.15, 1.2)
    return image + _step(image, rng, contrast) * stroke(path, shape, widths, depth)[:, :, None]


def crack(image: Field, rng: np.random.Generator, contrast: float) -> Field:
    """A dark random walk, 1 to 3 pixels wide, that branches and thins out."""
    shape, unit = _frame(image)
    steps, heading = round(unit * rng.uniform(0.15, 0.6)), rng.uniform(0, 2 * np.pi)
    trunk = through(_position(shape, rng), wander(rng, (0, 0), heading, steps, 0.004, 0.6))
    width = float(np.clip(unit / 200 * rng.uniform(0.8, 2), 1, 3))
    opacity = stroke(trunk, shape, width * np.linspace(1, 0.5, steps))
    for _ in range(rng.integers(0, 4)):
        root, length = rng.integers(steps), max(4, round(steps * rng.uniform(0.1, 0.4)))
        turn = rng.choice([-1, 1]) * rng.uniform(0.4, 1.2)
        branch = wander(rng, tuple(trunk[root]), heading + turn, length, 0.004, 0.6)
        opacity = np.maximum(opacity, stroke(branch, shape, width * np.linspace(0.7, 0.3, length)))
    return image + np.float32(_step(image, rng, contrast, dark=True)) * opacity[:, :, None]


def blotch(image: Field, rng: np.random.Generator, contrast: float) -> Field:
    """A large soft change of brightness, as from a worn tool or a wet rag."""
    shape, unit = _frame(image)
    reach = unit * rng.uniform(0.12, 0.4)
    radius = _radius(shape, _position(shape, rng), rng.uniform(1, 2.2), rng.uniform(0, np.pi))
    wavy = radius * (1 + 0.08 * smooth_noise(rng, shape, rng.uniform(3, 8)))
    opacity = np.asarray(np.exp(-((wavy / reach) ** rng.uniform(2, 6))), np.float32)
    return image + _step(image, rng, contrast * 0.7) * opacity[:, :, None]


def spot(image: Field, rng: np.random.Generator, contrast: float) -> Field:
    """A small hole, stain or chip of irregular outline, with a texture of its own."""
    shape, unit = _frame(image)
    size = max(1.5, unit * np.exp(rng.uniform(np.log(0.012), np.log(0.06))))
    radius = _radius(shape, _position(shape, rng), np.exp(rng.uniform(0, 1)), rng.uniform(0, np.pi))
    ragged = radius * (1 + 0.25 * smooth_noise(rng, shape, rng.uniform(8, min(40, unit / 3))))
    opacity = np.clip((size - ragged) / rng.uniform(1, 3) + 0.5, 0, 1)
    rough = 1 + 0.3 * smooth_noise(rng, shape, rng.uniform(10, min(60, unit / 2)))
    return np.asarray(image + np.float32(_step(image, rng, contrast)) * (rough * opacity)[:, :, None], np.float32)


def region(image: Field, rng: np.random.Generator, contrast: float) -> Field:
    """A large part with another texture or tone: all beyond a wavy border, or an island."""
    shape, unit = _frame(image)
    wobble = rng.uniform(0, 0.06) * unit * smooth_noise(rng, shape, rng.uniform(2, 8))
    if rng.random() < 0.6:
        # pixels by which a place lies beyond a straight line, mostly along the image's axes
        angle = rng.choice([0, np.pi / 2, np.pi, 1.5 * np.pi]) + rng.normal(0, 0.15)
        y, x = _offsets(shape, np.array(shape) / 2)
        beyond = x * np.cos(angle) + y * np.sin(angle) - rng.uniform(-0.35, 0.4) * min(shape)
        depth = np.asarray(beyond, np.float32)
    else:
        # about the pixels by which it lies inside an ellipse
        reach = min(shape) * rng.uniform(0.08, 0.35)
        depth = reach - _radius(shape, _position(shape, rng), rng.uniform(1, 3), rng.uniform(0, np.pi))
    opacity = np.clip((depth + wobble) / rng.choice([2, 4, 12]) + 0.5, 0, 1)
    tone = _step(image, rng, contrast * 0.3)
    other = _other_texture(image, rng) if rng.random() < 0.7 else image + tone
    return _mixed(image, other + (rng.random() < 0.5) * tone, opacity)


def blowhole(image: Field, rng: np.random.Generator, contrast: float) -> Field:
    """A small dark round pit with a bright rim on the side that faces the light."""
    shape, unit = _frame(image)
    centre, size = _position(shape, rng), max(2.0, unit * np.exp(rng.uniform(np.log(0.01), np.log(0.035))))
    radius = _radius(shape, centre, rng.uniform(1, 1.4), rng.uniform(0, np.pi))
    pit = np.clip(size - radius + 0.5, 0, 1) * (0.6 + 0.4 * np.clip(1 - radius / size, 0, 1))
    # 1 on the side that faces the light, falling to 0 on the other
    y, x = _offsets(shape, centre)
    facing = np.asarray((1 + np.cos(np.arctan2(y, x) - rng.uniform(-np.pi, np.pi))) / 2, np.float32)
    rim = np.exp(-(((radius - size - 0.8) / (0.25 * size + 0.6)) ** 2)) * facing
    step = np.abs(_step(image, rng, contrast * 1.2))
    # on a nearly black image a pit can only be brighter
    down = step if image.mean() > 40 else -step
    return np.asarray(image - down * pit[:, :, None] + 0.5 * step * rim[:, :, None], np.float32)


def chip(image: Field, rng: np.random.Generator, contrast: float) -> Field:
    """A piece missing from the border, with the plain ground showing."""
    shape, unit = _frame(image)
    centre, axis = _position(shape, rng), rng.integers(2)
    centre[axis] = rng.choice([0, shape[axis] - 1])
    reach = unit * np.exp(rng.uniform(np.log(0.03), np.log(0.15)))
    radius = _radius(shape, centre, rng.uniform(1, 2.5), rng.uniform(0, np.pi))
    ragged = radius + 0.2 * reach * smooth_noise(rng, shape, min(unit / 4, unit / reach * 2))
    background = rng.uniform(0, 60) if image.mean() > 120 or rng.random() < 0.3 else rng.uniform(150, 230)
    soft = background + 6 * smooth_noise(rng, shape, 8)[:, :, None]
    return _mixed(image, soft, rng.uniform(0.6, 1) * np.clip(reach - ragged + 0.5, 0, 1))


_DRAWN = {draw.__name__: draw for draw in (scar, blend, scratch, crack, blotch, spot, region, blowhole, chip)}

KINDS = tuple(_DRAWN)


def _step(image: Field, rng: np.random.Generator, contrast: float, dark: bool = False) -> float:
    """By how many levels, and in which direction, a mark departs from `image`."""
    # at least as much as neighbouring pixels of the texture differ, or nobody would see it there
    steps = np.diff(image[:, :, 1], axis=1)
    roughness = float(steps.std()) / 2**0.5 if steps.size else 0.0
    step = contrast * max(np.exp(rng.uniform(np.log(_FAINTEST), np.log(_CLEAREST))), 1.5 * roughness)
    sign = -1 if dark or rng.random() < 0.6 else 1
    # towards the side that has room
    level = float(image.mean())
    return float(sign * step if 0 <= level + sign * step <= 255 else np.copysign(step, 127.5 - level))


def _other_texture(image: Field, rng: np.random.Generator) -> Field:
    """The image's surface as it is not here: coarser, turned over, polished away, roughened, or from elsewhere."""
    height, width, _ = image.shape
    coarse = np.asarray(ndimage.gaussian_filter(image, (*(2 * [rng.uniform(2, 6)]), 0)), np.float32)
    match rng.integers(5):
        case 0:
            crop = image[: max(1, height // 2), : max(1, width // 2)].astype(np.uint8)
            return np.asarray(Image.fromarray(crop).resize((width, height), Image.Resampling.BICUBIC), np.float32)
        case 1:
            return image[::-1, ::-1]
        case 2:
            return coarse + (image - coarse) * np.float32(rng.uniform(0, 0.5))
        case 3:
            return coarse + (image - coarse) * np.float32(rng.uniform(1.6, 3.5))
        case _:
            moved = np.roll(image, (rng.integers(height), rng.integers(width)), (0, 1))
            return moved * np.float32(rng.uniform(0.85, 1.15))


def _mixed(image: Field, other: Field, opacity: Field) -> Field:
    return image + (other - image) * opacity[:, :, None]


def _frame(image: Field) -> tuple[tuple[int, int], int]:
    """The image's (height, width), and the shorter side that every length is measured by."""
    height, width, _ = image.shape
    return (height, width), min(height, width)


def _position(shape: tuple[int, int], rng: np.random.Generator, margin: float = 0.08) -> Points:
    return np.array([side * rng.uniform(margin, 1 - margin) for side in shape])


def _offsets(shape: tuple[int, int], centre: Points) -> tuple[Field, Field]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - centre[0]).astype(np.float32), (x - centre[1]).astype(np.float32)


def _radius(shape: tuple[int, int], centre: Points, stretch: float = 1.0, angle: float = 0.0) -> Field:
    """(H, W) distance from `centre` in pixels, measured shorter by `stretch` along `angle`."""
    y, x = _offsets(shape, centre)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return np.asarray(np.hypot(along / stretch, across), np.float32)


def _profile(rng: np.random.Generator, steps: int) -> Points:
    """(steps,) smooth noise of deviation about 1 along a line."""
    knots = max(3, steps // 12)
    return np.asarray(np.interp(np.linspace(0, knots - 1, steps), np.arange(knots), rng.standard_normal(knots)))
