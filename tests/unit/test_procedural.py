from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowgauge.synthetic.procedural import DEFECTS, MATERIALS, NOMINAL, Condition, ProceduralLine
from flowgauge.vision.decoding import statistics
from tests.support.folders import write_dataset

SIZE = 96

every_material = pytest.mark.parametrize("material", MATERIALS)


def line(material: str, seed: int = 1, size: int = SIZE) -> ProceduralLine:
    return ProceduralLine(material, seed, size)


@every_material
def test_the_same_part_has_the_same_bytes_and_another_index_is_another_part(material: str) -> None:
    first, again, other = line(material).good(4), line(material).good(4), line(material).good(5)

    assert first.pixels.shape == (SIZE, SIZE, 3)
    assert (first.mask, first.kind, first.index) == (None, "good", 4)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)


@every_material
def test_parts_do_not_depend_on_which_were_made_before(material: str) -> None:
    warmed = line(material)
    warmed.good(0)
    warmed.defect(1, "pit")

    np.testing.assert_array_equal(warmed.good(7).pixels, line(material).good(7).pixels)


@every_material
def test_parts_of_one_line_look_alike_and_lines_differ(material: str) -> None:
    def colour(seed: int, index: int) -> NDArray[np.float64]:
        return np.asarray(line(material, seed).good(index).pixels.mean(axis=(0, 1)))

    within = np.mean([np.abs(colour(1, 0) - colour(1, index)).max() for index in range(1, 5)])
    between = np.mean([np.abs(colour(1, 0) - colour(seed, 0)).max() for seed in range(2, 8)])

    assert within < between


@every_material
@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_shows_where_its_mask_is_and_hardly_elsewhere(material: str, kind: str) -> None:
    defective, good = line(material).defect(3, kind), line(material).good(3)
    assert defective.mask is not None
    change = np.abs(defective.pixels.astype(int) - good.pixels).max(axis=2)

    assert 0 < defective.mask.mean() < 0.35
    assert change[defective.mask].mean() > 9
    assert change[defective.mask].mean() > 1.5 * change[~defective.mask].mean()
    assert (defective.kind, defective.index) == (kind, 3)


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_is_the_same_under_another_light(kind: str) -> None:
    brighter = Condition(gain=1.3, direction=40, tint=(1.1, 1.0, 0.9))
    nominal, lit = line("cast-iron").defect(2, kind), line("cast-iron").defect(2, kind, brighter)

    np.testing.assert_array_equal(nominal.mask, lit.mask)
    assert not np.array_equal(nominal.pixels, lit.pixels)


@every_material
def test_severities_differ_between_parts(material: str) -> None:
    maker = line(material)
    areas = {int(np.asarray(maker.defect(index, "stain").mask).sum()) for index in range(6)}

    assert len(areas) >= 5


@every_material
def test_a_drifted_line_is_brighter_and_keeps_its_highlights(material: str) -> None:
    nominal, drifted = line(material).good(0), line(material).good(0, Condition.drifted(1.0))

    assert drifted.pixels.mean() > 1.2 * nominal.pixels.mean()
    assert (drifted.pixels == 255).mean() < 0.02


def test_drift_rises_step_by_step() -> None:
    maker = line("ceramic-tile")
    light = [maker.good(0, Condition.drifted(amount)).pixels.mean() for amount in (0, 0.25, 0.5, 0.75, 1)]

    assert Condition.drifted(0) == NOMINAL
    assert np.diff(light).min() > 0


@pytest.mark.parametrize("amount", [-0.1, 1.1])
def test_a_drift_outside_its_range_is_refused(amount: float) -> None:
    with pytest.raises(ValueError, match="between 0"):
        Condition.drifted(amount)


@pytest.mark.parametrize(
    ("condition", "darker"),
    [(Condition(gain=0.7), True), (Condition(gamma=1.4), True), (Condition(gain=1.3), False)],
)
def test_light_and_tone_move_the_brightness(condition: Condition, darker: bool) -> None:
    nominal, changed = line("wood-veneer").good(0), line("wood-veneer").good(0, condition)

    assert (changed.pixels.mean() < nominal.pixels.mean() - 5) == darker
    assert (changed.pixels.mean() > nominal.pixels.mean() + 5) != darker


def test_blur_lowers_the_focus_and_contrast_raises_the_contrast() -> None:
    maker = line("woven-fabric")
    sharp, blurred, vivid = (
        statistics(maker.good(0, condition).pixels)
        for condition in (NOMINAL, Condition(blur=2.5), Condition(contrast=1.4))
    )

    assert blurred.focus < sharp.focus - 0.5
    assert vivid.contrast > 1.2 * sharp.contrast


def test_wear_changes_the_texture_and_not_the_light() -> None:
    maker = line("brushed-metal")
    fresh, worn = maker.good(0).pixels.astype(float), maker.good(0, Condition(wear=1.0)).pixels.astype(float)

    assert worn.mean() == pytest.approx(fresh.mean(), rel=0.1)
    assert worn.std() > 1.15 * fresh.std()


@pytest.mark.parametrize("size", [64, 160, 256])
def test_a_texture_keeps_its_scale_at_every_size(size: int) -> None:
    rings = ProceduralLine("turned-washer", 2, size).good(0).pixels

    on_part = (rings.max(axis=2) > 40).mean()
    assert on_part == pytest.approx(
        (ProceduralLine("turned-washer", 2, 128).good(0).pixels.max(axis=2) > 40).mean(), abs=0.05
    )


def test_what_does_not_exist_is_refused_with_what_does() -> None:
    with pytest.raises(ValueError, match="ceramic-tile"):
        ProceduralLine("cheese", 0)
    with pytest.raises(ValueError, match="at least 64"):
        ProceduralLine("leather", 0, 16)
    with pytest.raises(ValueError, match="scratch"):
        line("leather").defect(0, "graffiti")


def test_a_dataset_has_the_mvtec_layout_and_no_part_twice(tmp_path: Path) -> None:
    write_dataset(line("cast-iron"), tmp_path, train=4, test_good=3, per_kind=2)

    images = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    parts = [path.split("/")[-1] for path in images if not path.startswith("ground_truth")]
    assert len(parts) == len(set(parts)) == 4 + 3 + 2 * len(DEFECTS)
    assert images.count("train/good/000000.png") == 1
    for kind in DEFECTS:
        for path in (tmp_path / "test" / kind).iterdir():
            mask = np.asarray(Image.open(tmp_path / "ground_truth" / kind / f"{path.stem}_mask.png"))
            assert mask.shape == (SIZE, SIZE)
            assert set(np.unique(mask)) == {0, 255}
