"""Images as cameras make them: bits of any number, unused bytes, line scans; decoded, or refused in words."""

import re
import struct
import tracemalloc
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from flowgauge.domain.errors import DatasetError, UnreadableImage
from flowgauge.domain.image_limits import MAX_MEGAPIXELS
from flowgauge.training.fit import fit
from flowgauge.training.gauge import Gauge
from flowgauge.training.manifest import Manifest
from flowgauge.training.snapshot import load, save
from flowgauge.vision.decoding import Picture, SixteenBit, decode
from flowgauge.vision.preprocessing import Preprocessing, sixteen_bit_rule
from tests.support.colours import planes_tiff, png16, tiff48
from tests.support.folders import write_image
from tests.support.gauges import AT, line, png
from tests.support.gauges import settings as quick
from tests.support.long_runs import examples
from tests.support.shell import Shell
from tests.support.tiffs import packed_tiff, word_tiff

Values = NDArray[np.uint16]

RULES = {10: SixteenBit.TEN_BIT, 12: SixteenBit.TWELVE_BIT, 14: SixteenBit.FOURTEEN_BIT, 16: SixteenBit.FULL_RANGE}
QUICK = ["--size=64", "--set=members=2", "--set=dimensions=24", "--set=blocks=3", "--set=hidden=48"]
QUICK += ["--set=training.steps=40", "--set=training.batch=256", "--device=cpu"]


def values_of(bits: int, shape: tuple[int, int] = (16, 24), seed: int = 0) -> Values:
    """All of the range, both ends included."""
    found = np.random.default_rng(seed).integers(0, 1 << bits, shape).astype(np.uint16)
    found[0, 0], found[0, 1] = 0, (1 << bits) - 1
    return found


def shades(values: Values, bits: int) -> NDArray[np.float64]:
    return np.rint(values / ((1 << bits) - 1) * 255)


def saved(image: Image.Image, form: str) -> bytes:
    stream = BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def part_in(bits: int, index: int, *, defect: bool = False) -> Values:
    """A part of the procedural line as a camera of so many bits takes it."""
    pixels = line().defect(index, "stain").pixels if defect else line().good(index).pixels
    return (pixels[:, :, 0].astype(np.float64) / 255 * ((1 << bits) - 1)).astype(np.uint16)


def pictures_in(bits: int, numbers: range) -> list[Picture]:
    return [decode(saved(Image.fromarray(part_in(bits, number)), "TIFF")) for number in numbers]


@pytest.fixture(scope="module")
def twelve() -> Gauge:
    return fit(pictures_in(12, range(12)), line="press-3", settings=quick(), at=AT)


@pytest.mark.parametrize("strips", [1, 3])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
def test_packed_samples_have_the_contrast_that_the_header_declares(bits: int, order: str, strips: int) -> None:
    values = values_of(bits, (17, 23))
    np.testing.assert_array_equal(decode(packed_tiff(values, bits, order, strips)).pixels[..., 1], shades(values, bits))


@pytest.mark.parametrize("order", ["<", ">"])
def test_samples_that_lie_in_words_of_16_bits_may_declare_fewer(order: str) -> None:
    values = values_of(12)
    np.testing.assert_array_equal(decode(word_tiff(values, 12, order)).pixels[..., 0], shades(values, 12))


def test_white_may_be_zero_and_the_picture_turned() -> None:
    values = values_of(12, (16, 24))
    inverted = decode(packed_tiff(values, 12, t262=0)).pixels[..., 0]
    np.testing.assert_array_equal(inverted, 255 - shades(values, 12))
    turned = decode(packed_tiff(values, 12, t274=6)).pixels[..., 0]
    np.testing.assert_array_equal(turned, np.rot90(shades(values, 12), -1))


@pytest.mark.parametrize("tags", [{"t259": 5}, {"t277": 3}, {"t262": 2}, {"t266": 2}])
def test_packed_forms_that_are_not_read_are_refused_with_a_way_out(tags: dict[str, int]) -> None:
    with pytest.raises(UnreadableImage, match=r"packs 12 bits.*uncompressed"):
        decode(packed_tiff(values_of(12), 12, "<", 1, **tags))


def test_a_packed_file_that_ends_early_is_refused() -> None:
    # of words, what is left would do for samples that lie one behind the other
    for whole in (packed_tiff(values_of(12), 12), word_tiff(values_of(12), 12)):
        with pytest.raises(UnreadableImage, match="truncated"):
            decode(whole[:-30])


