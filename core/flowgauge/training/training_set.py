"""From pictures to what a detector is taught with: views of good images, and copies with painted defects."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.models.backbones import Backbone
from flowgauge.models.detector import Detector, Embedding, Lesson, Progress, joined
from flowgauge.synthetic.anomalies import KINDS, paint, paint_on
from flowgauge.synthetic.texture_overlay import Pasting, paste
from flowgauge.vision.augmentation import PLAIN, View
from flowgauge.vision.decoding import Picture
from flowgauge.vision.preprocessing import Preprocessing, shown

Squares = NDArray[np.uint8]

_BATCH = 16


@dataclass(frozen=True)
class Embedder:
    """Runs squares through the frozen backbone and keeps what `detector` keeps of them."""

    backbone: Backbone
    preprocessing: Preprocessing
    detector: Detector

    def measured(self, pictures: Sequence[Picture]) -> "Embedder":
        """With the preprocessing that has measured `pictures`. Raises `DatasetError` where it cannot."""
        return replace(self, preprocessing=self.preprocessing.measured(pictures))

    def embed(self, squares: Squares, progress: Progress, view: View = PLAIN, what: str = "") -> Embedding:
        """(N, size, size, 3) -> the embedding of that view of each, on the CPU."""
        parts = []
        for start in range(0, len(squares), _BATCH):
            images = self.preprocessing.normalised(squares[start : start + _BATCH], view)
            with torch.inference_mode():
                embedding = self.detector.embed(self.backbone(images, self.detector.halvings))
            parts.append({name: tensor.cpu().clone() for name, tensor in embedding.items()})
            progress(what or "reading features", min(start + _BATCH, len(squares)), len(squares))
        return joined(parts)

    def lesson(self, squares: Squares, *, seed: int, progress: Progress) -> Lesson:
        """Views, then paintings, of all squares; rows are ordered by view, and within a view by image."""
        views = self.detector.training_views(len(squares))
        good = [
            self.embed(squares, progress, view, f"reading features, view {number} of {len(views)}")
            for number, view in enumerate(views, start=1)
        ]
        image = torch.arange(len(squares))
        painted, masks = self._copies(squares, seed, progress)
        return Lesson(
            good=joined(good),
            image=image.repeat(len(views)),
            painted=painted,
            painted_image=image.repeat(self.detector.paintings),
            mask=masks,
        )

    def _copies(self, squares: Squares, seed: int, progress: Progress) -> tuple[Embedding, Tensor]:
        copies = self.detector.paintings
        if not copies:
            return {}, torch.zeros(0, *self.detector.grid)
        embedded, masks = [], []
        for copy in range(copies):
            embedding, mask = self.painted(squares, seed + copy, progress, f"painted defects, {copy + 1} of {copies}")
            embedded.append(embedding)
            masks.append(mask)
        return joined(embedded), torch.cat(masks)

    def painted(self, squares: Squares, seed: int, progress: Progress, what: str) -> tuple[Embedding, Tensor]:
        """A copy of each square with a painted defect, as an embedding, and the masks (N, h, w) on the grid."""
        painted = self._brushed(varied(squares, seed), seed)
        return self.embed(painted.squares, progress, what=what), on_grid(painted.masks, self.detector.grid)

    def _brushed(self, squares: Squares, seed: int) -> "PaintedSquares":
        pasting = self.detector.pasting
        cut = self.preprocessing.blackens
        if pasting is None:
            return paint_all(squares, seed, cut=cut)
        return paste_all(squares, pasting.model_copy(update={"on_object": pasting.on_object or cut}), seed)


@dataclass(frozen=True)
class PaintedSquares:
    """`squares` (N, size, size, 3), `masks` (N, size, size): where each was painted; `kinds`: with what."""

    squares: Squares
    masks: NDArray[np.bool_]
    kinds: tuple[str, ...]


def paint_all(squares: Squares, seed: int, *, cut: bool) -> PaintedSquares:
    """One defect on each square, all kinds in turn; where objects are `cut` out, on the object alone."""
    rng = np.random.default_rng(seed)
    kinds = tuple(KINDS[rank % len(KINDS)] for rank in rng.permutation(len(squares)))
    painted = [
        paint_on(square, shown(square), kind, rng) if cut else paint(square, kind, rng)
        for square, kind in zip(squares, kinds, strict=True)
    ]
    return PaintedSquares(np.stack([p.pixels for p in painted]), np.stack([p.mask for p in painted]), kinds)


def paste_all(squares: Squares, pasting: Pasting, seed: int) -> PaintedSquares:
    """One texture on each square."""
    rng, textures = np.random.default_rng(seed), pasting.textures(squares.shape[1])
    pasted = [paste(square, textures, rng, on_object=pasting.on_object) for square in squares]
    return PaintedSquares(
        np.stack([p.pixels for p in pasted]), np.stack([p.mask for p in pasted]), tuple(p.kind for p in pasted)
    )


def varied(squares: Squares, seed: int) -> Squares:
    """Another view of each: mirrored, upside down, and under somewhat another light."""
    rng = np.random.default_rng(seed)
    return np.concatenate([_seen_as(random_view(rng), square[None]) for square in squares])


def random_view(rng: np.random.Generator) -> View:
    gain, gamma = np.exp(rng.normal(0, (0.2, 0.15)))
    return View(turns=int(rng.choice([0, 2])), flip=bool(rng.random() < 0.5), gain=float(gain), gamma=float(gamma))


def _seen_as(view: View, squares: Squares) -> Squares:
    images = torch.from_numpy(squares).permute(0, 3, 1, 2).float().div(255)
    seen: Squares = view.apply(images).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    return seen


def on_grid(masks_NHW: NDArray[np.bool_], grid: tuple[int, int]) -> Tensor:
    """(N, h, w): the share of each cell that the mask covers, in [0, 1]."""
    return F.adaptive_avg_pool2d(torch.from_numpy(masks_NHW).float().unsqueeze(1), grid).squeeze(1)


def rows_of_view(lesson_images: int, detector: Detector, view: View) -> slice:
    """Where the rows of `view` lie in a lesson of so many images."""
    position = detector.training_views(lesson_images).index(view)
    return slice(position * lesson_images, (position + 1) * lesson_images)
