"""Local anomalies: foreign textures pasted under Perlin-like noise (GLASS, arXiv 2407.09359 s.3.3).

A defect that nobody has seen is taken for a patch of some other surface. Textures are those of our procedural
materials, or of a folder.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowgauge.domain.errors import SettingsError
from flowgauge.domain.messages import FrozenModel
from flowgauge.synthetic.anomalies import SyntheticAnomaly
from flowgauge.synthetic.noise import Field, smooth_noise
from flowgauge.synthetic.procedural import MATERIALS, ProceduralLine
from flowgauge.vision.decoding import Picture, decode

MaterialFactory = NDArray[np.uint8]

_ATTEMPTS = 20
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_EACH = 3
"""Of every procedural material: more change little, and each takes a fifth of a second to make."""


@cache
def procedural_textures(size: int) -> tuple[MaterialFactory, ...]:
    """Surfaces (size, size, 3) of all materials; always the same."""
    lines = [ProceduralLine(material, seed=0, size=size) for material in sorted(MATERIALS)]
    return tuple(line.good(index).pixels for line in lines for index in range(_EACH))


def textures_of(folder: Path, size: int) -> tuple[MaterialFactory, ...]:
    """The images in `folder`, brought to (size, size, 3). Raises `SettingsError` where there are none."""
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise SettingsError(f"{folder} holds no textures.", "Give a folder of images.")
    pictures = (Image.fromarray(decode(path.read_bytes()).pixels) for path in files)
    return tuple(np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)) for picture in pictures)


class TextureOverlay(FrozenModel):
    """Which textures, and where: with `on_object`, on what differs from the border's colour alone, where that is
    anything; else anywhere. `folder` None: surfaces of all procedural materials.
    """

    on_object: bool = False
    folder: str | None = None

    def textures(self, size: int) -> tuple[MaterialFactory, ...]:
        return procedural_textures(size) if self.folder is None else textures_of(Path(self.folder), size)


def paste(
    pixels: NDArray[np.uint8], textures: Sequence[MaterialFactory], rng: np.random.Generator, *, on_object: bool = False
) -> SyntheticAnomaly:
    """`pixels` (S, S, 3) with one of `textures` (S, S, 3) pasted, of an opacity of 0.2 to 0.8. The input stays as it
    is; the same state of `rng` pastes the same. Gray images stay gray.
    """
    allowed = _allowed(pixels, on_object)
    for _ in range(_ATTEMPTS):
        mask = _patches(rng, allowed.shape) & allowed
        if mask.any():
            break
    else:
        mask = allowed
    gray = bool((pixels == pixels[..., :1]).all())
    texture = _varied(textures[int(rng.integers(len(textures)))], rng, gray=gray)
    opacity = np.float32(np.clip(rng.normal(0.5, 0.1), 0.2, 0.8)) * mask[..., None]
    mixed = pixels * (1 - opacity) + texture * opacity
    return SyntheticAnomaly(np.rint(mixed).astype(np.uint8), mask, "texture")


def _allowed(pixels: NDArray[np.uint8], on_object: bool) -> NDArray[np.bool_]:
    found = Picture(pixels, "").outline if on_object else np.zeros(pixels.shape[:2], bool)
    return found if found.any() else np.ones(pixels.shape[:2], bool)


def _patches(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """One field of noise above its level; or the places that two share; or those of either."""
    first, second = (_noisy(rng, (shape[0], shape[1])) for _ in range(2))
    return (first, first & second, first | second)[int(rng.integers(3))]


def _noisy(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Where noise of a random scale lies in its upper tail, a thirtieth to an eighth of all places."""
    noise = smooth_noise(rng, shape, cells=2 ** rng.uniform(1, 5))
    found: NDArray[np.bool_] = noise > np.quantile(noise, 1 - np.exp(rng.uniform(np.log(1 / 30), np.log(1 / 8))))
    return found


def _varied(texture: MaterialFactory, rng: np.random.Generator, *, gray: bool) -> Field:
    """Turned, mirrored, under another light, and gray on gray images: colour alone would give it away there."""
    turned = np.rot90(texture, int(rng.integers(4)))
    turned = turned[:, ::-1] if rng.random() < 0.5 else turned
    varied = turned.astype(np.float32) * np.float32(np.exp(rng.normal(0, 0.3)))
    if gray:
        varied = np.repeat(varied.mean(axis=2, keepdims=True), 3, axis=2)
    return np.asarray(np.clip(varied, 0, 255), np.float32)
