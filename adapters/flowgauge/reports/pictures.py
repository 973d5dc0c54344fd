"""Thumbnails: rejects beside their heatmaps, and what was kept from training. Pictures travel inside the page."""

from base64 import b64encode
from collections.abc import Sequence

from flowgauge.reports.markup import Markup, tag
from flowgauge.reports.story import RejectedImage, Suspect, Truth
from flowgauge.reports.wording import significant

_MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def data_uri(picture: bytes) -> str:
    """Raises `ValueError` for bytes that are neither PNG nor JPEG."""
    for magic, kind in _MAGIC.items():
        if picture.startswith(magic):
            return f"data:{kind};base64,{b64encode(picture).decode()}"
    raise ValueError("A report takes PNG and JPEG pictures only.")


def reject_grid(rejects: Sequence[RejectedImage]) -> Markup:
    return tag("ul", *(_reject(image) for image in rejects), class_="grid rejects")


def suspect_grid(suspects: Sequence[Suspect]) -> Markup:
    return tag("ul", *(_suspect(suspect) for suspect in suspects), class_="grid suspects")


def _reject(image: RejectedImage) -> Markup:
    scores = f"{significant(image.call.score)} over {significant(image.call.threshold)}"
    pair = tag("div", _image(image.picture, "image"), _image(image.overlay, "heatmap"), class_="pair")
    return tag("li", tag("figure", pair, _caption(image.truth, f"image {image.index}: {scores}")), title=image.image_id)


def _suspect(suspect: Suspect) -> Markup:
    shown = _image(suspect.picture, "image") if suspect.picture else tag("span", "not kept", class_="absent")
    return tag("li", tag("figure", shown, _caption(suspect.truth)), title=f"{suspect.image_id}, round {suspect.round}")


def _image(picture: bytes, words: str) -> Markup:
    return tag("img", src=data_uri(picture), alt=words, loading="lazy")


def _caption(truth: Truth, words: str = "") -> Markup:
    return tag("figcaption", tag("span", truth.value, class_=f"truth {truth.value}"), words)
