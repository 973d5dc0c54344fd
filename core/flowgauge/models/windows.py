"""Windows of training sets: a part of each image's grid, with the painted patch in it where there is one."""

import torch
from torch import Tensor

from flowgauge.models.detector import Embedding, TrainingSet, length


def nhwc(tensor: Tensor) -> Tensor:
    """Channels last in memory, where there are channels: what convolutions on CPUs are quickest with."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


class Windows:
    """Seeded square windows of `side` cells from the rows of a training set: good views first, copies with synthetic
    anomalies after them."""

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
        """The windows of `rows` (B,), and the painted share (B, side, side) of their cells."""
        cut = [self._window(int(row)) for row in rows]
        embeddings = [embedding for embedding, _ in cut]
        joined = {name: torch.stack([embedding[name] for embedding in embeddings]) for name in embeddings[0]}
        joined = {name: nhwc(tensor) for name, tensor in joined.items()}
        return joined, torch.stack([share for _, share in cut])

    def _window(self, row: int) -> tuple[Embedding, Tensor]:
        if row < self._good:
            source, index = self._training_set.good, row
            share = self._training_set.mask.new_zeros(self._patches, self._patches)
            top, left = self._anywhere()
        else:
            source, index = self._training_set.synthetic, row - self._good
            share = self._training_set.mask[index]
            top, left = self._corner(share)
        parts = {name: self._cut(tensor[index], top, left) for name, tensor in source.items()}
        return parts, share[top : top + self._side, left : left + self._side]

    def _cut(self, tensor: Tensor, top: int, left: int) -> Tensor:
        if tensor.ndim < 3:
            return tensor
        cells = self._patches // tensor.shape[-1]
        top, left, side = top // cells, left // cells, self._side // cells
        return tensor[:, top : top + side, left : left + side]

    def _corner(self, share_HW: Tensor) -> tuple[int, int]:
        """A random corner from which the window holds a random one of the most painted cells, or any patch."""
        if not share_HW.any():
            return self._anywhere()
        synthetic = (share_HW >= min(0.08, float(share_HW.max()))).nonzero()
        row, column = synthetic[self._draw(len(synthetic))].tolist()
        return self._random(row - self._side + 1, row + 1), self._random(column - self._side + 1, column + 1)

    def _anywhere(self) -> tuple[int, int]:
        return self._random(0, self._patches), self._random(0, self._patches)

    def _random(self, low: int, high: int) -> int:
        """A multiple of the step in [low, high) that keeps the window inside."""
        first = -(-max(low, 0) // self._step)
        last = min(high - 1, self._patches - self._side) // self._step
        return self._step * (first + self._draw(max(1, last - first + 1)))

    def _draw(self, choices: int) -> int:
        return int(torch.randint(choices, (), generator=self._generator))
