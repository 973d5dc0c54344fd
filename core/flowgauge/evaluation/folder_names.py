"""What plants call their folders: the one table by which a folder is good, defective, or holds masks."""

import re

_GOOD = frozenset(
    {
        "good",
        "goods",
        "ok",
        "okay",
        "io",
        "normal",
        "nominal",
        "pass",
        "passed",
        "fine",
        "accept",
        "accepted",
        "conform",
        "conforming",
        "conforme",
        "faultless",
        "flawless",
        "nodefect",
        "nodefects",
        "defectfree",
        "faultfree",
        "anomalyfree",
        "nonanomalous",
        "nondefective",
        "undamaged",
        "gut",
        "gutteil",
        "gutteile",
        "bon",
        "bons",
        "buono",
        "buoni",
        "bueno",
        "buenos",
    }
)
_DEFECTIVE = frozenset(
    {
        "bad",
        "ng",
        "nok",
        "notok",
        "ko",
        "nio",
        "nogood",
        "notgood",
        "def",
        "defect",
        "defects",
        "defective",
        "defekt",
        "defekte",
        "fault",
        "faults",
        "faulty",
        "fail",
        "failed",
        "failure",
        "failures",
        "reject",
        "rejects",
        "rejected",
        "anomaly",
        "anomalies",
        "anomalous",
        "abnormal",
        "unnormal",
        "scrap",
        "damaged",
        "broken",
        "nonconform",
        "nonconforming",
        "nonconforme",
        "schlecht",
        "schlechtteil",
        "schlechtteile",
        "ausschuss",
        "mauvais",
        "malo",
        "difettoso",
        "difetto",
        "scarto",
    }
)
_MASKS = frozenset(
    {
        "groundtruth",
        "groundtruths",
        "gt",
        "mask",
        "masks",
        "label",
        "labels",
        "annotation",
        "annotations",
        "segmentation",
        "segmentations",
    }
)
_TRAIN = frozenset({"train", "training"})
_TEST = frozenset({"test", "testing"})
_FILLERS = frozenset(
    {
        "part",
        "parts",
        "teil",
        "teile",
        "image",
        "images",
        "img",
        "imgs",
        "bild",
        "bilder",
        "picture",
        "pictures",
        "sample",
        "samples",
        "front",
        "back",
        "side",
    }
)
"""Words that say nothing of whether the parts are good: `ok_front` is good as `ok` is."""


def is_good(folder: str) -> bool:
    return _named(folder, _GOOD)


def is_defective(folder: str) -> bool:
    """Whether the name says that whatever lies there is defective; any class of defects may have another name."""
    return _named(folder, _DEFECTIVE)


def holds_masks(folder: str) -> bool:
    return _named(folder, _MASKS)


def is_train(folder: str) -> bool:
    return _named(folder, _TRAIN)


def is_test(folder: str) -> bool:
    return _named(folder, _TEST)


def _named(folder: str, table: frozenset[str]) -> bool:
    """In either case, whatever separates its words, numbered or not: `i.O.`, `NG-2`, `Ground Truth`."""
    words = re.findall(r"[^\W\d_]+", folder.casefold())
    return "".join(words) in table or "".join(word for word in words if word not in _FILLERS) in table
