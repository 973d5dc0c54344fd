"""What is logged: lines for people, JSON objects for machines."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest

from flowgauge.cli.output import LogFormat, complain, results, set_up_logging, warn
from flowgauge.cli.worker_messages import StreamMessages
from flowgauge.domain.dead_letters import REASON
from flowgauge.domain.errors import Unavailable, UserError
from flowgauge.domain.messages import VERDICTS, AlertKind, Decision
from flowgauge.domain.ports import Outgoing
from flowgauge.runtime.alerts import alert
from flowgauge.runtime.task import Step
from tests.support.shell import Shell
from tests.support.streaming import LINE, START, SetClock, append_verdicts, opened, verdict


@pytest.fixture(autouse=True)
def human_afterwards() -> Iterator[None]:
    yield
    set_up_logging(LogFormat.HUMAN)


@pytest.fixture
def step(tmp_path_factory: pytest.TempPathFactory) -> Step:
    """A pass and a reject of one partition, an alert and a dead letter."""
    found = [verdict(0, "part-0"), verdict(1, "part-1", decision=Decision.REJECT, reasons=("above the threshold",))]
    with opened(tmp_path_factory.mktemp("plant"), SetClock()) as store:
        append_verdicts(store.log, found)
        records = store.log.read(VERDICTS, 0, 0, 9)
    drift = alert(LINE, AlertKind.DRIFT, "part-1", START, "The light rose.")
    letter = Outgoing("dead-letters", LINE, b"", {"ce_id": "part-2", REASON: "empty"})
    return Step("scoring", records, [*(Outgoing(VERDICTS, LINE, each.encode()) for each in found), drift, letter])


def test_people_read_lines_on_stdout_and_warnings_on_stderr(step: Step, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(LogFormat.HUMAN)
    messages = StreamMessages(as_json=False)
    messages.step(step)
    messages.unavailable("scoring", Unavailable("Redis is away.", "Start it."))
    complain(Unavailable("It ends."))
    printed, complained = capsys.readouterr()
    reject, drift, letter = printed.splitlines()
    assert reject == f"{LINE}  reject  part-1  above the threshold"
    assert drift == f"{LINE}  drift  The light rose."
    assert letter == f"{LINE}  dead letter  part-2  empty"
    assert complained.splitlines() == ["Warning: scoring waits. Redis is away. Start it.", "Error: It ends."]
    assert messages.summary() == "2 verdicts (1 pass, 1 reject, 0 review), 1 dead letters"


def test_machines_read_json_with_line_partition_and_verdict(step: Step, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(LogFormat.JSON)
    StreamMessages(as_json=False).step(step)
    warn("Redis is away.")
    printed, logged = capsys.readouterr()
    assert printed == ""
    reject, drift, letter, warning = map(json.loads, logged.splitlines())
    assert (reject["line"], reject["partition"], len(reject["verdict_id"])) == (LINE, 0, 36)
    assert (drift["line"], drift["partition"], "verdict_id" in drift) == (LINE, 0, False)
    assert letter["logger"] == results.name
    assert (warning["level"], warning["message"]) == ("warning", "Redis is away.")
    assert datetime.fromisoformat(warning["at"]).tzinfo is not None


def test_libraries_log_from_warnings_on_with_their_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(LogFormat.JSON)
    library = logging.getLogger("library")
    library.info("Nobody reads this.")
    try:
        raise ValueError("broken")
    except ValueError:
        library.exception("It failed.")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"].splitlines()[-1] == "ValueError: broken"


def test_the_command_line_chooses_the_format(flowgauge: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWGAUGE_KAFKA_BOOTSTRAP", raising=False)
    done = flowgauge("--log-format", "json", "topics", "check")
    assert done.code == 2
    assert json.loads(done.err)["level"] == "error"


def test_a_name_that_is_no_utf_8_is_spelled_for_every_handler(caplog: pytest.LogCaptureFixture) -> None:
    warn("caf\udce9.png is left out.")
    complain(UserError("There is no caf\udce9.png.", "Check it."))
    assert caplog.messages == [r"caf\xe9.png is left out.", r"There is no caf\xe9.png. Check it."]
