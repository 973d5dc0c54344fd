"""How the images were taken: their sizes, their exposure, their focus."""

from collections import Counter

import numpy as np

from flowgauge.datachecks.image_statistics import ImageStatistics, blurred
from flowgauge.datachecks.issue import Check, Finding, Named, named
from flowgauge.datachecks.outliers import apart, deviations
from flowgauge.training.thresholds import Scores

# The share of images of one size from which others are exceptions. With less, a set of two sizes has exceptions; with
# more, two odd images of twenty are no exceptions but a variety of shapes.
_COMMON = 0.9
# A part that one image shows a quarter wider than another is another part to features that were never trained so.
_STRETCH = 1.25
# A quarter more or less light is seen by eye; contrast goes with what a part shows, and may vary more.
_LIGHT, _CONTRAST = np.log(1.25), np.log(1.6)
# Added to brightness and contrast: less than one level is nothing, and black has a logarithm.
_DARK = 1 / 255


def sizes_check(seen: ImageStatistics) -> Check:
    sizes = Counter(look.size for look in seen.looks)
    usual, count = sizes.most_common(1)[0]
    aspects = np.array([look.size[0] / look.size[1] for look in seen.looks])
    low, high = (float(end) for end in np.quantile(aspects, (0.05, 0.95)))
    check = Check(
        name="sizes",
        question="Have all images one size and shape?",
        figures={
            "sizes": len(sizes),
            "commonest": f"{usual[0]} x {usual[1]}",
            "aspect_low": low,
            "aspect_high": high,
        },
    )
    others = [look for look in seen.looks if look.size != usual]
    if count >= _COMMON * len(seen.looks):
        finding = Finding(
            title="Images of another size",
            seen=f"{len(others)} of {len(seen.looks)} images are not {usual[0]} x {usual[1]} pixels as the rest is.",
            why="They were taken or cropped otherwise, so parts appear larger, smaller or stretched in them.",
            remedy="Take or crop them as the others, or leave them out.",
            figures={"images": len(others)},
            images=tuple(Named(name=o.entry.name, words=f"{o.size[0]} x {o.size[1]}") for o in others),
        )
        return check.with_findings(finding) if others else check
    finding = Finding(
        title="Images of many shapes",
        seen=f"Width over height goes from {low:.2f} to {high:.2f} (90 % of the images).",
        why="Made square, the same texture is stretched in one image and squeezed in another, which a gauge has to "
        "take for normal.",
        remedy="Crop to one shape, or fit with --aspect letterbox, which keeps proportions.",
        figures={"aspect_low": low, "aspect_high": high},
    )
    return check.with_findings(finding) if high / low >= _STRETCH else check


def exposure_check(seen: ImageStatistics) -> Check:
    """Of good images in focus: a defect may be what makes an image dark, and blur takes contrast."""
    brightness, contrast = seen.values("brightness"), seen.values("contrast")
    log_light, log_contrast = np.log(brightness + _DARK), np.log(contrast + _DARK)
    usual_light, usual_contrast = log_light[seen.train], log_contrast[seen.train]
    wrong = apart(log_light, usual_light, _LIGHT) | apart(log_contrast, usual_contrast, _CONTRAST)
    wrong = wrong & seen.good & ~seen.soft
    check = Check(
        name="exposure",
        question="Were all images taken in the same light?",
        figures={
            "brightness": float(np.median(brightness[seen.train])),
            "contrast": float(np.median(contrast[seen.train])),
            "ill_exposed": int(wrong.sum()),
        },
    )
    if not wrong.any():
        return check
    change = np.exp(log_light - np.median(usual_light))
    span = np.exp(log_contrast - np.median(usual_contrast))
    worst = sorted(np.flatnonzero(wrong).tolist(), key=lambda row: -abs(np.log(change[row])))
    finding = Finding(
        title="Good images in another light",
        seen=f"{len(worst)} good images are brighter, darker or of another contrast than the rest.",
        why="Light changes every feature: such images widen what passes for normal, or are false alarms.",
        remedy="Take them again in the line's light, or collect enough of this light that it is normal.",
        figures={"images": len(worst)},
        images=named(
            seen.names,
            worst,
            change,
            lambda row: f"{change[row]:.2f} times the light, {span[row]:.2f} times the contrast",
        ),
    )
    return check.with_findings(finding)


def focus_check(names: list[str], sharp: Scores, usual: Scores) -> Check:
    """`sharp` (N,) of all images; `usual` are those of the good training images."""
    soft = np.flatnonzero(blurred(sharp, usual))
    worst = soft[np.argsort(sharp[soft])]
    check = Check(
        name="focus",
        question="Is every image in focus?",
        figures={"images": len(sharp), "out_of_focus": len(worst), "usual_sharpness": float(np.median(usual))},
    )
    if not len(worst):
        return check
    kept, far = np.exp(sharp - np.median(usual)), deviations(sharp, usual)
    finding = Finding(
        title="Images out of focus",
        seen=f"{len(worst)} of {len(sharp)} images have lost most of their fine edges; the worst keeps "
        f"{kept[worst[0]]:.0%} of what is usual.",
        why="A blurred image hides small defects, and one that trains makes blur look normal.",
        remedy="Take these images again, and see why the camera lost its focus.",
        figures={"out_of_focus": len(worst), "edges_kept": float(kept[worst[0]])},
        images=named(names, worst, kept, lambda i: f"{kept[i]:.0%} of the edges, {far[i]:+.0f} deviations"),
    )
    return check.with_findings(finding)
