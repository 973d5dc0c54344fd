"""Windows of training sets: a crop of each image's grid, with the anomalous patch in it where there is one."""

import torch
from torch import Tensor

from flowgauge.models.detector import Embedding, TrainingSet, length
from flowgauge.models.patch_scores import nhwc

# From this anomalous share of its cell on, a patch counts as anomalous; one that is touched less trains nothing. With
# less, the head learns from slivers that are mostly good texture; with more, thin scratches train nothing.
SYNTHETIC_SHARE = 0.08


class Windows:
    """Seeded square windows of `side` cells from a training set's rows: good views first, then synthetic anomalies."""

    def __init__(self, training_set: TrainingSet, side: int, seed: int) -> None:
        self._training_set = training_set
        self._good = length(training_set.good)
        self._patches = training_set.mask.shape[1]
        spatial = [tensor.shape[-1] for tensor in training_set.good.values() if tensor.ndim == 4]
        # windows begin and end between cells of the coarsest features
        self._step = self._patches // min(spatial)
        self._side = max(self._step, side // self._step * self._step)
        self._generator = torch.Generator().manual_seed(seed)

    def of(self, rows: Tensor) -> tuple[Embedding, Tensor]:
        """The windows of `rows` (B,), and the anomalous share (B, side, side) of their cells."""
        embeddings, shares = zip(*[self._window(int(row)) for row in rows], strict=True)
        joined = {name: torch.stack([embedding[name] for embedding in embeddings]) for name in embeddings[0]}
        return {name: nhwc(tensor) for name, tensor in joined.items()}, torch.stack(shares)

    def _window(self, row: int) -> tuple[Embedding, Tensor]:
        given, spans = self._training_set, [(0, self._patches)] * 2
        if row < self._good:
            source, index, share = given.good, row, given.mask.new_zeros(self._patches, self._patches)
        else:
            source, index = given.synthetic, row - self._good
            share = given.mask[index]
            if share.any():
                # the window holds a random one of the cells that count as anomalous, or of the most anomalous ones
                cells = (share >= min(SYNTHETIC_SHARE, float(share.max()))).nonzero()
                chosen = cells[int(torch.randint(len(cells), (), generator=self._generator))].tolist()
                spans = [(at - self._side + 1, at + 1) for at in chosen]
        top, left = (self._corner(*span) for span in spans)
        parts = {}
        for name, tensor in source.items():
            part = tensor[index]
            if part.ndim == 3:
                cells_each = self._patches // part.shape[-1]
                rows, columns = (
                    slice(at // cells_each, at // cells_each + self._side // cells_each) for at in (top, left)
                )
                part = part[:, rows, columns]
            parts[name] = part
        return parts, share[top : top + self._side, left : left + self._side]

    def _corner(self, low: int, high: int) -> int:
        """A random multiple of the step in [low, high) that keeps the window inside."""
        first = -(-max(low, 0) // self._step)
        last = min(high - 1, self._patches - self._side) // self._step
        return self._step * (first + int(torch.randint(max(1, last - first + 1), (), generator=self._generator)))
