"""HTML and SVG as nested calls: text is escaped, markup is not escaped twice."""

from html import escape


class Markup(str):
    """Text that is markup already and goes into a page as it is."""

    __slots__ = ()


Child = str | None
Attribute = str | float | bool | None

_VOID = frozenset({"img", "meta", "br", "link"})


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """`<name ...>children</name>`.

    An attribute's name loses a trailing underscore and has hyphens for the other ones (`class_`, `stroke_width`).
    None leaves an attribute or a child out, True writes a bare attribute; numbers keep two decimals.
    """
    introduction = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{introduction}>")
    return Markup(f"<{name}{introduction}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """The children one after the other, escaped unless they are markup."""
    return Markup("".join(_text(child) for child in children if child is not None))


def scrollable(label: str, content: Markup, class_: str = "") -> Markup:
    """`content` in a region that scrolls sideways where the window is too narrow, with the keyboard too."""
    return tag("div", content, class_=f"scroll {class_}".strip(), tabindex="0", role="region", aria_label=label)


def header_row(*names: str) -> Markup:
    return tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names)))


def _text(child: str) -> str:
    return child if isinstance(child, Markup) else escape(child, quote=False)


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    return f' {name}="{escape(number(value) if isinstance(value, int | float) else value)}"'


def number(value: float) -> str:
    """At most two decimals, no trailing zeros: `12.5`, `3`, `-0.25`."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
