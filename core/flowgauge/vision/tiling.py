"""Sliding-window inference: overlapping square crops of an image, and their feature maps blended into one.

For backbones whose inputs have a fixed size, and for defects that are small on large images (SAHI, arXiv 2202.06934,
crops in the same way for detection). A cell is the unit in which crops are placed: the side of a transformer's patch,
or a pyramid's coarsest stride, in pixels. Crops begin and end between cells, so their feature maps lie on one grid.
"""

from dataclasses import dataclass
from itertools import product
from math import ceil

import torch
from torch import Tensor

OVERLAP = 0.25
"""The least share of a crop's side that its neighbour shows too. With less, a pyramid's zero padding reaches past the
overlap and seams show; with more, the same pixels are computed more often: at 0.5, 4 crops cover what 2.25 do."""
# Of the side of the whole image, in pixels: what pyramids halve five times must not leave a rest.
_MULTIPLE = 32
# Of the overlap, in its middle: where one crop fades into the next. With 1, features at a crop's very edge count, which
# a pyramid computed from zeros; with 0, transformers' features jump where one crop ends.
_FADED = 0.5
# Of a step from crop to crop: by so much rounding to cells and to `_MULTIPLE` may stretch an image before it takes one
# more row of crops. With more, crops of a stretched image hardly overlap; with 0, rounding adds rows.
_SLACK = 0.2


def tiled_side(tile: int, tiles: int) -> int:
    """The side in pixels of the image that `tiles` overlapping crops of `tile` pixels cover, a multiple of 32."""
    side = tile + (tiles - 1) * (1 - OVERLAP) * tile
    return int(side // _MULTIPLE) * _MULTIPLE


@dataclass(frozen=True)
class Crops:
    """Square crops of `tile` cells a side that begin at each pair of `starts`, on an image of `cells` cells a side."""

    cells: int
    tile: int
    starts: tuple[int, ...]

    @classmethod
    def of(cls, cells: int, tile: int | None) -> "Crops":
        """As few as cover the image and overlap by about `OVERLAP`, spread evenly; the whole image without a tile, and
        where it is not larger than a tile.
        """
        if tile is None or cells <= tile:
            return cls(cells, cells, (0,))
        count = max(2, ceil((cells - OVERLAP * tile) / ((1 - OVERLAP) * tile) - _SLACK))
        return cls(cells, tile, tuple(round(index * (cells - tile) / (count - 1)) for index in range(count)))

    def cut(self, images_BCHW: Tensor, cell: int) -> Tensor:
        """(n * n * B, C, t, t): row by row, and of each crop all images; `cell` is the side of a cell in pixels."""
        side = self.tile * cell
        corners = [(top * cell, left * cell) for top, left in product(self.starts, repeat=2)]
        return torch.cat([images_BCHW[:, :, top : top + side, left : left + side] for top, left in corners])

    def stitched(self, features: Tensor, images: int) -> Tensor:
        """(n * n * B, C, s, s) of the crops of so many images -> (B, C, S, S) on the whole image's grid.

        In the middle of the overlap one crop fades into the next; nearer to a crop's edge it does not count, unless
        that is the image's edge.
        """
        per_cell = features.shape[-1] // self.tile
        length, side = self.tile * per_cell, self.cells * per_cell
        starts = [start * per_cell for start in self.starts]
        # weights (n, s) of each crop's positions along one axis; those of all crops at one place of the image sum to 1
        centre, overlap = torch.arange(length) + 0.5, OVERLAP * length
        from_middle = torch.minimum(centre, length - centre) - overlap / 2
        # positions that no other crop shows need a weight above 0, whatever it is
        ramp = (from_middle / (_FADED * overlap) + 0.5).clamp(1e-6, 1)
        total = torch.zeros(side)
        for start in starts:
            total[start : start + length] += ramp
        weights = torch.stack([ramp / total[start : start + length] for start in starts]).to(features)
        whole = features.new_zeros(images, features.shape[1], side, side)
        corners = product(range(len(starts)), repeat=2)
        for part, (row, column) in zip(torch.split(features, images), corners, strict=True):
            rows, columns = (slice(starts[at], starts[at] + length) for at in (row, column))
            whole[:, :, rows, columns] += weights[row][:, None] * weights[column] * part
        return whole
