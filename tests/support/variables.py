"""The environment of a test that lasts longer than one function."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest


@contextmanager
def variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """These alone of ours, for as long as it lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("FLOWGAUGE_")]:
            patch.delenv(name)
        patch.setenv("FLOWGAUGE_TOPIC_PREFIX", "")  # a plant sets it, and this puts it back
        for name, value in wanted.items():
            patch.setenv(name, value)
        yield
