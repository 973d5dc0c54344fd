"""What all our reports share: a page that needs nothing but itself, neither network nor script."""

from importlib.resources import files

from flowgauge.reports.markup import Child, Markup, tag

# no script, no font, no address: a browser that obeys this cannot fetch anything, whatever the page says
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, *body: Child) -> str:
    """A whole HTML file."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Markup(files("flowgauge.reports").joinpath("templates/report.css").read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *body), lang='en')}\n"


def ruler() -> Markup:
    """A graduated edge, ten fine ticks to a strong one."""
    ticks = (tag("path", d=f"M{6 * n + 0.5} 0v{12 if n % 10 == 0 else 8 if n % 5 == 0 else 5}") for n in range(0, 187))
    shape = {"viewBox": "0 0 1120 12", "preserveAspectRatio": "xMinYMin slice"}
    return tag("svg", *ticks, class_="ruler", aria_hidden="true", **shape)


def key_figure(name: str, value: str, beside: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value, tag("small", beside)))


def section(title: str, lead: str, *children: Child) -> Markup:
    return tag("section", tag("h2", title), tag("p", lead, class_="lead"), *children)
