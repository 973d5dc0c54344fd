"""What made a gauge or a report."""

from importlib.metadata import PackageNotFoundError, version


def software() -> str:
    """`flowgauge 0.1.0`; without the number where the source runs without having been installed."""
    try:
        return f"flowgauge {version('flowgauge')}"
    except PackageNotFoundError:
        return "flowgauge"
