"""Drift on any data set: changes of photographs, and who trains, is buffered and tests."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flowgauge.domain.errors import DatasetError
from flowgauge.evaluation.changed_images import CONTAMINATION, ChangedImages, changed
from flowgauge.evaluation.datasets import Dataset
from flowgauge.synthetic.procedural import Change, ProceduralLine
from tests.support.folders import write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("dataset")
    line = ProceduralLine("cast-iron", seed=0, size=64)
    write_dataset(line, root, train=24, test_good=6, per_kind=6, kinds=("scratch", "stain"))
    return Dataset.open(root)


def pairs(dataset: Dataset) -> dict[str, str]:
    """Two images in a row show one part."""
    return {e.name: f"{e.kind} {rank // 2}" for rank, e in enumerate(sorted(dataset.train, key=lambda e: e.name))}


def test_each_change_does_what_its_name_says() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 200, (64, 96, 3)).astype(np.uint8)
    after = {change: changed(image, change, np.random.default_rng(1)).astype(float) for change in Change}
    left, right = after[Change.LIGHT][:, :20].mean(), after[Change.LIGHT][:, -20:].mean()
    assert right < left < image.mean(), "darker, and darker to the right"
    assert after[Change.CONTRAST].std() == pytest.approx(image.std() / 2, rel=0.01)
    assert (
        np.abs(np.diff(after[Change.FOCUS], axis=1)).mean() < 0.9 * np.abs(np.diff(image.astype(float), axis=1)).mean()
    )
    gray = np.full_like(image, 128)
    assert 1 < changed(gray, Change.TEXTURE, rng).std() < 8, "a flat surface gets bumps"
    assert changed(gray, Change.FOCUS, rng).std() == 0


def test_the_same_seed_changes_alike_and_another_does_not(dataset: Dataset) -> None:
    def texture(seed: int) -> NDArray[np.uint8]:
        *_, phase = ChangedImages(dataset, {}, seed, [Change.TEXTURE]).phases()
        return phase.buffer[0].picture.pixels

    assert np.array_equal(texture(3), texture(3))
    assert not np.array_equal(texture(3), texture(4))


def test_parts_stay_on_one_side_and_defects_hide_in_the_buffer(dataset: Dataset) -> None:
    images = ChangedImages(dataset, pairs(dataset), 0)
    phases = list(images.phases())
    assert [phase.name for phase in phases] == ["as it is", *Change]
    fitted = {image.part for image in images.fitted()}
    for phase in phases:
        assert [image.image_id for image in phase.buffer] == [image.image_id for image in phases[0].buffer]
        spoilt = [image for image in phase.buffer if not image.part.startswith("good")]
        assert len(spoilt) == round(CONTAMINATION * len(phase.buffer))
        assert fitted.isdisjoint(image.part for image in phase.buffer)
        assert len(phase.test_good) == 6
        assert len(phase.test_defect) == 12 - len(spoilt), "the defects that are not in the buffer"
        tested = {picture.sha256 for picture in phase.test_defect}
        assert tested.isdisjoint(image.picture.sha256 for image in phase.buffer)


def test_a_data_set_without_defects_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    without = Dataset(dataset.root, dataset.train, tuple(e for e in dataset.test if not e.defective))
    with pytest.raises(DatasetError, match="0 defects and 6 good images"):
        next(ChangedImages(without, {}, 0).phases())
