import ast
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flowgauge import reports
from flowgauge.domain.messages import Decision
from flowgauge.meta.outer_loop import Turn
from flowgauge.reports.demo import render, timeline
from flowgauge.reports.figures import adapted, frozen, headline, measured, phase_figures, rates, rejection
from flowgauge.reports.pages import data_uri, write_page
from flowgauge.reports.plots import losses_svg
from flowgauge.reports.story import Call, Phase, Story, Truth
from flowgauge.reports.wording import percent, significant, times
from tests.support.stories import sample_story, tiny_picture

VOID = {"meta", "img", "br", "link"}


class Outline(HTMLParser):
    """Checks that tags close in order, and remembers what was opened and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []
        self.titles: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["title"]:
            self.titles.append(data)


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def story() -> Story:
    return sample_story()


@pytest.fixture(scope="module")
def page(story: Story) -> str:
    return render(story)


def test_the_page_is_well_formed_and_asks_nothing_of_the_network(page: str) -> None:
    found = outline(page)
    assert "script" not in found.seen
    assert all(address.startswith(("data:image/", "#")) for address in found.addresses)
    assert "url(" not in page
    assert "@import" not in page


def test_every_image_stands_in_both_charts(story: Story, page: str) -> None:
    titles = [title for title in outline(page).titles if title.startswith("image ")]
    assert len(titles) == 2 * len(story.points)
    for point in story.points:
        assert sum(f" {point.image_id} " in title for title in titles) == 2


def test_the_same_story_gives_the_same_page(story: Story, page: str) -> None:
    assert render(Story.model_validate_json(story.model_dump_json())) == page


def test_what_a_line_is_called_cannot_become_markup(story: Story) -> None:
    page = render(story.model_copy(update={"source": "<script>alert(1)</script>"}))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_story_without_adaptations_says_that_the_first_gauge_is_still_active(story: Story) -> None:
    quiet = story.model_copy(update={"adaptations": (), "suspects": (), "swaps": (), "rejects": ()})
    outline(render(quiet))
    assert "No adaptation was asked for" in headline(quiet)


def test_a_refused_adaptation_is_reported_as_refused() -> None:
    refused = sample_story(accepted=False)
    assert "refused twice" in headline(refused)
    assert "Only 41 of 100 synthetic anomalies are caught." in render(refused)


def test_the_headline_says_what_the_adapted_gauge_misses_that_the_first_one_caught(story: Story) -> None:
    points = tuple(
        point.model_copy(update={"adapted": point.adapted.model_copy(update={"score": 0.0})}) for point in story.points
    )
    assert "catches 0\u00a0% of the defects; the first one catches 100\u00a0%" in headline(
        story.model_copy(update={"points": points})
    )


def test_the_end_is_that_of_the_last_phase_that_shows_good_images(story: Story) -> None:
    points = tuple(point for point in story.points if point.phase < 2 or point.truth is Truth.DEFECT)
    worn = story.model_copy(update={"points": points})
    *_, second, last = phase_figures(worn)
    assert last.good == 0
    share = percent(second.adapted.false_alarm)
    assert f"the gauge ends at {share} and" in headline(worn)
    assert f"<dt>false alarms at the end</dt><dd>{share}<" in render(worn)


def test_test_images_alone_are_measured(story: Story) -> None:
    assert all(not point.use_for_training for phase in range(3) for point in measured(story, phase))


def test_a_phase_without_test_images_is_measured_on_all_of_it(story: Story) -> None:
    points = tuple(point for point in story.points if point.use_for_training)
    assert len(measured(story.model_copy(update={"points": points}), 0)) == 60


def test_shares_are_counted_at_each_gauges_own_threshold(story: Story) -> None:
    first, _, last = phase_figures(story)
    assert first.adapted == first.frozen
    assert last.frozen.false_alarm == pytest.approx(1.0)
    assert last.adapted.false_alarm == pytest.approx(0.0)
    assert (last.good, last.defect) == (20, 20)


def test_rates_of_known_points_are_exact(story: Story) -> None:
    def call(score: float, decision: Decision = Decision.PASS) -> Call:
        return Call(score=score, threshold=1.0, decision=decision, version="g0")

    kinds = [(Truth.GOOD, 0.5), (Truth.GOOD, 1.5), (Truth.DEFECT, 1.0), (Truth.DEFECT, 2.0)]
    template = story.points[0]
    points = [template.model_copy(update={"truth": truth, "adapted": call(score)}) for truth, score in kinds]
    found = rates(points, adapted)
    assert (found.false_alarm, found.miss, found.review, found.auroc) == (0.5, 0.5, 0.0, 0.75)
    assert found.caught == 0.5


def test_a_share_of_nothing_is_not_a_number(story: Story) -> None:
    good = [point for point in story.points if point.truth is Truth.GOOD]
    found = rates(good, frozen)
    assert found.miss is None
    assert found.caught is None
    assert found.auroc is None
    assert percent(found.miss) == "–"


def test_rejection_counts_what_was_truly_defective(story: Story) -> None:
    found = rejection(story.adaptations[0])
    truths = story.adaptations[0].buffer
    rejected = story.adaptations[0].report.trace.rounds[-1].rejected
    assert found.rejected == len(rejected)
    assert found.rejected_defects == sum(truths[image] is Truth.DEFECT for image in rejected) > 0
    assert found.defects == sum(truth is Truth.DEFECT for truth in truths.values())
    unknown = rejection(story.adaptations[0].model_copy(update={"buffer": {}}))
    assert unknown == replace(found, rejected_defects=0, defects=None)


def test_pictures_travel_inside_the_page(page: str) -> None:
    assert data_uri(tiny_picture(4)) in page
    with pytest.raises(ValueError, match="PNG and JPEG"):
        data_uri(b"GIF89a")


def test_text_is_escaped_once_and_charts_are_kept(story: Story) -> None:
    phases = (Phase(name="a < b & c", condition="d > e"), *story.phases[1:])
    page = render(story.model_copy(update={"phases": phases}))
    assert page.count("a &lt; b &amp; c") >= 4, "over the timeline, on hover, in the charts and in the table"
    assert "&lt;svg" not in page
    assert "&amp;lt;" not in page
    assert page.count("<svg") == outline(page).seen.count("svg") > 6


def test_a_name_may_hold_any_script_and_any_bytes(story: Story, tmp_path: Path) -> None:
    phases = (Phase(name="ねじ $x$ \x01\udcff", condition="中国 ^_{}"), *story.phases[1:])
    write_page(render(story.model_copy(update={"phases": phases})), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("ねじ $x$ ") >= 4
    assert "中国 ^_{}" in page


def test_a_score_beyond_the_scale_is_held_at_its_rim(story: Story) -> None:
    wild = story.points[7].model_copy(update={"adapted": story.points[7].adapted.model_copy(update={"score": 1e9})})
    drawn = timeline(story.model_copy(update={"points": (*story.points[:7], wild, *story.points[8:])}))
    heights = [float(y) for y in re.findall(r'<use [^>]*y="([^"]+)"', drawn)]
    assert len(heights) >= 2 * len(story.points)
    assert all(50 < y < 574 for y in heights)


def test_ticks_are_round_and_lie_within_the_range(story: Story) -> None:
    words = re.findall(r"<text [^>]*text-anchor: end[^>]*>([^<]+)</text>", timeline(story))
    upper, lower = words[: len(words) // 2], words[len(words) // 2 :]
    assert upper == lower == ["0", "2", "5", "10"]
    scores = [call.score for point in story.points for call in (point.adapted, point.frozen)]
    assert all(min(scores) <= float(word) <= max(scores) for word in upper)


def test_a_loss_that_is_no_number_leaves_a_gap() -> None:
    turns = [Turn(turn=n, line="tiles", head_loss=0.5 - n, flow_loss=math.nan if n == 3 else -n) for n in range(6)]
    drawn = losses_svg(turns)
    assert drawn.count('class="curve"') == 2
    assert "nan" not in drawn


def test_the_marks_of_two_charts_have_ids_of_their_own(page: str) -> None:
    found = re.findall(r' id="([^"]+)"', page)
    assert len(found) == len(set(found)) > 0


def test_numbers_are_written_for_people() -> None:
    assert [percent(share) for share in (0.0, 0.034, 0.4, 1.0)] == ["0\u00a0%", "3.4\u00a0%", "40\u00a0%", "100\u00a0%"]
    assert [significant(value) for value in (0.0, 0.0123, 1.5, -12345.6)] == ["0", "0.0123", "1.50", "-12346"]
    assert significant(0.00002) == "2.00×10⁻⁵"
    assert [times(count) for count in (1, 2, 5)] == ["once", "twice", "5 times"]


def test_the_page_reads_on_both_schemes_and_on_a_phone(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert re.search(r'<svg[^>]*role="img"[^>]*aria-label="[^"]+"', page)


def test_every_class_of_the_style_sheet_is_one_that_pages_use() -> None:
    """A class that is renamed on one side alone leaves the page without its style, and nothing else tells."""
    folder = Path(reports.__file__).parent
    strings = [
        node.value
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    templates = [path.read_text(encoding="utf-8") for path in (folder / "templates").glob("*.html")]
    used = {word for text in (*strings, *templates) for word in re.findall(r"[a-z][a-z-]*", text)}
    sheet = (folder / "templates/report.css").read_text(encoding="utf-8")
    styled = set(re.findall(r"\.([a-z][a-z-]*)", sheet))
    assert len(styled) > 20
    assert styled - used == set()
