"""The report: one HTML file that needs nothing but itself, neither network nor script."""

from pathlib import Path

from flowgauge.reports.adaptations import adaptation_articles
from flowgauge.reports.figures import PhaseFigures, last_rejected, phase_figures, rejection
from flowgauge.reports.frame import key_figure, page, ruler, section
from flowgauge.reports.headline import headline
from flowgauge.reports.markup import Markup, header_row, join, scrollable, tag
from flowgauge.reports.phases import false_alarm_chart, miss_chart, phase_table
from flowgauge.reports.pictures import reject_grid, suspect_grid
from flowgauge.reports.story import Snapshot, Story
from flowgauge.reports.svg import symbols
from flowgauge.reports.timeline import legend, timeline
from flowgauge.reports.wording import auroc, percent, plural


def write_report(story: Story, path: Path) -> None:
    path.write_text(render(story), encoding="utf-8")


def render(story: Story) -> str:
    """The whole page. The same story gives the same bytes."""
    sections = (_header, _timeline, _phases, _adaptations, _suspects, _rejects, _gauges, _reproduce)
    main = tag("main", *(part(story) for part in sections))
    return page(f"Flowgauge: {story.line}", symbols(), main)


def _header(story: Story) -> Markup:
    return tag(
        "header",
        ruler(),
        tag("p", tag("strong", "Flowgauge"), f" line {story.line}: {story.source}", class_="overline"),
        tag("h1", headline(story)),
        tag("dl", *_key_figures(story, phase_figures(story)[-1]), class_="key"),
    )


def _key_figures(story: Story, last: PhaseFigures) -> list[Markup]:
    accepted = sum(adaptation.report.accepted for adaptation in story.adaptations)
    counts, on, off = story.counts, last.adapted, last.frozen
    return [
        key_figure("false alarms at the end", percent(on.false_alarm), f"{percent(off.false_alarm)} switched off"),
        key_figure("defects caught at the end", percent(on.caught), f"{percent(off.caught)} switched off"),
        key_figure("image AUROC at the end", auroc(on.auroc), f"{auroc(off.auroc)} switched off"),
        key_figure("adaptations accepted", f"{accepted}", f"by the gate, of {len(story.adaptations)}"),
        key_figure("verdicts", f"{counts.verdicts:,}", f"for {plural(counts.sent, 'image')}, {counts.missing} missing"),
    ]


def _timeline(story: Story) -> Markup:
    lead = (
        "Each mark is one image; higher is more anomalous. Above, the verdicts that the pipeline wrote; below, "
        "what the first gauge says of the same images. Far from the threshold, the scale is logarithmic."
    )
    chart = scrollable("Timeline of scores", timeline(story), "wide")
    return section("Every image, in order", lead, tag("figure", legend(), chart))


def _phases(story: Story) -> Markup:
    phases = phase_figures(story)
    lead = (
        "Measured at each gauge’s own threshold, on images that never trained where a phase has such. "
        "A false alarm is a good image above the threshold, a miss a defective one below it; "
        "“to review” is the share that the gauge leaves to a person."
    )
    key = tag(
        "p",
        tag("span", "switched off", class_="off"),
        tag("span", "with adaptation", class_="on"),
        class_="chart-key",
    )
    charts = tag("div", false_alarm_chart(phases), miss_chart(phases), class_="pair-of-charts")
    return section("Before and after", lead, tag("figure", key, charts), phase_table(phases))


def _adaptations(story: Story) -> Markup | None:
    if not story.adaptations:
        return None
    lead = (
        "An adaptation starts at the anchor, the gauge that a person fitted, and learns from the buffer. "
        "The determinant of the covariance of its two standardised losses says how unsure it is; "
        "λ grows with it and pulls the gauge back to the anchor. A gate guards every swap."
    )
    return section("How the gauge was re-cut", lead, adaptation_articles(story.adaptations))


def _suspects(story: Story) -> Markup | None:
    if not story.adaptations:
        return None
    kept_out = [_kept_out(story, number) for number in range(len(story.adaptations))]
    return section(
        "Kept from training",
        "The buffer holds whatever the line showed, defects too. What each adaptation rejected as suspect:",
        *kept_out,
    )


def _kept_out(story: Story, number: int) -> Markup:
    adaptation = story.adaptations[number]
    found = rejection(adaptation)
    suspects = [suspect for suspect in story.suspects if suspect.adaptation == adaptation.report.version]
    of_all = "" if found.defects is None else f", of {found.defects} that might have trained"
    words = f"{plural(found.rejected, 'image')}, {found.rejected_defects} of them truly defective{of_all}."
    left_out = len(last_rejected(adaptation)) - len(suspects)
    more = tag("p", f"And {plural(left_out, 'image')} more.", class_="more") if left_out > 0 else None
    heading = tag("h3", f"Adaptation {number + 1}", tag("small", words))
    return join(heading, suspect_grid(suspects), more)


def _rejects(story: Story) -> Markup | None:
    lead = "Rejected images beside the place that made the gauge reject them, strongest in each phase first."
    return section("What was rejected", lead, reject_grid(story.rejects)) if story.rejects else None


def _gauges(story: Story) -> Markup:
    facts = story.gauge
    lead = (
        f"The first gauge, a {facts.detector} on {facts.backbone}, was fitted on "
        f"{plural(facts.fitted_on, 'good image')} in {facts.fit_seconds:.0f} s{_held_out(facts.false_alarm_share)}. "
        "Every gauge is stored as a verified snapshot; its hash is checked on every load."
    )
    head = header_row("epoch", "version", "parent", "from image", "SHA-256")
    body = tag("tbody", *(_snapshot(snapshot, story) for snapshot in story.snapshots))
    return section("The gauges", lead, scrollable("Gauges", tag("table", head, body, class_="gauges")))


def _held_out(share: float | None) -> str:
    return "" if share is None else f", with {percent(share)} false alarms on good images held out"


def _snapshot(snapshot: Snapshot, story: Story) -> Markup:
    since = next((swap.index for swap in story.swaps if swap.version == snapshot.version), 0)
    cells = (snapshot.version, snapshot.parent or "–", f"{since}", snapshot.sha256[:16])
    return tag("tr", tag("th", f"{snapshot.epoch}", scope="row"), *(tag("td", tag("code", cell)) for cell in cells))


def _reproduce(story: Story) -> Markup:
    counts = story.counts
    lead = (
        f"Made by {story.software} with seed {story.seed}. {plural(counts.sent, 'image')} sent, "
        f"{plural(counts.verdicts, 'verdict')} counted, {counts.missing} missing, "
        f"{plural(counts.dead_letters, 'dead letter')}. "
        "All figures are read back from the verdicts topic and the audit records."
    )
    return tag("footer", tag("h2", "Do it again"), tag("p", lead), tag("pre", tag("code", f"$ {story.command}")))
