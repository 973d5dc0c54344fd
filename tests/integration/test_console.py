"""The console on a line that streamed: walked in a browser, asked without one, and attacked."""

import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from io import BytesIO, StringIO
from pathlib import Path
from re import findall, sub
from threading import Event
from uuid import UUID, uuid4

import pytest
from PIL import Image
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

import flowgauge.console as console_package
from flowgauge.adaptation.adapt import adapt
from flowgauge.app.bootstrap import open_store
from flowgauge.app.embedded import embedded, folder_source
from flowgauge.cli.model import loading
from flowgauge.cli.options import Device
from flowgauge.console.access import COOKIE, Binding
from flowgauge.console.actions import _guesser
from flowgauge.console.app import application
from flowgauge.console.users import Role, Users
from flowgauge.domain.errors import AuthenticationFailed, Unavailable
from flowgauge.domain.golden import Label
from flowgauge.domain.lines import Policy
from flowgauge.domain.messages import IMAGES, Decision, Expected, Reason
from flowgauge.processors.line_monitor import Trigger
from flowgauge.processors.parts import Parts
from flowgauge.registry import snapshots as registry
from flowgauge.registry.golden_sets import add_golden, golden_set
from flowgauge.registry.lines import line_settings, set_line
from flowgauge.registry.snapshots import active_snapshot, fetch_manifest
from flowgauge.registry.trials import trial_reports
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import image_record
from flowgauge.runtime.worker import Worker
from flowgauge.services.changes import Change, latest_changes, recorded
from flowgauge.services.decisions import refuse
from flowgauge.services.threshold import announce_threshold, stored_threshold
from flowgauge.services.trials import start_trial, stop_trial
from flowgauge.training.snapshot import read_manifest
from tests.support.consoles import SECONDS, Browser, Served, chromium, served
from tests.support.part_verdicts import view
from tests.support.plants import LINE, fitted_store, tiny_dataset
from tests.support.shell import Shell
from tests.support.streaming import append_verdicts, event

PASSWORDS = {name: f"{name} has a long password" for name in ("vera", "ines", "egon")}

HOSTILE = "<script>alert(1)</script>/../../etc"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """One line with a gauge; all test images have verdicts, and one file was no image."""
    with open_store(str(fitted_store(tmp_path / "store"))) as store:
        set_line(store.objects, LINE, buffer_minimum=4, policy=Policy.PROPOSE)
        incoming = tmp_path / "incoming"
        for number, path in enumerate(sorted((tiny_dataset() / "test").rglob("*.png"))):
            target = incoming / f"{number:02d}-{path.parent.name}.png"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
        store.log.append([image_record(event("torn", LINE), b"no image"), image_record(event(HOSTILE, LINE), b"x")])
        run(store, incoming)
        yield store


def run(store: Store, folder: Path | None = None) -> None:
    sources = [] if folder is None else [folder_source(store, folder, LINE)]
    embedded(store, loading(Device.CPU), adapt, sources).run_until_idle()


@pytest.fixture
def site(store: Store) -> Iterator[Served]:
    with served(store) as found:
        yield found


@pytest.fixture
def guarded(store: Store, tmp_path: Path) -> Iterator[Served]:
    users = Users(tmp_path / "users.json")
    for name, role in zip(PASSWORDS, Role, strict=True):
        users.add(name, role, PASSWORDS[name])
    with served(store, Binding(users=tmp_path / "users.json")) as found:
        yield found


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    with chromium() as found:
        yield found


@pytest.fixture
def browser(driver: Chrome, site: Served) -> Browser:
    return Browser(driver, site.address)


def proposed(site: Served, mark: str = "image-7") -> UUID:
    now = site.console.store.clock.now()
    trigger = Trigger(LINE, Reason.DRIFT, mark, now, "brightness rose by 20 %", since=None)
    site.console.store.log.append([trigger.proposed()])
    site.console.refresh()
    return trigger.request.request_id


def changes(store: Store) -> list[Change]:
    """What was changed since the line's gauge was fitted, the newest first."""
    return [change for change in latest_changes(store, 100) if change.action != "fit"]


def rejected(site: Served) -> list[str]:
    """Ids of the rejects, the newest first."""
    flagged = site.console.overview.flagged(LINE)
    return [str(each.verdict_id) for each in flagged if each.decision is Decision.REJECT]


