"""Alerts reach people: by mail, MQTT and webhook on real servers, through outages and kills, each once."""

import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from uuid import uuid4

import psutil
import pytest

from flowgauge.app.bootstrap import open_store
from flowgauge.app.embedded import embedded
from flowgauge.app.notify import checked_routes, notifying, open_messenger
from flowgauge.domain.errors import SettingsError, Unavailable
from flowgauge.domain.messages import ALERTS, AlertKind
from flowgauge.processors.delivery import Delivery
from flowgauge.processors.notifying import Notifying
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from tests.support.clusters import plant
from tests.support.messages import raise_alert, work
from tests.support.receivers import Inbox, Message, Mosquitto, mail_server, subscribed, webhook
from tests.support.servers import S3Address, plant_variables, provided, running
from tests.support.shell import Shell
from tests.support.streaming import SetClock, adapt, fitted, load, opened, png, send

_TIMEOUT_SECONDS = 60
_REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def broker(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with provided(pytestconfig, running(Mosquitto(tmp_path_factory.mktemp("mosquitto")))) as found:
        yield found


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Iterator[Store]:
    with opened(tmp_path / "plant", clock) as store:
        yield store


def written(folder: Path, *addresses: str, more: str = "") -> Path:
    path = folder / "notify.toml"
    listed = ", ".join(f'"{address}"' for address in addresses)
    path.write_text(f'console = "http://plant:8080"\n[routes.all]\nto = [{listed}]\nseverity = "info"\n{more}')
    return path


@contextmanager
def sending(store: Store, routes: Path) -> Iterator[tuple[Worker, Delivery]]:
    """A worker on real Apprise, with a thread for each address."""
    messenger = open_messenger()
    found = checked_routes(routes, messenger)
    with ThreadPoolExecutor(len(found.addresses)) as threads:
        delivery = Delivery(messenger, store.state, store.clock, threads)
        yield Worker(Notifying(store, found, delivery), store.log, store.clock, 256), delivery


def settled(worker: Worker, delivery: Delivery) -> None:
    """Until nothing more can be sent now: work hands out the next messages, and crosses off what was delivered."""
    work(worker)
    while not delivery.wait(0):
        assert delivery.wait(_TIMEOUT_SECONDS)
        work(worker)


def eventually(what: str, inbox: Inbox, messages: int) -> None:
    deadline = monotonic() + _TIMEOUT_SECONDS
    while len(inbox.messages) < messages:
        assert monotonic() < deadline, f"{what}: {len(inbox.messages)} of {messages} messages"
        sleep(0.01)


def counts(bodies: list[str]) -> Counter[str]:
    """Events told of, by kind."""
    reported: Counter[str] = Counter()
    for body in bodies:
        for kind, count in re.findall(r"kind (\w+), (\d+) since", body):
            reported[kind] += int(count)
    return reported


def test_a_thousand_alerts_of_a_minute_reach_mail_mqtt_and_webhook_as_few_messages(
    store: Store, clock: SetClock, tmp_path: Path, broker: Mosquitto
) -> None:
    with mail_server() as mail, subscribed(broker, f"plant/{uuid4().hex}") as topic, webhook() as hook:
        routes = written(tmp_path, mail.address, topic.address, hook.inbox.address)
        with sending(store, routes) as (worker, delivery):
            for number in range(1_000):
                kind = (AlertKind.REJECT, AlertKind.DEAD_LETTER, AlertKind.NO_GAUGE)[number % 3]
                raise_alert(store, kind, str(number))
                clock.advance(0.06)
            work(worker)
            clock.advance(90)
            settled(worker, delivery)
            eventually("MQTT", topic, 3)
        wanted = Counter(reject=334, dead_letter=333, no_gauge=333)
        for inbox in (mail, topic, hook.inbox):
            assert len(inbox.messages) == 3
            assert counts(inbox.bodies) == wanted
            assert all("http://plant:8080/lines/press-3" in body for body in inbox.bodies)
        titles = {"[info] press-3: reject", "[warning] press-3: dead letter", "[critical] press-3: no gauge"}
        assert {message.title for message in mail.messages} == titles
        assert {message.title for message in hook.inbox.messages} == titles
        assert store.log.position(Notifying.name, ALERTS, 0) == 1_000


def test_a_webhook_that_is_away_holds_no_mail_up_and_misses_nothing(
    store: Store, clock: SetClock, tmp_path: Path
) -> None:
    with mail_server() as mail, webhook() as hook:
        hook.stop()
        routes = written(tmp_path, mail.address, hook.inbox.address, more="digest_seconds = 0\n")
        with sending(store, routes) as (worker, delivery):
            for number in range(4):
                raise_alert(store, AlertKind.REJECT, str(number))
                settled(worker, delivery)
                clock.advance(10)
            assert len(mail.messages) == 4
            assert hook.inbox.messages == []
            hook.start()
            # an attempt may still meet the server that is coming up: it is made again like any other
            for _ in range(5):
                clock.advance(60)
                settled(worker, delivery)
        assert len(hook.inbox.messages) == 4
        assert len(mail.messages) == 4


def test_a_service_that_refuses_is_asked_again(store: Store, clock: SetClock, tmp_path: Path) -> None:
    answers = iter([500, 429])
    with webhook(lambda message: next(answers, 200)) as hook:
        routes = written(tmp_path, hook.inbox.address, more="digest_seconds = 0\n")
        with sending(store, routes) as (worker, delivery):
            raise_alert(store, AlertKind.REJECT)
            for _ in range(5):
                settled(worker, delivery)
                clock.advance(60)
        assert len(hook.inbox.messages) == 3


@pytest.mark.parametrize("when", ["before-the-answer", "after-the-answer"])
def test_kills_between_sending_and_committing_lose_nothing_and_repeat_one_message_at_most(
    when: str, tmp_path: Path
) -> None:
    alerts, kills = 8, 2
    processes: list[subprocess.Popen[bytes]] = []
    seen: Counter[int] = Counter()

    def kill(message: Message) -> None:
        """Whoever sends the second message since its start, in the middle of it."""
        seen[len(processes)] += 1
        if len(processes) <= kills and seen[len(processes)] == 2:
            processes[-1].kill()

    with webhook(**{"arrived" if when == "before-the-answer" else "answered": kill}) as hook:
        # a route for each line, so that none share a message
        routes = tmp_path / "notify.toml"
        routes.write_text(
            "".join(
                f'[routes.r{number}]\nto = ["{hook.inbox.address}"]\nlines = ["press-{number}"]\nseverity = "info"\n'
                for number in range(alerts)
            )
        )
        with open_store(str(tmp_path / "plant")) as store:
            for number in range(alerts):
                raise_alert(store, AlertKind.REJECT, str(number), line=f"press-{number}")
        codes: list[int] = []
        while codes[-1:] != [0]:
            command = [sys.executable, "-m", "tests.support.notifier", str(tmp_path / "plant"), str(routes)]
            processes.append(subprocess.Popen(command, cwd=_REPOSITORY))
            codes.append(processes[-1].wait(_TIMEOUT_SECONDS))
            assert len(codes) <= kills + 1, codes
        reported = Counter(message.title for message in hook.inbox.messages)
    assert codes == [-signal.SIGKILL] * kills + [0]
    assert reported.keys() == {f"[info] press-{number}: reject" for number in range(alerts)}, "an alert was lost"
    repeated = sum(reported.values()) - alerts
    assert repeated <= kills, f"{repeated} messages were repeated by {kills} kills"
    if when == "before-the-answer":
        assert repeated == kills, "a message that was on its way must come again"


def test_the_whole_pipeline_tells_of_its_rejects(store: Store, tmp_path: Path) -> None:
    with webhook() as hook:
        routes = written(tmp_path, hook.inbox.address)
        fitted(store)
        send(store, [(f"{number}", png(170 if number == 3 else 100, seed=number)) for number in range(6)])
        embedded(store, load, adapt, notifying=notifying(routes, store)).run_until_idle()
        (message,) = hook.inbox.messages
    assert message.title == "[info] press-3: reject"
    assert "1 rejected, the first is 3." in message.body


def test_a_run_tells_that_its_line_has_no_gauge(flowgauge: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    (folder / "part.png").write_bytes(png(100))
    with webhook() as hook:
        routes = written(tmp_path, hook.inbox.address)
        arguments = ("--line", "press-3", "--store", tmp_path / "plant", "--once", "--wait", 0, "--notify", routes)
        assert flowgauge("run", folder, *arguments).code == 0
        (message,) = hook.inbox.messages
        assert message.title == "[critical] press-3: no gauge"
        assert flowgauge("run", folder, *arguments).code == 0
        assert len(hook.inbox.messages) == 1


def test_a_test_message_goes_through_every_route_and_the_exit_code_says_whether_all_arrived(
    flowgauge: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mail_server() as mail, webhook() as hook:
        monkeypatch.setenv("HOOK", hook.inbox.address)
        path = tmp_path / "notify.toml"
        path.write_text(f'[routes.mail]\nto = ["{mail.address}"]\n[routes.chat]\nto = ["env:HOOK"]\n')
        reported = flowgauge("notify", "test", "--routes", path, "--json")
        assert reported.code == 0
        assert [(each["route"], each["arrived"]) for each in reported.json] == [("mail", True), ("chat", True)]
        assert [message.title for message in mail.messages] == ["[test] Flowgauge reaches route mail"]
        assert [message.title for message in hook.inbox.messages] == ["[test] Flowgauge reaches route chat"]
        hook.stop()
        monkeypatch.setenv("FLOWGAUGE_NOTIFY", str(path))
        reported = flowgauge("notify", "test")
        assert reported.code == 1
        assert re.search(r"chat +env:HOOK +no +A Connection error occurred", reported.out)
        assert len(mail.messages) == 2


def test_a_check_shows_what_goes_where_and_no_secret(flowgauge: Shell, tmp_path: Path) -> None:
    path = tmp_path / "notify.toml"
    path.write_text('[routes.shift]\nto = ["mailtos://bot:hush@mail.example.com"]\nquiet = "22:00-06:00 UTC"\n')
    reported = flowgauge("notify", "check", path)
    assert reported.code == 0
    assert "22:00-06:00 UTC" in reported.out
    assert "hush" not in reported.out + flowgauge("notify", "check", path, "--json").out
    assert flowgauge("notify", "check", path, "--json").json["kinds"]["no_gauge"]["routes"] == ["shift"]


@pytest.mark.parametrize("address", ["nonsense://x", "slack://hush", "shift@example.com", "", "json://"])
def test_what_is_no_address_is_a_mistake_that_names_the_route(flowgauge: Shell, tmp_path: Path, address: str) -> None:
    reported = flowgauge("notify", "check", written(tmp_path, address))
    assert reported.code == 2
    assert "route all, to: Apprise cannot read an address" in reported.err
    assert "hush" not in reported.err


def test_a_worker_of_the_role_needs_routes(
    flowgauge: Shell, kafka_bootstrap: str, redis_url: str, s3_address: S3Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in plant_variables(kafka_bootstrap, redis_url, s3_address).items():
        monkeypatch.setenv(name, value)
    reported = flowgauge("worker", "notify", "--store", "s3://flowgauge")
    assert reported.code == 2
    assert "--notify FILE" in reported.err


@pytest.mark.slow
def test_a_worker_of_a_plant_tells_each_alert_once_though_it_is_killed(
    kafka_bootstrap: str, redis_url: str, s3_address: S3Address, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in plant_variables(kafka_bootstrap, redis_url, s3_address).items():
        monkeypatch.setenv(name, value)
    with webhook() as hook, plant() as cluster:
        routes = written(tmp_path, hook.inbox.address, more="digest_seconds = 0\n")
        command = [sys.executable, "-m", "flowgauge.cli", "worker", "notify", "--store", cluster.uri]

        def start() -> None:
            cluster.workers.append(subprocess.Popen([*command, "--notify", str(routes)], cwd=_REPOSITORY))

        def reported(alerts: int) -> None:
            """All so many, and on record as told: only then a kill must not repeat any."""
            eventually("the webhook", hook.inbox, alerts)
            log = cluster.store.log
            cluster.wait("a commit", lambda: log.position(Notifying.name, ALERTS, 0) == log.end(ALERTS, 0))

        start()
        for number in range(3):
            raise_alert(cluster.store, AlertKind.REJECT, line=f"press-{number}")
        reported(3)
        cluster.kill(cluster.workers[0])
        raise_alert(cluster.store, AlertKind.REJECT, line="press-last")
        start()
        reported(4)
        # at work, so whatever it loads is loaded; none of these tells people anything
        mapped = {
            part for each in psutil.Process(cluster.workers[0].pid).memory_maps() for part in Path(each.path).parts
        }
        assert "faust" in mapped
        assert mapped.isdisjoint({"torch", "numpy", "scipy", "pyarrow", "PIL"})
        cluster.stop()
    assert len(hook.inbox.messages) == 4
    assert len({message.title for message in hook.inbox.messages}) == 4


def test_without_apprise_an_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    for name in [name for name in sys.modules if name.startswith("flowgauge.apprise")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SettingsError, match=r"pip install '\.\[notify\]'"):
        open_messenger()


def test_the_reason_of_a_failure_is_in_the_error() -> None:
    with pytest.raises(Unavailable, match="Connection error"):
        open_messenger().send("json://127.0.0.1:9/x", "title", "body", None)
