import io
import struct
import threading
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from flowgauge.domain.errors import UnreadableImage
from flowgauge.domain.image_limits import ImageLimits, set_limits
from flowgauge.vision.decoding import Picture, SixteenBit, decode, statistics

Pixels = NDArray[np.uint8]


@pytest.fixture
def pixels() -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def limit() -> Iterator[Callable[[ImageLimits], None]]:
    """Sets the process's limits until the test has ended."""
    yield set_limits
    set_limits(ImageLimits())


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, form, **options)
    return buffer.getvalue()


def declared_png(width: int, height: int) -> bytes:
    """A PNG whose header promises `width` x `height` pixels and whose data hold none of them."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_without_palette() -> bytes:
    """A PNG of palette numbers, without the palette."""
    whole = encoded(Image.new("P", (16, 16), 1), "PNG")
    start = whole.index(b"PLTE") - 4
    return whole[:start] + whole[start + 12 + int.from_bytes(whole[start : start + 4]) :]


def gray16_tiff(values: NDArray[np.uint16], order: str) -> bytes:
    """An uncompressed 16-bit gray TIFF, `order` being `>` or `<`."""
    height, width = values.shape
    data = values.astype(f"{order}u2").tobytes()
    first_pixel = 8 + 2 + 12 * 8 + 4
    entries = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, first_pixel), (278, height)]
    entries.append((279, len(data)))
    directory = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries)
    magic = b"MM\x00\x2a" if order == ">" else b"II\x2a\x00"
    count, last = struct.pack(f"{order}H", len(entries)), struct.pack(f"{order}I", 0)
    return magic + struct.pack(f"{order}I", 8) + count + directory + last + data


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_back_every_pixel(pixels: Pixels, form: str) -> None:
    picture = decode(encoded(Image.fromarray(pixels), form))

    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.size == (60, 40)


def test_a_jpeg_decodes_to_nearly_the_same_pixels() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 48, axis=0).repeat(3, axis=2)

    picture = decode(encoded(Image.fromarray(ramp), "JPEG", quality=95))

    assert np.abs(picture.pixels.astype(int) - ramp).max() <= 4


def test_the_format_is_reported_by_the_content_and_the_digest_names_the_bytes(pixels: Pixels) -> None:
    png = encoded(Image.fromarray(pixels), "PNG")
    bmp = encoded(Image.fromarray(pixels), "BMP")

    assert decode(png).sha256 == decode(bytes(bytearray(png))).sha256 != decode(bmp).sha256
    np.testing.assert_array_equal(decode(png).pixels, decode(bmp).pixels)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "empty"),
        (b"not an image, only text named .png", "no image"),
        (declared_png(1, 1), "1 x 1"),
        (declared_png(200, 7), "200 x 7"),
        (declared_png(30_000, 30_000), "30000 x 30000"),
        (declared_png(100, 100), "truncated or damaged"),
        (b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
        (png_without_palette(), "truncated or damaged"),
    ],
)
def test_poison_is_refused_with_its_cause_and_a_remedy(data: bytes, cause: str) -> None:
    with pytest.raises(UnreadableImage) as caught:
        decode(data)

    assert cause in caught.value.cause
    assert caught.value.remedy.endswith(".")


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_truncated_image_is_refused(pixels: Pixels, form: str, share: float) -> None:
    whole = encoded(Image.fromarray(pixels), form)

    with pytest.raises(UnreadableImage, match="truncated or damaged"):
        decode(whole[: int(len(whole) * share)])


def test_an_animated_gif_is_named_as_such(pixels: Pixels) -> None:
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]

    with pytest.raises(UnreadableImage, match="GIF"):
        decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))


def test_another_photo_format_is_named_as_such(pixels: Pixels) -> None:
    with pytest.raises(UnreadableImage, match="WebP"):
        decode(encoded(Image.fromarray(pixels), "WEBP"))


@pytest.mark.parametrize("form", ["TIFF", "PNG"])
def test_a_file_of_several_images_is_refused(pixels: Pixels, form: str) -> None:
    second = Image.fromarray(255 - pixels)

    with pytest.raises(UnreadableImage, match="several images"):
        decode(encoded(Image.fromarray(pixels), form, save_all=True, append_images=[second]))


def test_a_decompression_bomb_costs_neither_time_nor_memory() -> None:
    bomb = declared_png(30_000, 30_000)
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(UnreadableImage, match="limit of 64,000,000"):
        decode(bomb)
    elapsed = time.perf_counter() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert elapsed < 0.5
    assert peak < 1_000_000


def test_the_limits_are_settings(pixels: Pixels, limit: Callable[[ImageLimits], None]) -> None:
    png = encoded(Image.fromarray(pixels), "PNG")

    limit(ImageLimits(max_pixels=2399))
    with pytest.raises(UnreadableImage, match="declares 60 x 40"):
        decode(png)
    limit(ImageLimits(max_pixels=2400))
    assert decode(png).size == (60, 40)
    limit(ImageLimits(min_side=41))
    with pytest.raises(UnreadableImage, match="at least 41"):
        decode(png)


def test_the_limit_is_ours_and_pillows_stays_as_it_was(pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)

    assert decode(encoded(Image.fromarray(pixels), "PNG")).size == (60, 40)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_gray_follows_the_stored_rule(order: str) -> None:
    values = np.linspace(0, 65535, 8 * 16).astype(np.uint16).reshape(8, 16)

    full = decode(gray16_tiff(values, order)).pixels
    twelve = decode(gray16_tiff(values, order)).by(SixteenBit.TWELVE_BIT).pixels

    np.testing.assert_array_equal(full[..., 0], np.rint(values / 257))
    np.testing.assert_array_equal(twelve[..., 2], np.rint(np.minimum(values, 4095) / 4095 * 255))


def test_a_sixteen_bit_pixel_does_not_depend_on_its_neighbours() -> None:
    dim = np.full((16, 16), 12_000, np.uint16)
    with_glint = dim.copy()
    with_glint[0, 0] = 65535

    alone, beside = (decode(encoded(Image.fromarray(values), "PNG")).pixels for values in (dim, with_glint))

    assert alone[8, 8, 0] == beside[8, 8, 0] == round(12_000 / 257)


def test_floating_point_images_are_refused() -> None:
    values = np.random.default_rng(0).random((16, 16)).astype(np.float32)

    with pytest.raises(UnreadableImage, match="32 bits"):
        decode(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_one_bit_and_palette_images_show_their_own_colours(pixels: Pixels, mode: str) -> None:
    image = Image.fromarray(pixels).convert(mode)

    np.testing.assert_array_equal(decode(encoded(image, "PNG")).pixels, np.asarray(image.convert("RGB")))


def test_cmyk_becomes_rgb() -> None:
    ink = Image.new("CMYK", (20, 10), (0, 255, 255, 0))

    np.testing.assert_array_equal(decode(encoded(ink, "TIFF")).pixels[5, 5], (255, 0, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_black(mode: str) -> None:
    white = Image.new("RGBA", (16, 16), (255, 255, 255, 255))
    white.putalpha(Image.fromarray(np.repeat(np.array([[0, 128, 255, 255]], np.uint8), 16, 0).repeat(4, 1)))

    row = decode(encoded(white.convert(mode), "PNG")).pixels[8, ::4, 0]

    np.testing.assert_array_equal(row, (0, 128, 255, 255))


def test_transparency_cuts_the_object_out() -> None:
    pixels = np.full((20, 30, 4), 200, np.uint8)
    pixels[5:15, 10:20, 3], pixels[:5, :, 3], pixels[15:, :, 3] = 255, 0, 0
    pixels[5:15, :10, 3], pixels[5:15, 20:, 3] = 100, 0
    outline = decode(encoded(Image.fromarray(pixels), "PNG")).outline
    assert outline[5:15, 10:20].all()
    assert int(outline.sum()) == 100, "what is mostly transparent is not the object"


@pytest.mark.parametrize("alpha", [0, 255])
def test_an_image_that_is_all_or_not_at_all_transparent_cuts_nothing_out(alpha: int) -> None:
    pixels = np.full((20, 30, 4), (200, 200, 200, alpha), np.uint8)
    assert decode(encoded(Image.fromarray(pixels), "PNG")).cut is None


def test_a_transparent_palette_entry_shows_black() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([10, 20, 30, 200, 210, 220])

    np.testing.assert_array_equal(decode(encoded(image, "PNG", transparency=1)).pixels[3, 3], (0, 0, 0))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(pixels: Pixels, form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels),
    }[orientation]

    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels), form, exif=exif)).pixels, upright)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF"])
def test_damaged_bytes_give_a_picture_or_a_reason_and_no_warning(
    pixels: Pixels, form: str, limit: Callable[[ImageLimits], None]
) -> None:
    limit(ImageLimits(max_pixels=1_000_000))
    rng = np.random.default_rng(3)
    whole = encoded(Image.fromarray(pixels), form)
    refused = 0
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        for _ in range(300):
            damaged = bytearray(whole)
            for index in rng.integers(0, min(200, len(whole)), rng.integers(1, 6)):
                damaged[index] = rng.integers(256)
            try:
                decode(bytes(damaged))
            except UnreadableImage:
                refused += 1

    assert remarks == []
    assert refused > 20


def test_threads_may_decode_side_by_side(pixels: Pixels) -> None:
    png = encoded(Image.fromarray(pixels), "PNG")
    results: list[Picture] = []
    threads = [threading.Thread(target=lambda: results.append(decode(png))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 8
    assert all(np.array_equal(result.pixels, pixels) for result in results)


def test_statistics_of_a_flat_image_are_finite() -> None:
    flat = statistics(np.full((32, 48, 3), 51, np.uint8))

    assert flat.brightness == pytest.approx(0.2)
    assert (flat.contrast, flat.focus) == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.parametrize("level", [3, 128, 251, 255])
def test_a_flat_image_has_neither_contrast_nor_focus_however_bright(level: int) -> None:
    flat = statistics(np.full((512, 512, 3), level, np.uint8))

    assert (flat.contrast, flat.focus) == (0, 0)


@pytest.mark.parametrize("level", [20, 150, 240])
def test_noise_of_one_level_has_its_contrast_and_focus_however_bright(level: int) -> None:
    gray = level + np.random.default_rng(0).integers(0, 2, (512, 512))
    edges = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * gray[1:-1, 1:-1]
    seen = statistics(np.repeat(gray[:, :, None].astype(np.uint8), 3, axis=2))

    assert seen.contrast == pytest.approx(gray.std() / 255, rel=1e-9)
    assert seen.focus == pytest.approx(np.log((edges.var() + 1 / 12) / (gray.var() + 1 / 12)), rel=1e-9)


def test_brightness_and_contrast_are_those_of_the_gray_values() -> None:
    halves = np.zeros((32, 32, 3), np.uint8)
    halves[:, 16:] = 255

    seen = statistics(halves)

    assert (seen.brightness, seen.contrast) == pytest.approx((0.5, 0.5))


def test_focus_falls_with_blur_and_ignores_contrast(pixels: Pixels) -> None:
    sharp = ndimage.gaussian_filter(pixels, (1, 1, 0)).astype(np.uint8)
    blurred = ndimage.gaussian_filter(pixels, (2.5, 2.5, 0)).astype(np.uint8)
    dimmed = (128 + (sharp.astype(float) - 128) * 0.6).astype(np.uint8)
    focus = [statistics(view).focus for view in (sharp, blurred, dimmed)]

    assert focus[1] < focus[0] - 1
    assert focus[2] == pytest.approx(focus[0], abs=0.1)


def test_fingerprints_are_close_for_one_scene_and_far_for_another() -> None:
    rng = np.random.default_rng(5)
    scenes = [rng.integers(40, 180, (8, 9, 1), dtype=np.uint8).repeat(20, 0).repeat(20, 1).repeat(3, 2) for _ in "ab"]
    noisy = scenes[0] + rng.integers(0, 6, scenes[0].shape, dtype=np.uint8)
    prints = [statistics(view).fingerprint for view in (scenes[0], noisy, scenes[1])]
    first, again, other = (int(fingerprint, 16) for fingerprint in prints)

    assert {len(fingerprint) for fingerprint in prints} == {16}
    assert (first ^ again).bit_count() <= 6
    assert (first ^ other).bit_count() >= 16