def test_every_page_is_walked_by_keyboard_and_screen_reader_and_asks_nobody_else(
    browser: Browser, site: Served, store: Store
) -> None:
    proposed(site)
    pages = ["/", f"/lines/{LINE}", f"/lines/{LINE}/review", f"/verdicts/{rejected(site)[0]}", "/adaptations"]
    of_line = ("adaptations", "gauges", "trials", "threshold", "compare", "settings")
    pages += [f"/lines/{LINE}/{page}" for page in of_line]
    for path in (*pages, "/dead-letters", "/changes", "/lines/nowhere"):
        browser.go(path)
        assert browser.one("h1").text, path
        if path != "/lines/nowhere":
            browser.accessible()
    browser.go(f"/lines/{LINE}/adaptations")
    browser.click("Look at its evidence")
    browser.shows("Approve")
    browser.go(f"/lines/{LINE}")
    browser.until(lambda driver: len(driver.find_elements(By.CSS_SELECTOR, ".point")) >= 12)
    # points of one second lie on one another, so the one that was meant is told, whatever lies above it
    click = "arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    browser.driver.execute_script(click, browser.one(".point.reject"))
    browser.until(lambda driver: "/verdicts/" in driver.current_url)
    browser.go("/changes")
    complaints = [entry["message"] for entry in browser.logged("browser") if entry["level"] == "SEVERE"]
    assert [each for each in complaints if "/lines/nowhere" not in each] == []
    browser.check()


def test_every_class_of_a_page_is_one_that_a_style_or_a_script_knows() -> None:
    folder = Path(console_package.__file__).parent
    known = "".join(path.read_text() for path in (folder / "static").iterdir() if path.suffix in {".css", ".js"})
    named = {
        name
        for path in (folder / "templates").glob("*.html")
        for classes in re.findall(r'class="([^"]*)"', path.read_text())
        for name in re.sub(r"{[%{].*?[%}]}", " ", classes).split()
    }
    assert len(named) > 40
    assert [name for name in sorted(named) if not re.search(rf"[.'\"` ]{re.escape(name)}\b", known)] == []


def test_a_verdict_shows_up_without_loading_the_page_again(browser: Browser, store: Store) -> None:
    browser.go("/")
    before = browser.one(".lines tbody th a")
    assert before.text == LINE
    data = next((tiny_dataset() / "test" / "good").glob("*.png")).read_bytes()
    store.log.append([image_record(event("first", "press-9", at=store.clock.now()), data)])
    run(store)
    browser.until(lambda driver: "press-9" in driver.find_element(By.TAG_NAME, "main").text)
    browser.shows("The line has no gauge yet.")
    browser.check()


def test_parts_are_counted_and_a_verdict_leads_to_the_other_views_of_its_part(
    browser: Browser, site: Served, store: Store
) -> None:
    set_line(store.objects, "views", part_views=2)
    first = store.log.end(IMAGES, 0)
    views = [
        view(first + n, f"S{n // 2}", n % 2, Decision.REJECT if n == 3 else Decision.PASS, line="views")
        for n in range(4)
    ]
    append_verdicts(store.log, [each.model_copy(update={"gauge_version": None}) for each in views])
    parts = Worker(Parts(store), store.log, store.clock, 16)
    while parts.step():
        pass
    site.console.refresh()
    browser.go("/")
    browser.shows("50 % rejected, 0 % for review")
    browser.go("/lines/views")
    assert browser.one("#parts").text.replace("\n", " ") == "2 1 pass (50 %), 1 reject (50 %)"
    browser.go(f"/verdicts/{views[3].verdict_id}")
    browser.shows("Part S1")
    browser.accessible()
    browser.click("S1-0")
    browser.until(lambda driver: str(views[2].verdict_id) in driver.current_url)


def test_a_proposal_is_approved_in_the_browser_and_carried_out(browser: Browser, site: Served, store: Store) -> None:
    proposed(site)
    browser.go("/")
    browser.shows("An adaptation waits for approval.")
    browser.click("Adaptations")
    browser.shows("brightness rose by 20 %")
    browser.click("Approve")
    browser.shows("waits for a worker")
    run(store)
    browser.one("#decisions tbody tr")  # without loading the page again
    assert "waits for a worker" not in browser.one("main").text
    browser.shows("No adaptation waits for a person.")
    browser.click(LINE)
    browser.shows(f"Adaptations of {LINE}")
    browser.click("adapted-")
    browser.shows("Checks of the gate")
    assert browser.all("section[aria-labelledby=checks] tbody tr")
    (change,) = changes(store)
    assert (change.by, change.action, change.line) == ("mara", "approve", LINE)
    browser.check()