def test_a_small_packed_file_that_lists_its_bytes_many_times_takes_no_memory() -> None:
    whole = packed_tiff(values_of(12, (400, 16)), 12, strips=400)
    # each of the 400 strips now has all bytes of the file
    counts = whole.index(struct.pack("<400I", *[24] * 400))
    bomb = whole[:counts] + struct.pack("<400I", *[len(whole)] * 400) + whole[counts + 1_600 :]
    bomb = bomb.replace(struct.pack("<400I", *range(len(whole) - 9_600, len(whole), 24)), bytes(1_600))
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableImage, match="in several strips"):
            decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 50 * len(bomb)
    finally:
        tracemalloc.stop()


@settings(max_examples=max(200, examples(100)), deadline=None)
@given(st.data())
def test_any_file_of_8_to_16_bits_is_decoded_or_refused_in_words(data: st.DataObject) -> None:
    bits = data.draw(st.integers(8, 16), "bits")
    shape = data.draw(st.tuples(st.integers(8, 20), st.integers(8, 20)), "height, width")
    values = values_of(bits, shape, data.draw(st.integers(0, 99), "seed"))
    form = data.draw(st.sampled_from(["packed", "words", "TIFF", "PNG"]), "form")
    order = data.draw(st.sampled_from(["<", ">"]), "order")
    if form == "packed":
        tags = data.draw(
            st.dictionaries(st.sampled_from(["t258", "t259", "t262", "t266", "t274", "t277"]), st.integers(0, 20))
        )
        file = packed_tiff(values, bits, order, data.draw(st.integers(1, 4), "strips"), **tags)
    elif form == "words":
        file = word_tiff(values, bits, order)
    else:
        file = saved(Image.fromarray(values), form)
    damage = data.draw(st.dictionaries(st.integers(0, len(file) - 1), st.integers(0, 255), max_size=4), "damage")
    damaged = bytearray(file)
    for offset, byte in damage.items():
        damaged[offset] = byte
    end = data.draw(st.one_of(st.just(len(file)), st.integers(0, len(file))), "end")
    with suppress(UnreadableImage):  # anything else is a fault
        assert decode(bytes(damaged[:end])).pixels.dtype == np.uint8
    if form in ("TIFF", "PNG"):
        rule = SixteenBit.holding(int(values.max()))
        np.testing.assert_array_equal(decode(file).by(rule).pixels[..., 0], np.rint(values / rule.white * 255))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", sorted(RULES))
def test_the_training_images_tell_how_many_bits_there_are(bits: int, form: str) -> None:
    values = values_of(bits)
    picture = decode(saved(Image.fromarray(values), form))
    assert sixteen_bit_rule([picture]) is RULES[bits]
    measured = Preprocessing(size=64).measured([picture])
    np.testing.assert_array_equal(measured.seen(picture).pixels[..., 2], shades(values, bits))


def test_8_bit_images_leave_the_full_range() -> None:
    assert Preprocessing(size=64).measured([decode(png(line().good(0).pixels))]).sixteen_bit is SixteenBit.FULL_RANGE


def test_a_gauge_sees_by_its_own_rule_and_keeps_it_in_its_manifest(twelve: Gauge) -> None:
    assert twelve.manifest.preprocessing.sixteen_bit is SixteenBit.TWELVE_BIT
    snapshot = save(twelve)
    again = load(snapshot.manifest, snapshot.weights)
    (deep,) = pictures_in(12, range(40, 41))
    (flat,) = [decode(png(twelve.seen(deep).pixels))]
    assert again.predict([deep])[0].score == pytest.approx(again.predict([flat])[0].score)
    assert twelve.manifest.ranges.left_by(again.seen(deep).statistics) == ()


def test_a_manifest_without_a_rule_still_loads(twelve: Gauge) -> None:
    facts = twelve.manifest.model_dump(mode="json")
    del facts["preprocessing"]["sixteen_bit"]
    older = Manifest.model_validate(facts).preprocessing
    (deep,) = pictures_in(12, range(40, 41))
    assert older.seen(deep) is deep, "16-bit files over their full range, as before"


