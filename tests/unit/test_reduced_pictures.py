"""What a gauge sees of a large image does not depend on how far it was decoded; small images are not touched."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image
from scipy import ndimage

from flowgauge.domain.choices import Aspect
from flowgauge.domain.errors import UnreadableImage
from flowgauge.domain.messages import Statistics
from flowgauge.vision.decoding import Picture, SixteenBit, decode, statistics
from flowgauge.vision.heatmaps import backdrop
from flowgauge.vision.preprocessing import Preprocessing, object_box
from tests.support.files import encoded
from tests.support.gauges import gauge, line

Pixels = NDArray[np.uint8]

WIDTH, HEIGHT = 1_291, 1_075  # no multiple of eight, as no block of a JPEG is whole at the edges


def part(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Pixels:
    """(H, W, 3) coloured texture of many scales under a sensor's noise."""
    rng = np.random.default_rng(seed)
    found = np.zeros((height, width, 3), np.float32)
    for cell in (3, 9, 40, 160):
        grain = rng.integers(0, 256, (-(-height // cell), -(-width // cell), 3), dtype=np.uint8)
        found += np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return np.clip(60 + 0.16 * found + rng.normal(0, 2, found.shape), 0, 255).astype(np.uint8)


def dish() -> Pixels:
    """A bright disc of 700 pixels at (900, 450) on dark ground."""
    y, x = np.indices((HEIGHT, WIDTH))
    inside = np.hypot(x - 900, y - 450) < 350
    return np.where(inside[:, :, None], 100 + part() // 3, 20 + part(seed=1) // 20).astype(np.uint8)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def assert_same_statistics(one: Statistics, other: Statistics) -> None:
    """To the tolerance that `statistics` promises."""
    assert one.brightness == pytest.approx(other.brightness, abs=0.004)
    assert one.contrast == pytest.approx(other.contrast, abs=0.002)
    assert one.focus == pytest.approx(other.focus, abs=0.05)
    assert (int(one.fingerprint, 16) ^ int(other.fingerprint, 16)).bit_count() <= 4


def assert_nearly(one: Pixels, other: Pixels) -> None:
    """To the tolerance that `decode` promises of a JPEG."""
    levels = np.abs(one.astype(int) - other)
    assert levels.mean() <= 1
    assert levels.max() <= 8


LOOKS = [
    Preprocessing(size=64),
    Preprocessing(size=128),
    Preprocessing(size=64, aspect=Aspect.LETTERBOX),
    Preprocessing(size=64, aspect=Aspect.CENTRE),
    Preprocessing(size=64, aspect=Aspect.MASKED_CROP, window=800),
]


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: f"{look.aspect} {look.size}")
@pytest.mark.parametrize(
    "options",
    [{"quality": 90, "subsampling": 0}, {"quality": 75, "subsampling": 2}, {"quality": 60, "progressive": True}],
    ids=["444", "420", "progressive"],
)
def test_crop_and_statistics_of_a_jpeg_are_the_same_decoded_wholly_or_reduced(
    look: Preprocessing, options: dict[str, object]
) -> None:
    data = encoded(Image.fromarray(dish()), "JPEG", **options)
    whole, reduced = look.crop(decode(data)), look.crop(look.decode(data))
    assert_nearly(whole.pixels, reduced.pixels)
    assert_same_statistics(whole.statistics, reduced.statistics)
    assert look.decode(data).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_other_formats_are_the_same_to_the_last_bit(form: str, mode: str) -> None:
    data = encoded(Image.fromarray(part()).convert(mode), form)
    look = Preprocessing(size=64)
    whole, reduced = decode(data), look.decode(data)
    assert (whole.reduction, reduced.reduction) == (1, 2)
    np.testing.assert_array_equal(look.resampled(whole), look.resampled(reduced))
    assert_same_statistics(whole.statistics, reduced.statistics)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_and_cmyk_jpegs_are_reduced_too(mode: str) -> None:
    data = encoded(Image.fromarray(part()).convert(mode), "JPEG", quality=90)
    look = Preprocessing(size=64)
    assert look.decode(data).reduction == 2
    assert_nearly(look.resampled(decode(data)), look.resampled(look.decode(data)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("width", "height"), [(1_296, 1_080), (WIDTH, HEIGHT), (1_294, 1_078)])
def test_a_jpeg_that_lies_on_its_side_is_upright_and_nothing_shifts(width: int, height: int, orientation: int) -> None:
    data = encoded(Image.fromarray(part(width, height)), "JPEG", quality=90, exif=turned(orientation))
    look = Preprocessing(size=128)
    whole, reduced = decode(data), look.decode(data)
    assert whole.size == reduced.size == ((height, width) if orientation > 4 else (width, height))
    assert_nearly(look.resampled(whole), look.resampled(reduced))
    assert_same_statistics(whole.statistics, reduced.statistics)
    if orientation == 1 or width % 4 == 0:
        assert reduced.reduction == 2


@given(
    st.tuples(st.integers(8, 12_000), st.integers(8, 12_000)),
    st.integers(2, 64).map(lambda number: 32 * number),
    st.sampled_from(Aspect),
    st.none() | st.integers(1, 9_000),
)
def test_no_picture_is_reduced_below_twice_its_crop_or_what_statistics_need(
    size: tuple[int, int], side: int, aspect: Aspect, window: int | None
) -> None:
    look = Preprocessing(size=side, aspect=aspect, window=window)
    found = look.reduction(size)
    assert found in (1, 2, 4, 8)
    if found > 1:
        box = {Aspect.SQUASH: min(size), Aspect.LETTERBOX: max(size), Aspect.MASKED_CROP: window}[aspect]
        assert box is not None
        assert box / found >= 2 * side
        assert max(size) / found >= 512
        assert min(size) > 7 * found, "eight rows, or the statistics of a strip would be others"


@pytest.mark.parametrize("side", [256, 400, 511])
def test_images_below_four_times_the_crop_are_seen_bit_for_bit_as_they_are(side: int) -> None:
    pixels = part(side, side)
    for form in ("PNG", "JPEG"):
        data = encoded(Image.fromarray(pixels), form)
        seen, image = Preprocessing(size=128).decode(data), Image.open(BytesIO(data))
        assert seen.reduction == 1
        np.testing.assert_array_equal(seen.pixels, np.asarray(image))
        square = image.resize((128, 128), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(Preprocessing(size=128).resampled(seen), np.asarray(square))


def test_images_of_up_to_512_pixels_are_measured_as_they_are() -> None:
    pixels = part(512, 300)
    gray = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)
    edges = ndimage.laplace(gray)[1:-1, 1:-1]
    seen = statistics(pixels)
    assert seen.brightness == pytest.approx(gray.mean() / 255, rel=1e-9)
    assert seen.contrast == pytest.approx(gray.std() / 255, rel=1e-9)
    rounding = 1 / 12
    assert seen.focus == pytest.approx(np.log((edges.var() + rounding) / (gray.var() + rounding)), rel=1e-9)


def test_a_larger_image_is_measured_by_the_means_of_its_pixels() -> None:
    pixels = part(1_600, 1_200)
    by_fours = pixels.reshape(300, 4, 400, 4, 3).mean(axis=(1, 3))
    assert_same_statistics(statistics(pixels), statistics(np.rint(by_fours).astype(np.uint8)))


@pytest.mark.parametrize("size", [(20_000, 8), (9, 7_000), (3_000, 62), (3_000, 57), (513, 8)])
def test_a_strip_has_statistics_however_long_it_is(size: tuple[int, int]) -> None:
    pixels = part(*size)
    look = Preprocessing(size=64, aspect=Aspect.LETTERBOX)
    whole, reduced = Picture(pixels, ""), look.seen(Picture(pixels, ""))
    assert_same_statistics(whole.statistics, reduced.statistics)


def test_a_lens_out_of_focus_shows_in_a_reduced_picture() -> None:
    look = Preprocessing(size=64)
    focus = [
        look.decode(encoded(Image.fromarray(view), "JPEG", quality=90)).statistics.focus
        for view in (part(), ndimage.gaussian_filter(part(), (6, 6, 0)))
    ]
    assert focus[1] < focus[0] - 1


def test_boxes_are_those_of_the_whole_image() -> None:
    data = encoded(Image.fromarray(dish()), "JPEG", quality=90)
    seen = Preprocessing(size=64, aspect=Aspect.MASKED_CROP, window=800).decode(data)
    assert seen.reduction == 2
    assert seen.pixels.shape == (538, 646, 3)
    # outlines are as coarse as the 256 pixels that they are sought on
    assert object_box(seen) == pytest.approx((550, 100, 1_250, 800), abs=12)
    assert object_box(decode(data)) == pytest.approx(object_box(seen), abs=12)


def test_an_objects_box_ends_with_the_image() -> None:
    pixels = np.full((1_075, 1_291, 3), 30, np.uint8)
    pixels[600:, 700:] = 200
    seen = Picture(pixels, "").reduced(8)
    assert object_box(seen)[2:] == (1_291, 1_075)


def test_a_map_goes_back_over_the_whole_image() -> None:
    data = encoded(Image.fromarray(dish()), "JPEG", quality=90)
    heat = np.random.default_rng(0).random((8, 8), np.float32)
    for look in LOOKS[:3]:
        whole, reduced = (look.restore(heat, picture) for picture in (decode(data), look.decode(data)))
        np.testing.assert_array_equal(whole, reduced)
    assert backdrop(LOOKS[0].decode(data)).shape == backdrop(decode(data)).shape == (426, 512)


def test_pictures_of_16_bits_and_cut_outs_stay_whole() -> None:
    deep = np.random.default_rng(0).integers(0, 4_096, (1_200, 1_400)).astype(np.uint16)
    look = Preprocessing(size=64, sixteen_bit=SixteenBit.TWELVE_BIT)
    data = encoded(Image.fromarray(deep), "TIFF")
    seen = look.decode(data)
    assert (seen.reduction, seen.sixteen_bit) == (1, SixteenBit.TWELVE_BIT)
    np.testing.assert_array_equal(seen.pixels, decode(data).by(SixteenBit.TWELVE_BIT).pixels)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[200:900, 300:1_000] = True
    cut = Picture(part(), "").cut_out(mask)
    assert look.seen(cut) is cut
    alpha = Image.fromarray(part())
    alpha.putalpha(Image.fromarray(mask.astype(np.uint8) * 255))
    np.testing.assert_array_equal(look.decode(encoded(alpha, "PNG")).pixels, cut.pixels)


def test_a_picture_for_a_coarser_gauge_is_refused() -> None:
    data = encoded(Image.fromarray(part()), "JPEG")
    coarse, fine = Preprocessing(size=64), Preprocessing(size=512)
    with pytest.raises(ValueError, match="coarser"):
        fine.seen(coarse.decode(data))
    assert coarse.seen(fine.decode(data)).reduction == 2


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_truncated_jpeg_is_refused_when_it_is_decoded_reduced_too(share: float) -> None:
    whole = encoded(Image.fromarray(part()), "JPEG")
    with pytest.raises(UnreadableImage, match="truncated or damaged"):
        Preprocessing(size=64).decode(whole[: int(len(whole) * share)])


def test_a_gauge_says_the_same_of_an_image_decoded_wholly_or_reduced() -> None:
    known, sample = gauge(), line().defect(70, "stain")
    assert sample.mask is not None
    large = Image.fromarray(sample.pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    data = encoded(large, "JPEG", quality=95)
    reduced = known.manifest.preprocessing.decode(data)
    assert reduced.reduction == 2
    first, second = known.predict([decode(data), reduced])
    assert second.score == pytest.approx(first.score, rel=0.05)
    assert second.anomaly_map == pytest.approx(first.anomaly_map, abs=0.1 * float(first.anomaly_map.max()))
    rows, columns = np.nonzero(np.asarray(Image.fromarray(sample.mask).resize((WIDTH, HEIGHT))))
    for region in (first.regions[0], second.regions[0]):
        assert region.left < columns.mean() < region.right
        assert region.top < rows.mean() < region.bottom
