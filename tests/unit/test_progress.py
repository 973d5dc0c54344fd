import pytest

from flowgauge.cli import progress
from flowgauge.cli.progress import bars


def test_a_log_gets_a_line_a_minute_of_long_work_and_none_of_short(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    with bars() as report:
        for done in range(5):
            report("fitting [screws]", done, 5)
            now += 25.0
        report("fitting [screws]", 5, 5)
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["fitting [screws]: 3 of 5"]
    assert not printed.out
