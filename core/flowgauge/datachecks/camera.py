"""How the images were taken: their sizes and their exposure."""

from collections import Counter

import numpy as np

from flowgauge.datachecks.image_statistics import ImageStatistics
from flowgauge.datachecks.issue import Check, Figure, Finding, Named
from flowgauge.datachecks.outliers import Flags, apart
from flowgauge.training.thresholds import Scores

_COMMON = 0.9
"""The share of images of one size from which others are exceptions."""
_STRETCH = 1.25
"""A part that one image shows a quarter wider than another is another part to features that were never trained so."""
_LIGHT, _CONTRAST = np.log(1.25), np.log(1.6)
"""A quarter more or less light is seen by eye; contrast goes with what a part shows, and may vary more."""
_DARK = 1 / 255


def sizes_check(seen: ImageStatistics) -> Check:
    sizes = Counter(look.size for look in seen.looks)
    usual, count = sizes.most_common(1)[0]
    aspects = np.array([look.size[0] / look.size[1] for look in seen.looks])
    low, high = np.quantile(aspects, (0.05, 0.95))
    figures: dict[str, Figure] = {"sizes": len(sizes), "commonest": f"{usual[0]} x {usual[1]}"}
    figures["aspect_low"], figures["aspect_high"] = float(low), float(high)
    finding = _other_sizes(seen, usual) if count >= _COMMON * len(seen.looks) else _stretched(float(low), float(high))
    question = "Have all images one size and shape?"
    return Check(name="sizes", question=question, figures=figures, findings=() if finding is None else (finding,))


def _other_sizes(seen: ImageStatistics, usual: tuple[int, int]) -> Finding | None:
    others = [look for look in seen.looks if look.size != usual]
    if not others:
        return None
    return Finding(
        title="Images of another size",
        seen=f"{len(others)} of {len(seen.looks)} images are not {usual[0]} x {usual[1]} pixels as the rest is.",
        why="They were taken or cropped otherwise, so parts appear larger, smaller or stretched in them.",
        remedy="Take or crop them as the others, or leave them out.",
        figures={"images": len(others)},
        images=tuple(Named(name=o.entry.name, words=f"{o.size[0]} x {o.size[1]}") for o in others),
    )


def _stretched(low: float, high: float) -> Finding | None:
    if high / low < _STRETCH:
        return None
    return Finding(
        title="Images of many shapes",
        seen=f"Width over height goes from {low:.2f} to {high:.2f} (90 % of the images).",
        why="Made square, the same texture is stretched in one image and squeezed in another, which a gauge has to "
        "take for normal.",
        remedy="Crop to one shape, or fit with --aspect letterbox, which keeps proportions.",
        figures={"aspect_low": low, "aspect_high": high},
    )


def exposure_check(seen: ImageStatistics) -> Check:
    """Of good images in focus: a defect may be what makes an image dark, and blur takes contrast."""
    usual = seen.train
    light, contrast = (np.log(seen.values(name) + _DARK) for name in ("brightness", "contrast"))
    wrong = (apart(light, light[usual], _LIGHT) | apart(contrast, contrast[usual], _CONTRAST)) & seen.good & ~seen.soft
    figures: dict[str, Figure] = {
        "brightness": float(np.median(seen.values("brightness")[usual])),
        "contrast": float(np.median(seen.values("contrast")[usual])),
        "ill_exposed": int(wrong.sum()),
    }
    findings = (_ill_exposed(seen, wrong, light, contrast, usual),) if wrong.any() else ()
    question = "Were all images taken in the same light?"
    return Check(name="exposure", question=question, figures=figures, findings=findings)


def _ill_exposed(seen: ImageStatistics, wrong: Flags, light: Scores, contrast: Scores, usual: Flags) -> Finding:
    change = np.exp(light - np.median(light[usual]))
    span = np.exp(contrast - np.median(contrast[usual]))
    worst = sorted(np.flatnonzero(wrong), key=lambda row: -abs(np.log(change[row])))
    return Finding(
        title="Good images in another light",
        seen=f"{len(worst)} good images are brighter, darker or of another contrast than the rest.",
        why="Light changes every feature: such images widen what passes for normal, or are false alarms.",
        remedy="Take them again in the line's light, or collect enough of this light that it is normal.",
        figures={"images": len(worst)},
        images=tuple(
            Named(
                name=seen.names[row],
                value=float(change[row]),
                words=f"{change[row]:.2f} times the light, {span[row]:.2f} times the contrast",
            )
            for row in worst
        ),
    )
