import os

# before torch is loaded: on tensors as small as the tests', threads cost more than they give
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.support.shell import Shell


@pytest.fixture
def flowgauge(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The command line, in a wide terminal and without settings from outside."""
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FLOWGAUGE_STORE", "FLOWGAUGE_DEVICE", "FLOWGAUGE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return Shell(capsys)