def test_a_proposal_is_refused_with_a_reason(browser: Browser, site: Served, store: Store) -> None:
    proposed(site)
    browser.go("/adaptations")
    browser.one("input[name=why]").send_keys("the lamp is broken")
    browser.click("Refuse")
    browser.shows("No adaptation waits for a person.")
    browser.shows("mara refused the proposal. the lamp is broken")
    (change,) = changes(store)
    assert (change.action, change.after["why"]) == ("refuse", "the lamp is broken")


def test_a_proposal_that_a_colleague_answers_is_reported_while_it_is_looked_at(
    browser: Browser, site: Served, store: Store
) -> None:
    request = proposed(site)
    browser.go("/adaptations")
    browser.one("input[name=why]").send_keys("the lamp")
    refuse(store, request, "lee", "no")
    browser.shows("What waits for a person has changed.")
    assert browser.one("input[name=why]").get_property("value") == "the lamp"
    browser.click("Load the page again")
    browser.shows("No adaptation waits for a person.")
    browser.check()


def test_a_change_that_nobody_could_finish_says_so(site: Served, store: Store) -> None:
    with pytest.raises(Unavailable), recorded(store, "mara", "roll back", LINE, "fit-1"):
        raise Unavailable("The brokers are away.", "Wait.")
    assert "not known whether it took effect" in site.visitor().get("/changes").text


def test_the_review_queue_is_worked_off_by_keyboard(browser: Browser, site: Served, store: Store) -> None:
    browser.go(f"/lines/{LINE}/review")
    total = len(site.console.overview.flagged(LINE))
    assert total >= 6
    browser.until(lambda driver: driver.execute_script("return document.getElementById('picture').naturalWidth") > 0)
    browser.one("input[name=kind]").send_keys("scratch", Keys.ENTER)
    for key in "1dg":
        browser.press(key)
    browser.until(lambda driver: len(list(golden_set(store.objects, LINE))) == 3)
    browser.press("u")
    browser.until(lambda driver: len(list(golden_set(store.objects, LINE))) == 2)
    browser.shows(f"3 of {total}")
    labels = sorted((each.label, each.kind) for each in golden_set(store.objects, LINE))
    assert labels == [(Label.DEFECT, ""), (Label.DEFECT, "scratch")]
    assert sum(int(cell.text) for cell in browser.all("[data-of$=defect]")) == 2
    assert {change.action for change in changes(store)} == {"label"}
    browser.check()


def test_a_verdict_is_predicted_again_and_its_stored_score_reproduced(browser: Browser, site: Served) -> None:
    browser.go(f"/verdicts/{rejected(site)[0]}")
    browser.click("With its own gauge")
    browser.shows("The stored score is reproduced.")
    browser.check()


def test_a_gauge_is_rolled_back_to(browser: Browser, store: Store, site: Served) -> None:
    first = site.console.overview.gauges(LINE)[0].version
    made = stored_threshold(store, LINE, "lee", value=1e6, sure=True)
    announce_threshold(store, LINE, made, "lee")
    second = made.version
    site.console.refresh()
    browser.go(f"/lines/{LINE}/gauges")
    browser.shows(second)
    browser.click("Roll back")
    browser.until(lambda driver: first in driver.find_element(By.CSS_SELECTOR, "tr.active th").text)
    change, earlier = changes(store)
    assert (earlier.by, earlier.action) == ("lee", "threshold")
    assert (change.action, change.before["version"], change.after["version"]) == ("roll back", second, first)


def test_a_gauge_is_tried_stopped_tried_again_and_promoted(
    browser: Browser, store: Store, site: Served, tmp_path: Path
) -> None:
    first = site.console.overview.gauges(LINE)[0].version
    made = stored_threshold(store, LINE, "lee", value=1e6, sure=True)  # passes everything
    announce_threshold(store, LINE, made, "lee")
    second = made.version
    registry.roll_back(store, LINE, first)
    set_line(store.objects, LINE, shadow_share=1.0)
    site.console.refresh()
    browser.go(f"/lines/{LINE}/gauges")
    Select(browser.one("select[name=expected]")).select_by_visible_text("fewer alarms")
    browser.click(f"Try {second}")
    browser.shows("decides none")
    send_again(store, tmp_path / "incoming")
    browser.go(f"/lines/{LINE}/trials")
    browser.shows("reject")
    pictures = browser.all(".gallery img")
    assert pictures
    browser.until(lambda driver: all(image.get_property("naturalWidth") for image in pictures))
    browser.accessible()
    browser.one("input[name=why]").send_keys("it passes everything")
    browser.click("Stop the trial")
    browser.shows("it passes everything")
    browser.click(f"Try again {second}")
    browser.shows("decides none")
    shown = active_snapshot(store.log, LINE).trial
    assert shown is not None
    stop_trial(store, LINE, str(shown.trial_id), "lee", "")
    another = start_trial(store, LINE, second, "lee", Expected.FEWER)
    browser.click("Let it take over")
    browser.shows(f"but {another.short_id} is")
    assert active_snapshot(store.log, LINE).trial == another
    browser.go(f"/lines/{LINE}/trials")
    browser.click("Let it take over")
    browser.until(lambda driver: active_snapshot(store.log, LINE).version == second)
    outcomes = [report.outcome.value for report in trial_reports(store, LINE)]
    assert outcomes == ["stopped", "stopped", "promoted"]
    of_mara = [change.action for change in changes(store) if change.by == "mara"]
    assert of_mara == ["promote", "start trial", "stop trial", "start trial"]


