"""What happened, in one sentence, from the figures."""

from flowgauge.reports.figures import PhaseFigures, phase_figures
from flowgauge.reports.story import Story
from flowgauge.reports.wording import percent, times


def headline(story: Story) -> str:
    """One sentence: how the false alarms went with adaptation and without, and whether defects were still caught."""
    accepted = sum(adaptation.report.accepted for adaptation in story.adaptations)
    first, last = phase_figures(story)[0], phase_figures(story)[-1]
    if accepted:
        return f"{_drifted(first, last)}. Re-cut {times(accepted)} along the way, the gauge {_outcome(last)}."
    return f"{_drifted(first, last)}. {_unchanged(story)}"


def _drifted(first: PhaseFigures, last: PhaseFigures) -> str:
    start, end = first.frozen.false_alarm, last.frozen.false_alarm
    rose = start is not None and end is not None and end > start
    course = f"{'rise' if rose else 'go'} from {percent(start)} to {percent(end)}"
    return f"As the line drifts, the first gauge’s false alarms {course}"


def _outcome(last: PhaseFigures) -> str:
    caught, before = percent(last.adapted.caught), percent(last.frozen.caught)
    alarms = percent(last.adapted.false_alarm)
    return f"ends at {alarms} and catches {caught} of the defects; the first one catches {before}"


def _unchanged(story: Story) -> str:
    if not story.adaptations:
        return "No adaptation was asked for, so the first gauge is still active."
    return f"The gate refused {times(len(story.adaptations))}, so the first gauge is still active."
