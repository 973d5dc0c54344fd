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
from flowgauge.domain.image_files import image_bytes, named_as_image
from flowgauge.synthetic.anomalies import SyntheticAnomaly
from flowgauge.synthetic.noise import smooth_noise
from flowgauge.synthetic.procedural import MATERIALS, ProceduralLine
from flowgauge.vision.decoding import Picture, decode

Texture = NDArray[np.uint8]

# draws of a mask that must meet the object; then all of the object is covered
_ATTEMPTS = 20
# textures of each procedural material: more change little, and each takes a fifth of a second to make
_EACH = 3


@cache
def procedural_textures(size: int) -> tuple[Texture, ...]:
    """Surfaces (size, size, 3) of all materials; always the same."""
    lines = [ProceduralLine(material, seed=0, size=size) for material in sorted(MATERIALS)]
    return tuple(line.good(index).pixels for line in lines for index in range(_EACH))


def textures_of(folder: Path | str | None, size: int) -> tuple[Texture, ...]:
    """(size, size, 3) of the images in `folder`; procedural ones for None. Raises `SettingsError` for no images."""
    if folder is None:
        return procedural_textures(size)
    files = sorted(path for path in Path(folder).glob("*") if named_as_image(path.name))
    if not files:
        raise SettingsError(f"{folder} holds no textures.", "Give a folder of images.")
    pictures = (Image.fromarray(decode(image_bytes(path)).pixels) for path in files)
    return tuple(np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)) for picture in pictures)


def paste(
    pixels: NDArray[np.uint8], textures: Sequence[Texture], rng: np.random.Generator, *, on_object: bool = False
) -> SyntheticAnomaly:
    """`pixels` (S, S, 3) with one of `textures` (S, S, 3) pasted, of an opacity of 0.2 to 0.8. The input stays as it
    is; the same state of `rng` pastes the same. Gray images stay gray.
    """
    everywhere = np.ones(pixels.shape[:2], bool)
    outline = Picture(pixels, "").outline if on_object else everywhere
    allowed = outline if outline.any() else everywhere
    for _ in range(_ATTEMPTS):
        mask = _noise_mask(rng, pixels.shape[:2]) & allowed
        if mask.any():
            break
    else:
        mask = allowed
    texture = np.rot90(textures[int(rng.integers(len(textures)))], int(rng.integers(4)))
    texture = texture[:, ::-1] if rng.random() < 0.5 else texture
    foreign = texture.astype(np.float32) * np.float32(np.exp(rng.normal(0, 0.3)))
    if (pixels == pixels[..., :1]).all():
        # colour alone would give it away on a gray image
        foreign = np.repeat(foreign.mean(axis=2, keepdims=True), 3, axis=2)
    opacity = np.float32(np.clip(rng.normal(0.5, 0.1), 0.2, 0.8)) * mask[..., None]
    mixed = pixels * (1 - opacity) + np.clip(foreign, 0, 255) * opacity
    return SyntheticAnomaly(np.rint(mixed).astype(np.uint8), mask)


def _noise_mask(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W): one field of noise above its level; or the places that two share; or those of either (GLASS s.3.3)."""
    fields = []
    for _ in range(2):
        # noise of a random scale, of which the upper tail counts: a thirtieth to an eighth of all places
        noise = smooth_noise(rng, shape, cells=2 ** rng.uniform(1, 5))
        fields.append(noise > np.quantile(noise, 1 - np.exp(rng.uniform(np.log(1 / 30), np.log(1 / 8)))))
    first, second = fields
    found: NDArray[np.bool_] = (first, first & second, first | second)[int(rng.integers(3))]
    return found
