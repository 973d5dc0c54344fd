"""Whether the data checks find what is planted, and nothing where nothing is: several materials and seeds."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flowgauge.synthetic.procedural import ProceduralLine
from tests.support import planting
from tests.support.examination import examined, issue_checks, named
from tests.support.folders import write_dataset

MATERIALS = ("turned-washer", "leather", "woven-fabric")
LINES = [(material, seed) for seed in (0, 1) for material in MATERIALS]
TRAIN, TEST_GOOD, PER_KIND = 120, 40, 4


@pytest.mark.parametrize(("material", "seed"), LINES)
def test_what_is_planted_is_found_and_nothing_else(material: str, seed: int, tmp_path: Path) -> None:
    line, clean = ProceduralLine(material, seed), tmp_path / "clean"
    write_dataset(line, clean, TRAIN, TEST_GOOD, PER_KIND)

    def planted(plant: Callable[[Path], set[str]], check: str) -> str:
        root = Path(shutil.copytree(clean, tmp_path / check))
        names = plant(root)
        found = examined(root, size=256)
        assert issue_checks(found) == {check}
        right = len(named(found, check) & names)
        return f"{check}: {len(named(found, check))} named, {right} of {len(names)} right"

    assert issue_checks(examined(clean, size=256)) == set()
    outcomes = [
        planted(planting.duplicated, "duplicates"),
        planted(lambda root: planting.mislabelled(root, line), "suspects"),
        planted(planting.turned, "orientation"),
        planted(planting.given_away, "background"),
        planted(planting.blurred, "focus"),
    ]
    print(f"\n{material}, seed {seed}: {'; '.join(outcomes)}")  # noqa: T201
