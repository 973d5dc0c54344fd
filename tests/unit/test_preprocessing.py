import numpy as np
import pytest
import torch

from core.images import Picture
from core.preprocessing import Aspect, Preprocessing, object_box
from core.views import View


def _picture(height: int, width: int) -> Picture:
    rng = np.random.default_rng(0)
    return Picture(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "0" * 64)


def _object_on_ground(height: int, width: int, box: tuple[int, int, int, int]) -> Picture:
    pixels = np.full((height, width, 3), 30, np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 200
    return Picture(pixels, "0" * 64)


@pytest.mark.parametrize("aspect", list(Aspect))
@pytest.mark.parametrize("shape", [(100, 100), (60, 200), (200, 60), (8, 9)])
def test_every_rule_gives_a_square(aspect: Aspect, shape: tuple[int, int]) -> None:
    squares = Preprocessing(size=64, aspect=aspect).squares([_picture(*shape)])
    assert squares.shape == (1, 64, 64, 3)


def test_letterbox_keeps_proportions() -> None:
    picture = _object_on_ground(50, 100, (40, 15, 60, 35))
    square = Preprocessing(size=128, aspect=Aspect.LETTERBOX).squares([picture])[0, :, :, 0] > 100
    rows, columns = square.any(axis=1).sum(), square.any(axis=0).sum()
    assert abs(int(rows) - int(columns)) <= 2


def test_the_object_is_found_on_its_ground() -> None:
    assert object_box(_object_on_ground(80, 120, (20, 10, 70, 50)).pixels) == (20, 10, 70, 50)


def test_an_image_without_an_object_is_taken_whole() -> None:
    assert object_box(_picture(40, 60).pixels) == (0, 0, 60, 40)


def test_centre_puts_the_object_in_the_middle() -> None:
    picture = _object_on_ground(100, 200, (150, 10, 190, 50))
    square = Preprocessing(size=64, aspect=Aspect.CENTRE).squares([picture])[0, :, :, 0] > 100
    rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
    assert rows.mean() == pytest.approx(31.5, abs=1)
    assert columns.mean() == pytest.approx(31.5, abs=1)


@pytest.mark.parametrize("aspect", list(Aspect))
def test_a_restored_map_lies_over_the_object(aspect: Aspect) -> None:
    preprocessing = Preprocessing(size=64, aspect=aspect)
    picture = _object_on_ground(100, 200, (120, 20, 180, 60))
    seen = preprocessing.squares([picture])[0, :, :, 0].astype(np.float32)
    restored = preprocessing.restore((seen > 100).astype(np.float32), picture.pixels)
    rows, columns = np.nonzero(restored > 0.5)
    height, width = restored.shape
    assert (columns.mean() + 0.5) / width == pytest.approx(150 / 200, abs=0.03)
    assert (rows.mean() + 0.5) / height == pytest.approx(40 / 100, abs=0.03)


def test_inputs_are_normalised_by_mean_and_deviation() -> None:
    squares = np.full((1, 64, 64, 3), 255, np.uint8)
    normalised = Preprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)).normalised(squares)
    assert normalised[0, :, 0, 0].tolist() == pytest.approx([2.0, 1.0, 0.5])


@pytest.mark.parametrize("view", [View(turns=t, flip=f) for t in range(4) for f in (False, True)], ids=repr)
def test_a_view_is_undone_on_its_maps(view: View) -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(view.undo(view.apply(images)[:, 0]), images[:, 0])


def test_a_view_of_light_keeps_values_in_range() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    brighter = View(gain=1.5, contrast=2, gamma=0.7).apply(images)
    assert float(brighter.min()) >= 0
    assert float(brighter.max()) <= 1
    assert float(brighter.mean()) > float(images.mean())