def send_again(store: Store, folder: Path) -> None:
    """The images of `folder` under other names."""
    for path in sorted(folder.glob("*.png")):
        path.rename(path.with_name(f"again-{path.name}"))
    run(store, folder)


def labelled(store: Store) -> None:
    """Every test image becomes golden by hand; their names are not those of verdicts."""
    for path in sorted((tiny_dataset() / "test").rglob("*.png")):
        label = Label.GOOD if path.parent.name == "good" else Label.DEFECT
        add_golden(store.objects, LINE, label, f"by-hand-{path.parent.name}-{path.name}", path.read_bytes())


def test_a_threshold_shows_its_price_and_another_one_is_set(browser: Browser, store: Store, site: Served) -> None:
    labelled(store)
    set_line(store.objects, LINE, cost_false_alarm=1, cost_miss=20, defect_rate=0.05)
    browser.go(f"/lines/{LINE}")
    browser.click("Threshold")
    browser.shows("12 labelled images do not count yet")
    browser.shows("Misses cannot be known")
    browser.click("Score them")
    browser.shows("Misses: Clopper-Pearson intervals from 6 labelled defects.")
    browser.shows("costs least")
    browser.accessible()
    scores = read_manifest(fetch_manifest(store.objects, LINE, site.console.overview.gauges(LINE)[0].version)).threshold
    wanted = f"{scores.at(0.3):.4g}"
    browser.one("#asked").clear()
    browser.one("#asked").send_keys(wanted)
    browser.until(lambda driver: wanted in driver.find_element(By.CSS_SELECTOR, "#price dd").text)
    assert "lines" in browser.driver.current_url, "the page stays; its price alone is new"
    browser.one("#asked").send_keys("x")
    browser.until(lambda driver: driver.find_element(By.CSS_SELECTOR, "[data-told]").text == "no number")
    complaints = browser.logged("browser")
    assert all("400" in entry["message"] for entry in complaints), complaints
    browser.one("#value").send_keys("1e9")
    browser.click("Set the threshold")
    browser.until(
        lambda driver: "far above all good scores" in driver.find_element(By.CSS_SELECTOR, "[role=alert]").text
    )
    assert browser.one("#value").get_attribute("value") == "1e9"
    browser.logged("browser")
    browser.one("#value").clear()
    browser.one("#value").send_keys(wanted)
    browser.one("#why").send_keys("fewer <b>misses</b>")
    browser.click("Set the threshold")
    browser.shows("Set by mara: fewer <b>misses</b>")
    browser.check()
    (change,) = changes(store)
    assert (change.by, change.action, change.after["why"]) == ("mara", "threshold", "fewer <b>misses</b>")
    assert change.after["threshold"] == float(wanted)
    browser.go(f"/lines/{LINE}/gauges")
    browser.shows("threshold set by mara")
    browser.click("Compare two of them")
    browser.click("Compare")
    browser.shows("Decisions that differ")
    assert browser.all("figure.square .points")
    browser.accessible()
    browser.check()
    browser.go(f"/lines/{LINE}/gauges")
    browser.click("Roll back")
    browser.until(lambda driver: "fit-" in driver.find_element(By.CSS_SELECTOR, "tr.active th").text)


