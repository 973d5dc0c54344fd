"""Kafka behind the ports, and what a camera's program publishes images with."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowgauge.kafka.publisher import ImagePublisher

__all__ = ["ImagePublisher"]


def __getattr__(name: str) -> Any:
    # kafka-python loads only where it is used: the command line reads this package's settings at every start
    if name in __all__:
        from flowgauge.kafka import publisher

        return getattr(publisher, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
