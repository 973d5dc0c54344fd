import numpy as np
import pytest
import torch

from flowgauge.domain.choices import Aspect
from flowgauge.domain.errors import DatasetError
from flowgauge.vision.augmentation import View, normalised
from flowgauge.vision.decoding import Picture
from flowgauge.vision.preprocessing import Preprocessing, object_box, shown


def _picture(height: int, width: int) -> Picture:
    rng = np.random.default_rng(0)
    return Picture(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "0" * 64)


def _object_on_background(height: int, width: int, box: tuple[int, int, int, int]) -> Picture:
    pixels = np.full((height, width, 3), 30, np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 200
    return Picture(pixels, "0" * 64)


@pytest.mark.parametrize("aspect", list(Aspect))
@pytest.mark.parametrize("shape", [(100, 100), (60, 200), (200, 60), (8, 9)])
def test_every_rule_gives_a_crop(aspect: Aspect, shape: tuple[int, int]) -> None:
    crops = Preprocessing(size=64, aspect=aspect, window=80).crops([_picture(*shape)])
    assert crops.shape == (1, 64, 64, 3)


def test_letterbox_keeps_proportions() -> None:
    picture = _object_on_background(50, 100, (40, 15, 60, 35))
    square = Preprocessing(size=128, aspect=Aspect.LETTERBOX).crops([picture])[0, :, :, 0] > 100
    rows, columns = square.any(axis=1).sum(), square.any(axis=0).sum()
    assert abs(int(rows) - int(columns)) <= 2


def test_the_object_is_found_on_its_background() -> None:
    assert object_box(_object_on_background(80, 120, (20, 10, 70, 50))) == (20, 10, 70, 50)


def test_an_image_without_an_object_is_taken_whole() -> None:
    assert object_box(_picture(40, 60)) == (0, 0, 60, 40)


def test_centre_puts_the_object_in_the_middle() -> None:
    picture = _object_on_background(100, 200, (150, 10, 190, 50))
    square = Preprocessing(size=64, aspect=Aspect.CENTRE).crops([picture])[0, :, :, 0] > 100
    rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
    assert rows.mean() == pytest.approx(31.5, abs=1)
    assert columns.mean() == pytest.approx(31.5, abs=1)


@pytest.mark.parametrize("aspect", list(Aspect))
def test_a_restored_map_lies_over_the_object(aspect: Aspect) -> None:
    picture = _object_on_background(100, 200, (120, 20, 180, 60))
    preprocessing = Preprocessing(size=64, aspect=aspect).measured([picture])
    seen = preprocessing.crops([picture])[0, :, :, 0].astype(np.float32)
    restored = preprocessing.restore((seen > 100).astype(np.float32), picture)
    rows, columns = np.nonzero(restored > 0.5)
    height, width = restored.shape
    assert (columns.mean() + 0.5) / width == pytest.approx(150 / 200, abs=0.03)
    assert (rows.mean() + 0.5) / height == pytest.approx(40 / 100, abs=0.03)


def test_embedding_forgets_patch_and_background() -> None:
    """The same part elsewhere, on another ground, in a picture of another size."""
    here, there = np.full((120, 160, 3), 200, np.uint8), np.full((90, 200, 3), 40, np.uint8)
    part = np.random.default_rng(0).integers(90, 130, (40, 60, 3), dtype=np.uint8)
    here[10:50, 20:80], there[30:70, 110:170] = part, part
    one, other = (Picture(pixels, "") for pixels in (here, there))
    preprocessing = Preprocessing(size=64, aspect=Aspect.MASKED_CROP, window=64)
    masks = [(pixels == pixels[0, 0]).all(axis=2) for pixels in (here, there)]
    first, second = preprocessing.crops(
        [picture.cut_out(~mask) for picture, mask in zip((one, other), masks, strict=True)]
    )
    assert first.max() > 90
    np.testing.assert_array_equal(first, second)


def test_embedding_keeps_the_scale_of_the_largest_object() -> None:
    large, small = (
        _object_on_background(200, 200, (50, 50, 130, 90)),
        _object_on_background(200, 200, (90, 10, 130, 30)),
    )
    preprocessing = Preprocessing(size=96, aspect=Aspect.MASKED_CROP, margin=0.1).measured([large, small])
    assert preprocessing.window == 96  # 80 pixels and a tenth of them on either side: a pixel is a pixel
    for picture, width, height in ((large, 80, 40), (small, 40, 20)):
        seen = preprocessing.resampled(picture)[:, :, 0] > 100
        assert (seen.any(axis=0).sum(), seen.any(axis=1).sum()) == (width, height)


@pytest.mark.parametrize("side", [200, 1000])
def test_embedding_blackens_the_background_and_keeps_a_rim_that_goes_by_the_window(side: int) -> None:
    pixels = _object_on_background(side, side, (60, 60, 140, 140)).pixels
    square = Preprocessing(size=192, aspect=Aspect.MASKED_CROP, window=192).resampled(
        Picture(pixels, "", pixels[:, :, 0] > 100)
    )
    assert sorted(np.unique(square)) == [0, 30, 200]
    assert int((square[96, :, 0] == 30).sum()) == 4, "a hundredth of 192 pixels to either side"


def test_the_darkest_of_an_object_is_not_taken_for_background() -> None:
    outline = np.zeros((100, 100), bool)
    outline[30:70, 30:70] = True
    square = Preprocessing(size=64, aspect=Aspect.MASKED_CROP, window=64).resampled(
        Picture(np.zeros((100, 100, 3), np.uint8), "", outline)
    )
    assert int(shown(square).sum()) == 42**2, "the object and its rim"


def test_a_picture_without_an_object_shows_black() -> None:
    assert not Preprocessing(size=64, aspect=Aspect.MASKED_CROP, window=64).resampled(_picture(100, 100)).any()


def test_a_fit_that_sees_no_objects_is_refused_and_a_picture_without_one_is_unclear() -> None:
    embedding = Preprocessing(size=64, aspect=Aspect.MASKED_CROP)
    part, empty = _object_on_background(100, 100, (20, 20, 60, 60)), _picture(100, 100)
    with pytest.raises(DatasetError, match=r"Only 1 of 2 images show an object.*--masks"):
        embedding.measured([part, empty])
    fitted = embedding.measured([part, part, empty])
    assert fitted.unclear_reasons(part) == ()
    assert "no object" in fitted.unclear_reasons(empty)[0]
    assert "more than the window of 48" in fitted.unclear_reasons(_object_on_background(100, 100, (20, 20, 90, 60)))[0]
    assert Preprocessing(size=64).measured([empty]).unclear_reasons(empty) == ()


def test_a_cut_object_needs_not_stand_out() -> None:
    """Somebody knows better than the segmenter."""
    mask = np.zeros((60, 80), bool)
    mask[10:30, 40:70] = True
    picture = _picture(60, 80).cut_out(mask)
    assert object_box(picture) == (40, 10, 70, 30)
    assert not picture.pixels[~mask].any()


def test_inputs_are_normalised_by_mean_and_deviation() -> None:
    crops = np.full((1, 64, 64, 3), 255, np.uint8)
    found = normalised(Preprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)), crops)
    assert found[0, :, 0, 0].tolist() == pytest.approx([2.0, 1.0, 0.5])


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