def test_fit_says_the_bits_and_every_command_obeys_them(flowgauge: Shell, tmp_path: Path) -> None:
    store, good, incoming = tmp_path / "plant", tmp_path / "good", tmp_path / "incoming"
    for folder, numbers in ((good, range(16)), (incoming, range(40, 42))):
        folder.mkdir()
        for number in numbers:
            Image.fromarray(part_in(12, number)).save(folder / f"{number:03d}.tif")
    done = flowgauge("fit", good, "--line", "xray", "--store", store, "--json", *QUICK)
    assert done.code == 0, done.err
    assert "16-bit files are read as 12-bit, 0 to 4095" in done.err
    assert done.json["preprocessing"]["sixteen_bit"] == "12-bit"
    files = sorted(incoming.iterdir())
    scored = [each["score"] for each in flowgauge("score", "xray", *files, "--store", store, "--json").json["images"]]
    run = flowgauge("run", incoming, "--line", "xray", "--store", store, "--once", "--json", "--device", "cpu")
    verdicts = [json for json in run.lines if json["topic"] == "verdicts"]
    assert [verdict["score"] for verdict in verdicts] == pytest.approx(scored)
    assert all(verdict["statistics"]["brightness"] > 0.2 for verdict in verdicts), "and no 16th of it"
    again = ("fit", good, "--line", "b", "--store", store, "--json", *QUICK, "--bits")
    assert flowgauge(*again, "14").json["preprocessing"]["sixteen_bit"] == "14-bit"
    white = flowgauge(*again, "10").err
    assert "brighter is clipped" in white
    assert "only 1 different pictures" in white


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_fourth_channel_that_is_0_everywhere_means_nothing(form: str) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (16, 24, 4), dtype=np.uint8)
    pixels[:, :, 3] = 0
    picture = decode(saved(Image.fromarray(pixels), form))
    np.testing.assert_array_equal(picture.pixels, pixels[:, :, :3])
    assert picture.cut is None


def test_gray_with_a_dead_alpha_is_seen_too() -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (16, 24, 2), dtype=np.uint8)
    pixels[:, :, 1] = 0
    np.testing.assert_array_equal(decode(saved(Image.fromarray(pixels), "PNG")).pixels[..., 0], pixels[..., 0])


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_training_images_that_are_all_the_same_are_refused(flowgauge: Shell, tmp_path: Path, command: str) -> None:
    for number in range(12):
        write_image(tmp_path / "set" / "train" / "good" / f"{number:03d}.png", 0)
        write_image(tmp_path / "set" / "test" / "good" / f"{number:03d}.png", number)
        write_image(tmp_path / "set" / "test" / "NG" / f"{number:03d}.png", 90 + number)
    where = ("--line", "a", "--store", tmp_path / "plant") if command == "fit" else ()
    done = flowgauge(command, tmp_path / "set", *where, *QUICK)
    assert done.code == 2
    assert "12 training images show only 1 different pictures" in done.err
    assert "frozen" in done.err


def test_copies_among_enough_images_train() -> None:
    pictures = [decode(png(line().good(number % 8).pixels)) for number in range(12)]
    fitted = fit(pictures, line="a", settings=quick(), at=AT)
    known = fitted.predict(pictures[:1])[0]
    assert known.score <= known.threshold
    # a promise rests on as many parts as there are different pictures
    assert fitted.manifest.threshold.calibration_scores.parts == 8
    with pytest.raises(DatasetError, match="only 7 different"):
        fit([*pictures[:7], *pictures[:5]], line="a", settings=quick(), at=AT)


def strip(folder: Path, size: tuple[int, int]) -> Path:
    folder.mkdir()
    Image.new("L", size, 128).save(folder / "strip.png")
    return folder


