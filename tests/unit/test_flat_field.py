"""Flat-field correction: what it undoes, and what it leaves alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from flowgauge.vision.flat_field import FlatField, Illumination

Crops = NDArray[np.uint8]
_SIDE = 64


def parts(count: int, seed: int) -> Crops:
    """Textured parts of three gray levels, each where chance puts it, on a lighter ground."""
    rng = np.random.default_rng(seed)
    crops = rng.normal((190, 180, 175), 6, (count, _SIDE, _SIDE, 3))
    for crop in crops:
        top, left = rng.integers(4, 36, 2)
        crop[top : top + 24, left : left + 24] = rng.normal((90, 80, 100), 20, (24, 24, 3))
    return np.asarray(np.rint(crops.clip(0, 255)), np.uint8)


def lit(crops: Crops, gain: float = 1.0, fall: float = 0.0, contrast: float = 1.0) -> Crops:
    """Under another light, which falls off to the right, at another contrast about mid-gray."""
    light = gain * (1 + fall * np.linspace(0.5, -0.5, _SIDE)[:, None])
    return np.asarray(np.rint((127.5 + contrast * (crops * light - 127.5)).clip(0, 255)), np.uint8)


def always(flat_field: FlatField) -> FlatField:
    """The same, for which the light of the fit never comes back: no image has levels like those of a black one."""
    fit = flat_field.fit.model_copy(update={"levels": ((0.0,) * 6,)})
    # made anew: a copy would keep what the other one has derived from its levels
    return FlatField(gain=flat_field.gain, offset=flat_field.offset, fit=fit)


def difference(one: Crops, other: Crops) -> float:
    """In gray levels, of the whole set."""
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize(
    "change", [{"gain": 0.6, "fall": 0.3}, {"contrast": 0.5}, {"gain": 0.8, "contrast": 0.7}, {"gain": 1.2}]
)
def test_a_change_of_light_is_undone_on_parts_that_were_never_seen(change: dict[str, float]) -> None:
    before, after, new = parts(80, 1), lit(parts(80, 2), **change), parts(20, 3)
    flat_field = Illumination.of(after, cut=False).correction_to(Illumination.of(before, cut=False))
    assert difference(lit(new, **change), new) > 15
    assert difference(flat_field.apply(lit(new, **change)), new) < 4


def test_where_the_light_is_the_same_images_stay_as_they_are() -> None:
    flat_field = Illumination.of(parts(80, 2), cut=False).correction_to(Illumination.of(parts(80, 1), cut=False))
    new = parts(20, 3)
    assert difference(flat_field.apply(new), new) < 3


@pytest.mark.parametrize("change", [{"gain": 0.6, "fall": 0.3}, {"contrast": 0.5}, {"gain": 1.3}])
def test_an_image_under_the_light_of_the_fit_stays_as_it_is(change: dict[str, float]) -> None:
    before, after, new = parts(80, 1), lit(parts(80, 2), **change), parts(20, 3)
    flat_field = Illumination.of(after, cut=False).correction_to(Illumination.of(before, cut=False))
    assert np.array_equal(flat_field.apply(new), new)


@pytest.mark.parametrize("every", [2, 3, 10])
@pytest.mark.parametrize("gain", [0.85, 0.7, 0.5])
def test_light_and_dark_products_are_corrected_alike(every: int, gain: float) -> None:
    """A light one in the dim light is as bright as a dark one was in the first light."""

    def both(count: int, seed: int) -> Crops:
        crops = lit(parts(count, seed), gain=gain)
        crops[::every] = parts(count, seed)[::every]
        return crops

    before, after, new = both(80, 1), lit(both(80, 2), gain=gain), both(20, 3)
    flat_field = Illumination.of(after, cut=False).correction_to(Illumination.of(before, cut=False))
    assert np.array_equal(flat_field.apply(lit(new, gain=gain)), always(flat_field).apply(lit(new, gain=gain)))


def test_the_less_alike_the_images_of_a_fit_are_the_more_it_takes_for_the_light_to_be_back() -> None:
    """Parts of 0.75 of the brightness, which the fit has not seen, are as bright in this light as those of 0.6."""

    def uneven(each: int, seed: int, *gains: float) -> Crops:
        return np.concatenate([lit(parts(each, seed + n), gain=gain) for n, gain in enumerate(gains)])

    usual = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
    before, after, new = uneven(1, 1, *usual), lit(uneven(10, 50, *usual), gain=0.8), uneven(4, 100, 0.75, 1.25)
    flat_field = Illumination.of(after, cut=False).correction_to(Illumination.of(before, cut=False))
    assert np.array_equal(flat_field.apply(lit(new, gain=0.8)), always(flat_field).apply(lit(new, gain=0.8)))


@pytest.mark.parametrize("side", [16, 24, 32])
def test_what_covers_a_part_of_an_image_does_not_change_how_the_rest_is_corrected(side: int) -> None:
    before, after, new = parts(80, 1), lit(parts(80, 2), gain=0.7), lit(parts(20, 3), gain=0.7)
    flat_field = Illumination.of(after, cut=False).correction_to(Illumination.of(before, cut=False))
    whole = flat_field.apply(new)
    for level in (0, 255):
        covered = new.copy()
        covered[:, :side, :side] = level
        assert np.array_equal(flat_field.apply(covered)[:, side:], whole[:, side:])


@pytest.mark.parametrize("gain", [0.5, 0.8, 1.3])
def test_in_doubt_an_image_is_corrected_for_the_light_of_the_buffer(gain: float) -> None:
    before, after, new = parts(80, 1), lit(parts(80, 2), gain=0.65), lit(parts(20, 3), gain=gain)
    flat_field = Illumination.of(after, cut=False).correction_to(Illumination.of(before, cut=False))
    assert np.array_equal(flat_field.apply(new), always(flat_field).apply(new))


def test_a_picture_without_an_object_stays_black() -> None:
    before, after = parts(80, 1), lit(parts(80, 2), gain=0.6)
    before[::7] = after[::7] = 0
    flat_field = Illumination.of(after, cut=True).correction_to(Illumination.of(before, cut=True))
    assert not flat_field.apply(np.zeros((1, _SIDE, _SIDE, 3), np.uint8)).any()


def test_light_from_the_other_side_is_corrected_though_no_image_is_darker() -> None:
    before, after, new = lit(parts(80, 1), fall=0.4), lit(parts(80, 2), fall=-0.4), parts(20, 3)
    flat_field = Illumination.of(after, cut=False).correction_to(Illumination.of(before, cut=False))
    assert difference(flat_field.apply(lit(new, fall=-0.4)), lit(new, fall=0.4)) < 5


def test_defects_in_a_fifth_of_the_images_hardly_count() -> None:
    clean = parts(80, 2)
    spoilt = clean.copy()
    spoilt[::5, 20:28, 20:28] = 0
    wanted = Illumination.of(parts(80, 1), cut=False)
    corrected = [Illumination.of(each, cut=False).correction_to(wanted).apply(parts(20, 3)) for each in (clean, spoilt)]
    assert difference(*corrected) < 2


@pytest.mark.parametrize("every", [10, 3])
def test_images_of_a_lamp_that_was_off_do_not_count(every: int) -> None:
    buffered, new = lit(parts(80, 2), gain=0.7), parts(20, 3)
    off = buffered.copy()
    off[::every] = 4
    wanted = Illumination.of(parts(80, 1), cut=False)
    with_them, without = (Illumination.of(each, cut=False).correction_to(wanted) for each in (off, buffered))
    dim = lit(new, gain=0.7)
    assert difference(with_them.apply(dim), without.apply(dim)) < 2


def test_where_parts_come_in_looks_that_share_no_median_half_of_them_count() -> None:
    """Two of three looks have each channel's median, and none has that of all three."""
    looks = np.full((30, _SIDE, _SIDE, 3), 60, np.uint8)
    for channel in range(3):
        looks[channel::3, :, :, channel] = 200
    found = Illumination.of(looks, cut=False)
    assert np.isfinite(np.array([found.mean, found.deviation])).all()


