"""HTML pages from the templates beside this module: each is one file that needs neither network nor script."""

from base64 import b64encode
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from flowgauge.domain.object_keys import spelled
from flowgauge.reports import wording

_MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@cache
def _templates() -> Environment:
    """Every value is escaped unless it is markup; a name that a template misspells is an error, no blank."""
    made = Environment(
        loader=PackageLoader("flowgauge.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (wording.auroc, wording.percent, wording.plural, wording.short, wording.significant, wording.times)
    made.filters |= {each.__name__: each for each in words} | {"data_uri": data_uri}
    return made


def rendered(template: str, **facts: object) -> str:
    """The whole page. The same facts give the same bytes."""
    return _templates().get_template(template).render(facts)


def write(page: str, path: Path) -> None:
    """Bytes of a file's name that are no text are spelled out."""
    path.write_text(spelled(page), encoding="utf-8")


def data_uri(picture: bytes) -> str:
    """Raises `ValueError` for bytes that are neither PNG nor JPEG."""
    for magic, kind in _MAGIC.items():
        if picture.startswith(magic):
            return f"data:{kind};base64,{b64encode(picture).decode()}"
    raise ValueError("A report takes PNG and JPEG pictures only.")