def test_the_largest_image_is_a_setting_which_the_error_names(
    flowgauge: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    incoming, store = strip(tmp_path / "incoming", (1_000, 1_100)), tmp_path / "plant"
    run = ("run", incoming, "--line", "strip", "--once", "--device", "cpu", "--store")
    refused = flowgauge("--max-megapixels", 1, *run, store / "a")
    assert "0 verdicts" in refused.err
    assert f"{MAX_MEGAPIXELS} to 2 or more" in refused.out
    assert "1 verdicts" in flowgauge(*run, store / "b").err, "the limit of one call is not that of the next"
    monkeypatch.setenv(MAX_MEGAPIXELS, "1")
    assert "1 dead letters" in flowgauge(*run, store / "c").err
    assert "1 verdicts" in flowgauge("--max-megapixels", 2, *run, store / "d").err
    monkeypatch.delenv(MAX_MEGAPIXELS)
    config = tmp_path / "flowgauge.toml"
    config.write_text("max_megapixels = 1\n")
    assert "1 dead letters" in flowgauge("--config", config, *run, store / "e").err
    config.write_text('max_megapixels = "many"\n')
    assert "max_megapixels = many is no size" in flowgauge("--config", config, *run, store / "f").err


def test_floats_are_refused_in_plain_words_and_the_next_image_is_scored(flowgauge: Shell, tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    heights = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    Image.fromarray(heights).save(incoming / "a-height.tif")
    (incoming / "b-packed.tif").write_bytes(packed_tiff(values_of(12, (64, 64)), 12))
    done = flowgauge("run", incoming, "--line", "a", "--store", tmp_path / "plant", "--once", "--device", "cpu")
    assert re.search(r"a-height\.tif@\w+  The image has 32 bits per pixel", done.out)
    assert "Save it with 8 or 16 bits" in done.out
    assert "1 verdicts" in done.err


def test_sixteen_bit_colour_keeps_all_its_bits() -> None:
    values = np.random.default_rng(0).integers(0, 4096, (16, 24, 3)).astype(np.uint16)
    values[0, 0] = 4095
    for file in (png16(values), tiff48(values, "<"), tiff48(values, ">")):
        picture = decode(file)
        assert picture.deep is not None
        np.testing.assert_array_equal(picture.deep, values)
        np.testing.assert_array_equal(picture.by(SixteenBit.TWELVE_BIT).pixels, np.rint(values / 4095 * 255))


def test_gray_of_16_bits_keeps_them_beside_alpha() -> None:
    values = values_of(12)
    for alpha in (0, 65535):
        picture = decode(png16(np.stack([values, np.full_like(values, alpha)], axis=2)))
        assert (picture.deep is not None, picture.cut) == (True, None)
        np.testing.assert_array_equal(picture.by(SixteenBit.TWELVE_BIT).pixels[..., 0], shades(values, 12))
    bright = values >= 2048
    picture = decode(png16(np.stack([values, np.where(bright, 65535, 0)], axis=2)))
    assert picture.cut is not None
    np.testing.assert_array_equal(picture.cut, bright)
    np.testing.assert_array_equal(picture.by(SixteenBit.TWELVE_BIT).pixels[..., 0], shades(values * bright, 12))


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_a_channel_may_declare_one_colour_transparent(channels: int) -> None:
    # in a corner that colour; elsewhere others, which have its higher or its lower bytes
    values = np.random.default_rng(0).choice(np.array([0x0501, 0x0005, 0x0500], np.uint16), (16, 24, channels))
    values[:4, :6] = 0x0505
    picture = decode(png16(values, (0x0505,) * channels))
    assert picture.deep is not None
    assert picture.cut is not None
    transparent = np.zeros((16, 24), bool)
    transparent[:4, :6] = True
    np.testing.assert_array_equal(picture.cut, ~transparent)
    np.testing.assert_array_equal(picture.deep.reshape(values.shape), np.where(transparent[:, :, None], 0, values))


def test_white_may_be_zero_in_16_bits_too() -> None:
    values = values_of(16)
    picture = decode(word_tiff(values, 16, t262=0))
    assert picture.deep is not None
    np.testing.assert_array_equal(picture.deep, 65535 - values)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_plane_for_each_colour_is_read_in_8_bits_and_refused_in_16(order: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (16, 24, 3)).astype(np.uint16)
    higher = (values >> 8).astype(np.uint8)
    np.testing.assert_array_equal(decode(planes_tiff(higher, order)).pixels, higher)
    with pytest.raises(UnreadableImage, match=r"a plane for each colour.*PlanarConfiguration 1"):
        decode(planes_tiff(values, order))


def test_the_check_data_sees_what_the_gauge_will_see(flowgauge: Shell, tmp_path: Path) -> None:
    for offset, numbers in (("train/good", range(10)), ("test/good", range(20, 22))):
        (tmp_path / offset).mkdir(parents=True)
        for number in numbers:
            Image.fromarray(part_in(12, number)).save(tmp_path / offset / f"{number:03d}.tif")
    report = tmp_path / "doctor.html"
    done = flowgauge("check-data", tmp_path, "--json", "-", "--report", report, "--device", "cpu")
    assert "16-bit files are read as 12-bit, 0 to 4095" in done.err
    (exposure,) = [check for check in done.json["checks"] if check["name"] == "exposure"]
    assert exposure["figures"]["brightness"] > 0.2, "and no 16th of it"
