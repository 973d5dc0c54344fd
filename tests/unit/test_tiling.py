"""Overlapping crops: where they lie, how their features become one map, and that maps come back in the right place."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from flowgauge.models.backbones import BackboneSpec, Origin, load_backbone
from flowgauge.synthetic.procedural import ProceduralLine
from flowgauge.training.fit import FitSettings, fit
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import load, save
from flowgauge.vision.decoding import Picture, decode
from flowgauge.vision.preprocessing import Preprocessing
from flowgauge.vision.tiling import Crops, tiled_side
from tests.support.gauges import AT, MATERIAL, png

TILE = 96
SIDE = tiled_side(TILE, 2)
TRANSFORMER = BackboneSpec(name="vit_tiny_patch16_224", layers=(0, 1), origin=Origin.NONE)
NOISE = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tiles", [2, 3, 4])
@pytest.mark.parametrize("cell", [14, 16])
@pytest.mark.parametrize("tile", [128, 224, 256, 448, 512])
def test_an_image_has_as_many_tiles_as_were_asked_for_and_neighbours_overlap(tile: int, cell: int, tiles: int) -> None:
    crops = Crops.of(round(tiled_side(tile, tiles) / cell), round(tile / cell))
    assert len(crops.starts) == tiles
    assert crops.starts[0] == 0
    assert crops.starts[-1] + crops.tile == crops.cells
    steps = [after - start for start, after in pairwise(crops.starts)]
    assert max(steps) < 0.9 * crops.tile


@pytest.mark.parametrize("cells", [4, 6])
def test_an_image_no_larger_than_a_tile_is_taken_whole(cells: int) -> None:
    assert Crops.of(cells, 6) == Crops.of(cells, None) == Crops(cells, cells, (0,))


@pytest.mark.parametrize("tiles", [2, 3])
def test_crops_are_put_together_as_they_were_cut(tiles: int) -> None:
    """In the overlap too, and without mixing images: pixels stand for features of stride 1."""
    crops = Crops.of(4 * tiles + 3, 6)
    images = torch.rand(5, 3, 8 * crops.cells, 8 * crops.cells, generator=torch.Generator().manual_seed(1))
    cut = crops.cut(images, 8)
    assert len(cut) == 5 * len(crops.starts) ** 2
    torch.testing.assert_close(crops.stitched(cut, 5), images)


def test_what_a_crop_says_at_its_edge_counts_at_the_images_edge_alone() -> None:
    crops = Crops.of(14, 8)
    (left, right), length = crops.starts, crops.tile
    features = torch.zeros(4, 1, length, length)
    features[0, 0, 0, 0] = features[0, 0, length - 1, length - 1] = 1.0
    whole = crops.stitched(features, 1)[0, 0]
    assert float(whole[0, 0]) == 1.0
    assert float(whole[left + length - 1, left + length - 1]) < 1e-4
    assert right < left + length


def test_all_crops_of_a_batch_pass_together() -> None:
    backbone = load_backbone(TRANSFORMER.model_copy(update={"tile": TILE}))
    passes: list[int] = []
    hook = backbone.net.register_forward_hook(lambda module, args, output: passes.append(len(args[0])))
    backbone(NOISE)
    hook.remove()
    assert passes == [3 * 4]


def test_an_images_features_do_not_depend_on_its_neighbours() -> None:
    backbone = load_backbone(TRANSFORMER.model_copy(update={"tile": TILE}))
    for together, alone in zip(backbone(NOISE), backbone(NOISE[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


def test_a_pyramids_fine_features_are_those_of_the_whole_image() -> None:
    """What zero padding at crops' edges reaches lies nearer to them than what counts."""
    whole, tiled = (load_backbone(BackboneSpec(tile=tile))(_lit(20, 40)) for tile in (None, TILE))
    assert [level.shape for level in tiled] == [level.shape for level in whole]
    torch.testing.assert_close(tiled[0], whole[0], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(tiled[-1], whole[-1], rtol=1e-3, atol=1e-3), "else docs could promise more"


POSITIONS = [(12, 12), (80, 80), (80, 20), (148, 100), (100, 148)]
"""In pixels: a corner, the middle (in the overlap of all four tiles), the overlap of two, and two others."""


@pytest.mark.parametrize("spec", [BackboneSpec(), TRANSFORMER], ids=["pyramid", "transformer"])
@pytest.mark.parametrize(("row", "column"), POSITIONS)
def test_a_bright_spot_shows_where_it_is(spec: BackboneSpec, row: int, column: int) -> None:
    backbone = load_backbone(spec.model_copy(update={"tile": TILE}))
    for seen, dark in zip(backbone(_lit(row, column)), backbone(torch.zeros(1, 3, SIDE, SIDE)), strict=True):
        change = (seen - dark).square().sum(dim=1)[0]
        at = np.unravel_index(int(change.argmax()), change.shape)
        cell = SIDE / change.shape[0]
        assert np.abs(np.subtract(at, (row / cell - 0.5, column / cell - 0.5))).max() <= 1


def _lit(row: int, column: int) -> Tensor:
    """Dark, with a bright square of 8 pixels a side around the position."""
    image = torch.zeros(1, 3, SIDE, SIDE)
    image[:, :, row - 4 : row + 4, column - 4 : column + 4] = 4
    return image


@cache
def _gauge(backbone: str) -> Gauge:
    spec = {"pyramid": BackboneSpec(tile=TILE), "transformer": TRANSFORMER.model_copy(update={"tile": TILE})}[backbone]
    line = ProceduralLine(MATERIAL, seed=0, size=SIDE)
    settings = FitSettings(
        detector="multidirectional", config={"episodes": 0}, backbone=spec, preprocessing=Preprocessing(size=SIDE)
    )
    return fit([decode(png(line.good(i).pixels)) for i in range(16)], line="press-3", settings=settings, at=AT)


@pytest.mark.parametrize("backbone", ["pyramid", "transformer"])
@pytest.mark.parametrize(("row", "column"), POSITIONS)
def test_a_heatmap_peaks_where_the_defect_is(backbone: str, row: int, column: int) -> None:
    pixels = ProceduralLine(MATERIAL, seed=0, size=SIDE).good(30).pixels.copy()
    pixels[row - 8 : row + 8, column - 8 : column + 8] = [250, 40, 40]
    x, y = _gauge(backbone).predict([Picture(pixels, "0" * 64)])[0].peak
    assert (x, y) == pytest.approx((column / SIDE, row / SIDE), abs=1.5 * 16 / SIDE)


@pytest.mark.parametrize("backbone", ["pyramid", "transformer"])
def test_the_snapshot_of_a_gauge_keeps_its_tiles(backbone: str) -> None:
    gauge = _gauge(backbone)
    snapshot = save(gauge)
    again = load(snapshot.manifest, snapshot.weights)
    pictures = [decode(png(ProceduralLine(MATERIAL, seed=0, size=SIDE).good(i).pixels)) for i in range(40, 43)]
    assert again.manifest.backbone.tile == TILE
    assert [j.score for j in again.predict(pictures)] == [j.score for j in gauge.predict(pictures)]