def test_what_is_shown_of_an_object_does_not_become_black() -> None:
    def cut_out(crops: Crops) -> Crops:
        return np.where(np.indices((_SIDE, _SIDE)).min(axis=0)[:, :, None] >= 16, crops, 0).astype(np.uint8)

    before, flat = cut_out(parts(80, 1)), cut_out(lit(parts(80, 2), contrast=0.5))
    flat_field = Illumination.of(flat, cut=True).correction_to(Illumination.of(before, cut=True))
    dark = cut_out(np.full((1, _SIDE, _SIDE, 3), 8, np.uint8))
    assert np.array_equal(flat_field.apply(dark).any(axis=3), dark.any(axis=3))


def test_images_of_one_level_are_moved_and_not_stretched() -> None:
    dark, light = (np.full((8, _SIDE, _SIDE, 3), level, np.uint8) for level in (40, 120))
    flat_field = Illumination.of(dark, cut=False).correction_to(Illumination.of(light, cut=False))
    assert np.array_equal(flat_field.apply(dark), light)
    assert np.array(flat_field.gain).max() == 1


def test_what_is_cut_away_says_nothing_and_stays_black() -> None:
    def cut_out(crops: Crops) -> Crops:
        alone = np.zeros_like(crops)
        alone[:, 16:48, 16:48] = crops[:, 16:48, 16:48]
        return alone

    before, after, new = cut_out(parts(80, 1)), cut_out(lit(parts(80, 2), gain=0.6)), parts(20, 3)
    flat_field = Illumination.of(after, cut=True).correction_to(Illumination.of(before, cut=True))
    corrected = flat_field.apply(cut_out(lit(new, gain=0.6)))
    assert difference(corrected, cut_out(new)) < 2
    assert not corrected[:, :16].any()
