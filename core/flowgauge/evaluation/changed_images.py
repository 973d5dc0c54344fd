"""Drift on any data set: its real images under a change of light, contrast, focus or texture.

Few products were recorded while they drifted. What is changed here is the photograph and not the scene, so a change is
simpler than a real one; the images, the parts and the defects are real.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from flowgauge.domain.errors import DatasetError
from flowgauge.evaluation.datasets import Dataset, Entry, picture_of
from flowgauge.evaluation.drift import DriftPhase, ObservedImage
from flowgauge.evaluation.splits import Groups
from flowgauge.synthetic.noise import smooth_noise
from flowgauge.synthetic.procedural import Change
from flowgauge.vision.decoding import Picture, decode
from flowgauge.vision.encoding import png

# Images that fit the first gauge, and good ones in each buffer: with fewer, the threshold of 5 % rests on one or two
# images; more take longer and change little.
FITTED, BUFFERED = 120, 60
# Good images and defects that test each phase: more take longer, fewer make a share of 5 % one or two images.
TESTED = 100
# Defects in each buffer, as a share of all its images; nobody points them out.
CONTAMINATION = 0.2

# The changes are as strong as those of a procedural line at its worst: a reader tells at a glance that something is
# wrong, and defects can still be seen. Weaker ones raise no false alarm that adapting could take away.
_GAIN, _FALL = 0.6, 0.3  # of the light, and by what share it falls from the left to the right
_CONTRAST = 0.5  # around mid-gray
_BLUR = 2.0  # deviation, in units of 1/256 of the shorter side
_COARSENESS, _CELLS = 0.03, 100  # deviation of the brightness, and bumps along the shorter side


def changed(pixels_HWC: NDArray[np.uint8], change: Change, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, the same photograph after `change`; `rng` draws the bumps of another texture."""
    height, width = pixels_HWC.shape[:2]
    image = pixels_HWC.astype(np.float32) / 255
    match change:
        case Change.LIGHT:
            image *= _GAIN * (1 + _FALL * np.linspace(0.5, -0.5, width, dtype=np.float32))[:, None]
        case Change.CONTRAST:
            image = 0.5 + _CONTRAST * (image - 0.5)
        case Change.FOCUS:
            deviation = _BLUR * min(height, width) / 256
            image = ndimage.gaussian_filter(image, (deviation, deviation, 0), truncate=3)
        case Change.TEXTURE:
            image *= 1 + _COARSENESS * smooth_noise(rng, (height, width), _CELLS)[:, :, None]
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), np.uint8)


@dataclass(frozen=True)
class ChangedImages:
    """A data set as a line that changes. `groups` names the part that an image shows; an image that it does not name is
    its own part. All good images of a part lie in the fit or in the buffers, all defects in the buffers or in the test.
    """

    dataset: Dataset
    groups: Groups
    seed: int
    changes: Sequence[Change] = tuple(Change)

    def fitted(self) -> list[ObservedImage]:
        """Good images as they are, at most half of those that the data set trains with."""
        return [self._observed(entry, None) for entry in self._divided_training()[0]]

    def phases(self) -> Iterator[DriftPhase]:
        """The images as they are, then under each of `changes`; in each phase the same images, in the same order.

        Raises `DatasetError` where good images or defects are too few to fill the buffers and the test.
        """
        good = self._divided_training()[1]
        defects = [entry for entry in self._shuffled(self.dataset.test) if entry.defective]
        spoilt, tested = self._divided(defects, round(len(good) * CONTAMINATION / (1 - CONTAMINATION)))
        tested_good = [entry for entry in self._shuffled(self.dataset.test) if not entry.defective][:TESTED]
        if not (spoilt and tested and tested_good):
            raise DatasetError(
                f"{self.dataset.root} has {len(defects)} defects and {len(tested_good)} good images under test/, too"
                " few to fill buffers and to test.",
                "Give a data set with more of them, or none for a procedural line.",
            )
        buffer = self._shuffled([*good, *spoilt])
        for change in (None, *self.changes):
            yield DriftPhase(
                name="as it is" if change is None else str(change),
                buffer=[self._observed(entry, change) for entry in buffer],
                test_good=[self._picture(entry, change) for entry in tested_good],
                test_defect=[self._picture(entry, change) for entry in tested[:TESTED]],
            )

    def _divided_training(self) -> tuple[list[Entry], list[Entry]]:
        entries = self._shuffled(self.dataset.train)
        fitted, rest = self._divided(entries, min(FITTED, len(entries) // 2))
        return fitted, rest[:BUFFERED]

    def _divided(self, entries: Sequence[Entry], count: int) -> tuple[list[Entry], list[Entry]]:
        """About `count` of `entries` and the others, which show other parts."""
        parts = {self._part(entry) for entry in entries[:count]}
        return [e for e in entries if self._part(e) in parts], [e for e in entries if self._part(e) not in parts]

    def _shuffled(self, entries: Sequence[Entry]) -> list[Entry]:
        return [entries[index] for index in np.random.default_rng(self.seed).permutation(len(entries))]

    def _part(self, entry: Entry) -> str:
        return self.groups.get(entry.name, entry.name)

    def _observed(self, entry: Entry, change: Change | None) -> ObservedImage:
        return ObservedImage(entry.name, self._part(entry), self._picture(entry, change))

    def _picture(self, entry: Entry, change: Change | None) -> Picture:
        picture = picture_of(entry)
        if change is None:
            return picture
        rng = np.random.default_rng([self.seed, int(picture.sha256[:8], 16)])
        return decode(png(changed(picture.pixels, change, rng)))
