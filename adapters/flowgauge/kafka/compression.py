"""What brings the codecs that a producer or a topic may compress with, for both clients of Kafka."""

from aiokafka import codec as of_groups

from flowgauge.domain.errors import SettingsError
from kafka import codec as of_log

_PACKAGES = (
    ("cramjam", lambda: of_groups.has_snappy() and of_groups.has_lz4() and of_groups.has_zstd()),
    ("python-snappy", of_log.has_snappy),
    ("lz4", of_log.has_lz4),
    ("zstandard", of_log.has_zstd),
)


def ensure_codecs() -> None:
    """Raises `SettingsError` that names the packages without which a compressed batch would stop a reader."""
    missing = [package for package, is_there in _PACKAGES if not is_there()]
    if missing:
        raise missing_codecs(", ".join(missing))


def missing_codecs(what: str) -> SettingsError:
    return SettingsError(
        f"Images, or other records of a topic, may be compressed, and what unpacks them is missing: {what}.",
        "Install the extra again: pip install 'flowgauge[stream]'.",
    )