def test_what_is_no_threshold_is_refused_and_changes_nothing(site: Served, store: Store) -> None:
    visitor = site.visitor()
    visitor.get(f"/lines/{LINE}/threshold")
    before = site.console.overview.gauges(LINE)
    for form in ({}, {"value": "much"}, {"value": "nan"}, {"value": "1", "false_alarms": "0.1"}, {"false_alarms": "7"}):
        answer = visitor.post(f"/lines/{LINE}/threshold", form)
        assert answer.status == 400, form
        assert 'role="alert"' in answer.text
    for text in ("nan", "inf", "much", "1e999"):
        assert visitor.get(f"/lines/{LINE}/threshold/price?value={text}").status == 400
    assert visitor.post(f"/lines/{LINE}/compare", {"first": "../../x", "second": "<script>"}).status == 400
    site.console.refresh()
    assert (site.console.overview.gauges(LINE), changes(store)) == (before, [])


def test_a_dead_letter_is_replayed_and_settings_are_changed(browser: Browser, store: Store) -> None:
    browser.go("/dead-letters")
    browser.shows("torn")
    assert browser.driver.execute_script("return document.querySelectorAll('main script').length") == 0
    browser.click("Replay")
    browser.shows("replayed")
    browser.go(f"/lines/{LINE}/settings")
    Select(browser.one("#policy")).select_by_visible_text("off")
    browser.one("#deadline_seconds").send_keys("2.5")
    browser.click("Save")
    browser.until(lambda driver: line_settings(store.objects, LINE).policy is Policy.OFF)
    assert line_settings(store.objects, LINE).deadline_seconds == 2.5
    browser.until(lambda driver: browser.one("#policy").get_attribute("value") == "off")
    browser.one("#buffer_size").clear()
    browser.one("#buffer_size").send_keys("many")
    browser.click("Save")
    browser.shows("buffer_size")
    assert browser.one("[role=alert]").text.startswith("buffer_size")
    assert line_settings(store.objects, LINE).buffer_size == 400


def test_people_sign_in_and_are_refused_by_role(driver: Chrome, guarded: Served, store: Store) -> None:
    browser = Browser(driver, guarded.address)
    proposed(guarded)
    browser.go("/adaptations")
    browser.shows("Sign in")
    browser.accessible()
    for selector, text in (("#name", "ines"), ("#password", PASSWORDS["ines"])):
        browser.one(selector).send_keys(text)
    browser.click("Sign in")
    browser.shows("brightness rose")
    assert browser.all("form[action$=approve]") == [], "who may not approve is not offered to"
    browser.go(f"/verdicts/{rejected(guarded)[0]}")
    browser.click("Good")
    browser.shows("In the golden set as good")
    browser.click("Sign out")
    browser.shows("Sign in")
    browser.go("/")
    browser.shows("Sign in")
    for selector, text in (("#name", "vera"), ("#password", PASSWORDS["vera"])):
        browser.one(selector).send_keys(text)
    browser.click("Sign in")
    browser.shows(LINE)
    assert guarded.console.access.users is not None
    guarded.console.access.users.remove("vera")
    browser.shows("Sign in")
    assert browser.all("[data-live]") == [], "the page itself is left, and not filled with another"


ROUTES = (
    "/",
    "/live",
    "/adaptations",
    "/adaptations/live",
    "/dead-letters",
    "/dead-letters/{partition}/{offset}/preview",
    "/changes",
    "/verdicts/{verdict}",
    "/verdicts/{verdict}/image",
    "/verdicts/{verdict}/heatmap",
    "/lines/{line}",
    "/lines/{line}/live",
    "/lines/{line}/samples",
    "/lines/{line}/review",
    "/lines/{line}/adaptations",
    "/lines/{line}/adaptations/{version}",
    "/lines/{line}/adaptations/{version}/suspects/{number}",
    "/lines/{line}/gauges",
    "/lines/{line}/trials",
    "/lines/{line}/trials/{request}/changed/{verdict}",
    "/lines/{line}/threshold",
    "/lines/{line}/threshold/price",
    "/lines/{line}/compare",
    "/lines/{line}/settings",
)
DEEDS = {
    "/verdicts/{verdict}/label": Role.INSPECTOR,
    "/verdicts/{verdict}/predict": Role.VIEWER,
    "/adaptations/{request}/approve": Role.ENGINEER,
    "/adaptations/{request}/refuse": Role.ENGINEER,
    "/lines/{line}/adapt": Role.ENGINEER,
    "/lines/{line}/roll-back": Role.ENGINEER,
    "/lines/{line}/trials/start": Role.ENGINEER,
    "/lines/{line}/trials/stop": Role.ENGINEER,
    "/lines/{line}/trials/promote": Role.ENGINEER,
    "/lines/{line}/threshold": Role.ENGINEER,
    "/lines/{line}/threshold/score": Role.VIEWER,
    "/lines/{line}/compare": Role.VIEWER,
    "/lines/{line}/settings": Role.ENGINEER,
    "/dead-letters/replay": Role.ENGINEER,
    "/sign-out": Role.VIEWER,
}


