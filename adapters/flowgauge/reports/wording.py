"""How the report writes numbers and names."""

from math import floor, log10

_NO_BREAK = "\u00a0"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage, one decimal below 10 %, none above; an en dash for None."""
    if share is None:
        return "–"
    value = 100 * share
    words = f"{value:.1f}" if 0 < value < 9.95 else f"{value:.0f}"
    return f"{words}{_NO_BREAK}%"


def significant(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, in scientific notation only outside 0.001 to 100,000."""
    if value == 0:
        return "0"
    magnitude = floor(log10(abs(value)))
    if magnitude < -3 or magnitude > 4:
        mantissa = value / 10**magnitude
        return f"{mantissa:.{digits - 1}f}×10{str(magnitude).translate(_SUPERSCRIPTS)}"
    return f"{value:.{max(digits - 1 - magnitude, 0)}f}"


def auroc(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def times(count: int) -> str:
    """`once`, `twice`, `3 times`."""
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def short(version: str, length: int = 14) -> str:
    """The beginning of a version, enough to tell the versions of one story apart."""
    return version if len(version) <= length else version[: length - 1] + "…"
