from datetime import UTC, datetime
from io import StringIO
from uuid import UUID

from rich.console import Console

from flowgauge.cli.demo.screen import Screen
from flowgauge.domain.messages import Alert, AlertKind, Decision, Source, Statistics, Verdict

AT = datetime(2025, 3, 1, tzinfo=UTC)


def verdict(number: int, score: float, threshold: float = 2.0) -> Verdict:
    return Verdict(
        verdict_id=UUID(int=number),
        image_id=f"image-{number}",
        image_sha256="",
        image_uri=None,
        line="tiles",
        captured_at=AT,
        scored_at=AT,
        score=score,
        threshold=threshold,
        decision=Decision.REJECT if score > threshold else Decision.PASS,
        gauge_version="fit-1",
        detector="headflow",
        statistics=Statistics(brightness=0.5, contrast=0.1, focus=0.0),
        source=Source(topic="images", partition=0, offset=number),
    )


def alert(kind: AlertKind, message: str) -> Alert:
    return Alert(alert_id=UUID(int=1), line="tiles", at=AT, kind=kind, message=message)


def console(terminal: bool) -> Console:
    return Console(file=StringIO(), force_terminal=terminal, width=100, color_system=None)


def printed(shown: Console) -> str:
    assert isinstance(shown.file, StringIO)
    return shown.file.getvalue()


def test_what_rises_above_the_threshold_stands_in_the_upper_storey() -> None:
    shown = console(terminal=True)
    screen = Screen(shown, images=10)
    screen.verdicts([verdict(0, 0.0), verdict(1, 1.0), verdict(2, 3.0)])
    shown.print(screen)
    upper, threshold, lower, tally = printed(shown).splitlines()[1:]
    assert upper.rstrip() == "  ▄"
    assert threshold.startswith("─── threshold")
    assert lower.rstrip() == " ▄█"
    assert tally.split() == ["3", "of", "10", "images", "2", "pass", "1", "reject", "0", "review", "gauge", "fit-1"]


def test_flat_scores_are_drawn_too() -> None:
    shown = console(terminal=True)
    screen = Screen(shown, images=2)
    screen.verdicts([verdict(0, 2.0), verdict(1, 2.0)])
    shown.print(screen)
    assert "threshold" in printed(shown)


def test_events_and_alerts_are_lines_of_their_own_without_a_terminal() -> None:
    shown = console(terminal=False)
    with Screen(shown, images=1) as screen:
        screen.event("steady", "as at the fit")
        screen.verdicts([verdict(0, 3.0)])
        screen.alert(alert(AlertKind.DRIFT, "The light rose."))
        screen.alert(alert(AlertKind.REJECT, "tiles: 1 rejected."))
    assert [line.split() for line in printed(shown).splitlines()] == [
        ["steady", "as", "at", "the", "fit"],
        ["drift", "The", "light", "rose."],
    ]


def test_progress_is_gone_when_the_work_is_done() -> None:
    shown = console(terminal=True)
    screen = Screen(shown, images=1)
    with screen.working():
        screen.progress("adapting, round 1", 0.5)
        shown.print(screen)
    shown.print(screen)
    assert printed(shown).count("adapting, round 1") == 1