def test_every_route_is_closed_without_a_session_and_every_deed_without_the_role_or_the_token(
    guarded: Served, store: Store
) -> None:
    names = {"verdict": rejected(guarded)[0], "line": LINE, "request": str(proposed(guarded))}
    names |= {"partition": "0", "offset": "0", "version": "x", "number": "0"}
    declared = {sub(r"{[^}]*}", "*", str(vars(route)["path"])) for route in application(guarded.console).routes}
    assert declared == {sub(r"{[^}]*}", "*", path) for path in (*ROUTES, *DEEDS)} | {"/sign-in", "/static"}
    stranger = guarded.visitor()
    for path in ROUTES:
        answer = stranger.get(path.format(**names))
        assert (answer.status, answer.headers["location"].split("?")[0]) == (303, "/sign-in"), path
        assert stranger.get(path.format(**names), accept="application/json").status == 401
    stranger.get("/sign-in")
    for path in DEEDS:
        assert stranger.post(path.format(**names), {"label": "good"}).status == 401, path
    for name, role in zip(PASSWORDS, Role, strict=True):
        visitor = guarded.visitor()
        assert visitor.sign_in(name, PASSWORDS[name]).status == 303
        visitor.get("/")
        for path, least in DEEDS.items():
            if path == "/sign-out":
                continue
            assert visitor.post(path.format(**names), {"csrf": ""}).status == 403, f"{path} without the token"
            elsewhere = visitor.post(path.format(**names), origin="https://elsewhere.example")
            assert elsewhere.status == 403, f"{path} from another site"
            if role < least:
                assert visitor.post(path.format(**names)).status == 403, f"{path} as {name}"
    assert changes(store) == []
    assert list(golden_set(store.objects, LINE)) == []
    assert line_settings(store.objects, LINE).policy is Policy.PROPOSE


def test_names_from_outside_never_leave_their_folder(site: Served, store: Store) -> None:
    visitor = site.visitor()
    for path in (
        "/lines/..%2f..%2fetc%2fpasswd",
        "/lines/%3Cscript%3E/settings",
        f"/lines/{'a' * 10_000}",
        f"/lines/{LINE}/adaptations/..%2f..%2fstate.db",
        f"/lines/{LINE}/gauges/../../../../etc/passwd",
        "/static/../access.py",
        "/static/..%2faccess.py",
        "/dead-letters/999/0/preview",
        "/dead-letters/0/99999999999999999999/preview",
        f"/verdicts/{uuid4()}",
        f"/verdicts/{rejected(site)[0]}?day=yesterday",
        f"/lines/{LINE}/samples?since=now&until=then",
        f"/lines/{LINE}/samples?since=0001-01-01T00:00:00%2B14:00&until=9999-12-31T23:59:59-14:00",
        f"/lines/{LINE}/samples?since=9999-12-10T00:00&until=9999-12-11T00:00",
    ):
        answer = visitor.get(path)
        assert 400 <= answer.status < 500, path
        assert "Traceback" not in answer.text
        assert "root:" not in answer.text
    answer = visitor.get("/dead-letters")
    assert "&lt;script&gt;alert(1)" in answer.text
    assert "<script>alert(1)" not in answer.text
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    policy = answer.headers["content-security-policy"].replace("style-src-attr 'unsafe-inline'", "")
    assert "unsafe" not in policy
    for strange in ({"csrf": "é"}, {"csrf": ""}):
        answer = visitor.post("/sign-out", strange)
        assert answer.status == 403
        assert "content-security-policy" in answer.headers
    assert visitor.get("/", host="[").status == 400
    huge = visitor.post(f"/lines/{LINE}/settings", {"policy": "x" * 100_000})
    assert huge.status == 413
    assert visitor.post(f"/lines/{LINE}/roll-back", {"version": "../../lines"}).status == 400


def test_the_open_console_answers_to_its_own_name_alone(site: Served) -> None:
    assert site.visitor().get("/", host=f"rebound.example:{site.port}").status == 400
    assert site.visitor().get("/", host=f"localhost:{site.port}").status == 200


