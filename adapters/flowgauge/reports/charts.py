"""Charts: matplotlib draws them in one style, and they leave as SVG without ids, addresses and fonts of its own.

No display and no global state of pyplot are involved. The same data give the same bytes.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from io import BytesIO, StringIO
from math import isfinite
from typing import Any
from warnings import catch_warnings, filterwarnings
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from flowgauge.domain.object_keys import spelled

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_FOLDER = files("flowgauge.reports")

COLOURS: dict[str, str] = dict(
    re.findall(r"--(\w+): (#\w+);", (_FOLDER / "templates/report.css").read_text(encoding="utf-8").partition("}")[0])
)
"""The variables of the style sheet with their values in the light scheme."""

_VARIABLES = {value: f"var(--{name})" for name, value in COLOURS.items()}

_DASHES = ("-", (0, (7, 4)), (0, (2, 3)))
_PNG_DPI = 144  # twice the SVG's pixels: fewer blur on today's screens, more only make the file larger
_MARGIN = 0.06  # of the values' range: less cuts markers at the rim, more flattens the curves


class Chart:
    """A figure of `width` by `height` pixels; `label` is what a screen reader announces instead. `png` is the finished
    drawing as a file of pixels, of one that is a whole file.
    """

    def __init__(self, width: float, height: float, label: str, constrained: bool, alone: bool) -> None:
        # a file has no page around it, so its words keep off the rim
        rim = (0.02, 0.03, 0.96, 0.94) if alone else (0, 0, 1, 1)
        layout = ConstrainedLayoutEngine(rect=rim) if constrained else None
        self.figure = Figure(figsize=(width / 72, height / 72), layout=layout)
        self._label, self._alone = label, alone
        self._marked: dict[str, tuple[str, Sequence[str]]] = {}
        self._svg = ""
        self.png = b""

    def mark(self, artist: Artist, class_: str, *titles: str) -> None:
        """Names the artist's group in the SVG; a title for each of its markers, in their order, or one for the whole
        shows on hover."""
        name = f"marked-{len(self._marked)}"
        artist.set_gid(name)
        self._marked[name] = (class_, titles)

    @property
    def markup(self) -> Markup:
        """The finished drawing, for a page or as a whole file."""
        return Markup(self._svg)

    def finish(self) -> None:
        self.figure.patch.set_visible(self._alone)
        for artist in self.figure.findobj():
            # a clip path is an address, url(#...), and no chart has points beyond its axes
            artist.set_clip_on(False)
        drawn = StringIO()
        with catch_warnings():
            # the reader's browser has the glyphs that the font we measure with lacks
            filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
            nobody = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            self.figure.savefig(drawn, format="svg", metadata=nobody)
            if self._alone:
                pixels = BytesIO()
                self.figure.savefig(pixels, format="png", dpi=_PNG_DPI, metadata={"Software": None})
                self.png = pixels.getvalue()
        root = ElementTree.fromstring(drawn.getvalue())
        self._tidy(root)
        for group in root.iter(f"{_SVG}g"):
            class_, titles = self._marked.get(group.attrib.pop("id", ""), ("", ()))
            if class_:
                group.set("class", class_)
            # matplotlib writes one `use` for each marker, in their order
            uses = list(group.iter(f"{_SVG}use")) if len(titles) > 1 else [group] * len(titles)
            for use, title in zip(uses, titles, strict=True):
                hover = ElementTree.Element(f"{_SVG}title")
                hover.text = title
                use.insert(0, hover)
        ElementTree.register_namespace("", _SVG[1:-1])
        self._svg = ElementTree.tostring(root, encoding="unicode")

    def _tidy(self, root: ElementTree.Element) -> None:
        """Takes off what a page has already or must not have: sizes, fonts, links' namespace, styles for all of it."""
        for child in [child for child in root if child.find(f"{_SVG}style") is not None or "metadata" in child.tag]:
            root.remove(child)
        width = root.attrib.pop("width").removesuffix("pt")
        del root.attrib["height"], root.attrib["version"]
        root.attrib |= {"role": "img", "aria-label": self._label, "stroke-linejoin": "round"}
        if self._alone:
            root.attrib |= {"width": width, "font-family": "system-ui, sans-serif"}
        colours = {} if self._alone else _VARIABLES
        for element in root.iter():
            element.tail = None
            element.text = element.text if element.tag == f"{_SVG}text" else None
            if "style" in element.attrib:
                looks = re.sub(r" font-family: [^;]*;", "", element.attrib["style"])
                element.set("style", re.sub(r"#[0-9a-f]{6}", lambda found: colours.get(found[0], found[0]), looks))
            if element.get("transform", "").startswith("rotate(-0 "):
                del element.attrib["transform"]
            if link := element.attrib.pop(f"{_XLINK}href", None):
                element.set("href", link)
            if "d" in element.attrib:
                element.set("d", re.sub(r"(\.\d\d)\d+", r"\1", " ".join(element.attrib["d"].split())))


@contextmanager
def chart(width: float, height: float, label: str, *, constrained: bool = True, alone: bool = False) -> Iterator[Chart]:
    """Draw on its `figure` inside `with`, read its `markup` afterwards. `constrained` finds room for all words, where
    the chart does not place them itself; `alone` makes a whole file, on white.

    `label` tells the charts of one page apart: the ids of their shapes are made from it.
    """
    with style.context([str(_FOLDER / "chart.mplstyle"), {"svg.hashsalt": label}]):
        made = Chart(width, height, label, constrained, alone)
        yield made
        made.finish()


def plain(words: str) -> str:
    """A name as a chart can show it: without control characters, and with the bytes that are no text spelled out."""
    return re.sub(r"[\x00-\x1f]", "", spelled(words))


def look(rank: int) -> dict[str, Any]:
    """Colour and dashes of the curve of that place in a list.

    The two cycles have no common divisor: a curve shares its colour or its dashes with others, but never both.
    """
    return {"color": f"C{rank % 8}", "linestyle": _DASHES[rank % len(_DASHES)]}


def cover(axes: Axes, values: Sequence[float]) -> None:
    """Shows all finite `values` on the vertical axis, with a margin on both sides; a single one stands in the
    middle."""
    finite = [value for value in values if isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    pad = _MARGIN * (high - low) or abs(high) * _MARGIN or _MARGIN
    axes.set_ylim(low - pad, high + pad)
