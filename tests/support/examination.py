"""Small data sets for the data checks."""

from pathlib import Path

from flowgauge.datachecks.examine import Examination, examine
from flowgauge.datachecks.image_statistics import ImageStatistics, image_statistics
from flowgauge.evaluation.datasets import Dataset
from flowgauge.synthetic.procedural import ProceduralLine
from flowgauge.training.fit import FitSettings, embedder_for
from flowgauge.training.training_set import Embedder
from flowgauge.vision.preprocessing import Preprocessing
from tests.support.folders import write_dataset

TRAIN, TEST_GOOD, PER_KIND, SIDE = 64, 16, 2, 128


def silent(what: str, done: int, total: int) -> None:
    pass


def line(material: str = "woven-fabric") -> ProceduralLine:
    return ProceduralLine(material, seed=0, size=SIDE)


def write_small(root: Path) -> Path:
    """64 good images to learn from; to judge, 16 good ones and 2 of each of seven kinds of defects."""
    write_dataset(line(), root, TRAIN, TEST_GOOD, PER_KIND)
    return root


def examined(root: Path, size: int = SIDE) -> Examination:
    """`size`: side of the squares that the backbone sees."""
    return examine(Dataset.open(root), embedder(size), None, None, silent)


def looked_at(root: Path) -> ImageStatistics:
    return image_statistics(Dataset.open(root), embedder(SIDE), silent)


def embedder(size: int) -> Embedder:
    return embedder_for(FitSettings(preprocessing=Preprocessing(size=size)), "cpu")


def issue_checks(found: Examination) -> set[str]:
    return {check.name for check in found.checks if check.problems}


def named(found: Examination, check: str) -> set[str]:
    """Images of that check's findings."""
    return {image.name for one in found.checks if one.name == check for f in one.findings for image in f.images}