def test_a_thousand_guesses_end_in_a_wait_and_open_nothing(guarded: Served) -> None:
    visitor = guarded.visitor()
    visitor.get("/sign-in")
    statuses = [visitor.post("/sign-in", {"name": "egon", "password": f"guess {n}"}).status for n in range(1_000)]
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= 12, "the first five, and one after each wait that has passed"
    form = {"name": "somebody", "password": "x"}
    with ThreadPoolExecutor(30) as many:
        again = list(many.map(lambda _: visitor.post("/sign-in", form).status, range(60)))
    assert again.count(401) <= 2, "many at once are no more than one after the other"
    answer = visitor.post("/sign-in", {"name": "egon", "password": PASSWORDS["egon"]})
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) > 0


def test_a_session_is_new_with_each_sign_in_and_over_with_its_end(guarded: Served) -> None:
    visitor = guarded.visitor()
    visitor.get("/sign-in")
    before = visitor.cookies[COOKIE]
    answer = visitor.sign_in("egon", PASSWORDS["egon"])
    assert visitor.cookies[COOKIE] != before, "who planted the cookie would share the session"
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]
    again = replace(visitor, cookies=dict(visitor.cookies))
    assert again.get("/").status == 200
    visitor.get("/")
    assert visitor.post("/sign-out").status == 303
    assert again.get("/").status == 303
    assert visitor.sign_in("egon", PASSWORDS["egon"]).status == 303
    assert guarded.console.access.users is not None
    guarded.console.access.users.add("egon", Role.ENGINEER, "another long password")
    assert visitor.get("/").status == 303, "a new password ends the sessions of the old one"
    guarded.console.access.users.add("egon", Role.ENGINEER, PASSWORDS["egon"])
    assert guarded.visitor().sign_in("egon", "wrong").status == 401
    elsewhere = guarded.visitor()
    elsewhere.get("/sign-in")
    form = {"name": "egon", "password": PASSWORDS["egon"], "to": "//elsewhere.example/"}
    assert elsewhere.post("/sign-in", form).headers["location"] == "/"


def test_a_proxy_s_header_counts_from_its_address_alone(store: Store, tmp_path: Path) -> None:
    Users(tmp_path / "users.json").add("egon", Role.ENGINEER, None)
    trusting = Binding(users=tmp_path / "users.json", proxy_header="X-Remote-User", trusted=("127.0.0.0/8",))
    with served(store, trusting) as site:
        answer = site.visitor().get("/", x_remote_user="egon")
        assert answer.status == 200
        assert "engineer" in answer.text
        assert "Secure" in answer.headers["set-cookie"]
        assert "viewer" in site.visitor().get("/", x_remote_user="somebody").text
        assert site.visitor().get("/").status == 303
    with served(store, replace(trusting, trusted=("10.0.0.7",))) as site:
        assert site.visitor().get("/", x_remote_user="egon", x_forwarded_for="10.0.0.7").status == 303


def test_who_comes_past_the_proxy_is_refused(store: Store, tmp_path: Path) -> None:
    """There is no TLS on that way, so no password may be asked for."""
    Users(tmp_path / "users.json").add("egon", Role.ENGINEER, PASSWORDS["egon"])
    behind = Binding("10.0.0.5", users=tmp_path / "users.json", proxy_header="X-Remote-User", trusted=("10.0.0.7",))
    with served(store, behind) as site:
        assert site.visitor().get("/sign-in").status == 403


def test_guesses_count_by_machine_and_not_by_address() -> None:
    assert _guesser("2001:db8::1") == _guesser("2001:db8::2:3")
    assert _guesser("2001:db8:0:1::1") != _guesser("2001:db8::1")
    assert _guesser("10.0.0.7") != _guesser("10.0.0.8")


def test_a_setting_that_a_colleague_changed_meanwhile_stays(site: Served, store: Store) -> None:
    mine = site.visitor()
    page = mine.get(f"/lines/{LINE}/settings").text
    form = dict(findall(r'name="(was-[a-z_]+)" value="([^"]*)"', page))
    form |= {name.removeprefix("was-"): value for name, value in form.items()} | {"buffer_size": "300"}
    set_line(store.objects, LINE, buffer_minimum=77)
    assert mine.post(f"/lines/{LINE}/settings", form).status == 303
    after = line_settings(store.objects, LINE)
    assert (after.buffer_size, after.buffer_minimum) == (300, 77)
    (change,) = changes(store)
    assert change.after == {"buffer_size": 300}


