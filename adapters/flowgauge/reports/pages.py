"""HTML pages from the templates beside this module: each is one file that needs neither network nor script."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from flowgauge.domain.object_keys import spelled
from flowgauge.reports import wording

if TYPE_CHECKING:  # it loads torch, and a console that only shows takes a second instead of ten without
    from flowgauge.evaluation.comparison import Spread

Words = Callable[[float], str]

_MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Cell:
    """One cell of a table; `beside` stands small after its words."""

    words: str
    beside: str = ""
    class_: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a table; `beside` stands small under its name."""

    name: str
    cells: Sequence[Cell]
    beside: str = ""
    class_: str = ""


def spread_cell(spread: "Spread | None", words: Words, bold: str | None = None) -> Cell:
    """A mean over seeds and the deviation between them; bold where the mean reads like `bold`."""
    if spread is None:
        return Cell("–")
    mean = words(spread.mean)
    return Cell(
        mean, "" if spread.deviation is None else f"± {words(spread.deviation)}", "best" if mean == bold else ""
    )


def data_uri(picture: bytes) -> str:
    """Raises `ValueError` for bytes that are neither PNG nor JPEG."""
    for magic, kind in _MAGIC.items():
        if picture.startswith(magic):
            return f"data:{kind};base64,{b64encode(picture).decode()}"
    raise ValueError("A report takes PNG and JPEG pictures only.")


def templates(package: str) -> Environment:
    """Those in the folder `templates` of `package`. Every value is escaped unless it is markup; a name that a template
    misspells is an error, no blank.
    """
    made = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for each in (data_uri, wording.auroc, wording.percent, wording.plural, wording.short, wording.significant):
        made.filters[each.__name__] = each
    return made


_TEMPLATES = templates("flowgauge.reports")


def rendered(template: str, **facts: object) -> str:
    """The whole page. The same facts give the same bytes."""
    return _TEMPLATES.get_template(template).render(facts)


def write_page(page: str, path: Path) -> None:
    """Bytes of a file's name that are no text are spelled out."""
    path.write_text(spelled(page), encoding="utf-8")
