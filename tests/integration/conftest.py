import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.support.faults.scene import Outcome
from tests.support.faults.table import table

OUTCOMES = pytest.StashKey[list[Outcome]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="faults at full length, with three seeds")
    parser.addoption("--alone", action="store_true", help="every fault in a flow of its own")
    parser.addoption("--outcomes", type=Path, help="write the count of every fault to this file, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = []


@pytest.fixture
def outcomes(pytestconfig: pytest.Config) -> Iterator[list[Outcome]]:
    """Of all tests; written after each, so that a run that is ended leaves what it has counted."""
    yield pytestconfig.stash[OUTCOMES]
    path = pytestconfig.getoption("--outcomes")
    if path is not None:
        path.write_text(json.dumps([asdict(outcome) for outcome in pytestconfig.stash[OUTCOMES]], indent=2) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    outcomes = config.stash[OUTCOMES]
    if outcomes:
        terminalreporter.section("faults")
        terminalreporter.write_line(table(outcomes))