def test_the_console_goes_on_looking_whatever_a_look_runs_into(
    site: Served, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks, again = site.console.overview.refresh, Event()
    failures = iter([AuthenticationFailed("We are refused.", "Ask."), OSError("broken"), OSError("broken")])

    def look() -> None:
        for failure in failures:
            raise failure
        looks()
        again.set()

    monkeypatch.setattr(site.console.overview, "refresh", look)
    assert again.wait(SECONDS)
    assert [record.message.split(".")[0] for record in caplog.records] == ["The console shows what it last read"] * 2


def test_sessions_that_cannot_be_looked_up_end_in_a_page_that_says_so(
    guarded: Served, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = guarded.visitor()
    visitor.sign_in("egon", PASSWORDS["egon"])

    def away(key: str) -> bytes:
        raise Unavailable("Redis is away.", "Wait.")

    monkeypatch.setattr(store.state, "get", away)
    answer = visitor.get("/")
    assert answer.status == 503
    assert "Redis is away." in answer.text


def test_pictures_are_jpegs_whatever_a_camera_sent(site: Served) -> None:
    verdict = rejected(site)[0]
    connection = site.visitor()
    for what in ("image", "image?small", "heatmap", "heatmap?small"):
        answer = connection.get(f"/verdicts/{verdict}/{what}")
        assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert site.console.thumbnail(site.console.verdict(UUID(verdict)).image_uri or "").startswith(b"\xff\xd8")
    picture = Image.open(BytesIO(site.console.thumbnail(site.console.verdict(UUID(verdict)).image_uri or "")))
    assert max(picture.size) <= 320


def test_samples_of_a_span_come_from_the_archive(site: Served, store: Store) -> None:
    now = store.clock.now()
    since, until = ((now + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S") for hours in (-30, 30))
    found = json.loads(site.visitor().get(f"/lines/{LINE}/samples?since={since}&until={until}").text)
    assert found["images"] == len(found["samples"]) == 12
    assert {mark["kind"] for mark in found["marks"]} <= {"swap", "drift", "adaptation"}


def test_the_command_line_adds_lists_and_removes_users_and_a_store_has_the_record(
    flowgauge: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, store = tmp_path / "users.json", ("--store", tmp_path / "plant")
    add = ("console", "user", "add", "mara", "--users", users)
    for role, password, code in (
        ("viewer", "too short", 2),
        ("viewer", "another long sentence", 0),
        ("engineer", "a long enough sentence", 0),
    ):
        monkeypatch.setattr("sys.stdin", StringIO(f"{password}\n"))
        done = flowgauge(*add, "--role", role, *store)
        assert done.code == code, done.err
    assert "engineer" in flowgauge("console", "user", "list", "--users", users).out
    assert Users(users).verify("mara", "a long enough sentence")
    assert flowgauge("console", "user", "remove", "mara", "--users", users, *store).code == 0
    assert flowgauge("console", "user", "remove", "mara", "--users", users, *store).code == 2
    word = {"signs in": "with a new password"}
    assert [
        (change["action"], change["target"], change["before"], change["after"], change["state"])
        for change in flowgauge("changes", *store, "--json").lines
    ] == [
        ("add user", "mara", {}, {"role": "viewer"} | word, "done"),
        ("add user", "mara", {"role": "viewer"}, {"role": "engineer"} | word, "done"),
        ("remove user", "mara", {"role": "engineer"}, {}, "done"),
    ]
    monkeypatch.setattr("sys.stdin", StringIO("a long enough sentence\n"))
    assert flowgauge(*add).code == 0, "where no store is named, as on a machine that has none"
    refused = flowgauge("console", "--store", tmp_path / "plant", "--host", "0.0.0.0")
    assert refused.code == 2
    assert "--users FILE" in refused.err
    assert flowgauge("console").code == 2


def test_a_port_that_is_in_use_is_named_and_nothing_is_said_to_be_there(flowgauge: Shell, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = flowgauge("console", "--store", tmp_path, "--port", port)
    assert (refused.code, refused.out) == (2, "")
    assert str(port) in refused.err
    assert "--port" in refused.err


def test_a_certificate_that_cannot_be_used_is_named(flowgauge: Shell, tmp_path: Path) -> None:
    (tmp_path / "users.json").write_text("{}")
    (tmp_path / "cert.pem").write_text("no certificate")
    for name, reason in (("none.pem", "No such file"), ("cert.pem", "PEM")):
        given = ("--users", tmp_path / "users.json", "--tls-cert", tmp_path / name, "--tls-key", tmp_path / "key.pem")
        done = flowgauge("console", "--store", tmp_path, "--host", "0.0.0.0", *given)
        assert (done.code, done.out) == (2, "")
        assert f"The certificate {tmp_path / name}" in done.err
        assert reason in done.err
