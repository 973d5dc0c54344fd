"""Who may use the console: users, roles, guesses, and where it may listen."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from flowgauge.console.access import Binding
from flowgauge.console.users import Guessing, Role, Users
from flowgauge.domain.errors import SettingsError, UserError

PASSWORD = "a long enough sentence"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users.json"


def test_a_user_signs_in_with_the_password_that_was_given(path: Path) -> None:
    users = Users(path)
    users.add("mara", Role.ENGINEER, PASSWORD)
    assert users.verify("mara", PASSWORD)
    for name, password in (("mara", PASSWORD + "!"), ("lee", PASSWORD), ("mara", "")):
        assert not users.verify(name, password)
    assert PASSWORD not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0, "nobody else reads the hashes"


def test_a_file_that_another_process_changed_is_read_anew(path: Path) -> None:
    users = Users(path)
    users.add("mara", Role.VIEWER, PASSWORD)
    Users(path).add("mara", Role.INSPECTOR, PASSWORD)
    assert users.role("mara") is Role.INSPECTOR
    Users(path).remove("mara")
    assert users.role("mara") is None
    assert not users.verify("mara", PASSWORD)


def test_of_two_changes_at_once_neither_is_lost(path: Path) -> None:
    Users(path).add("mara", Role.ENGINEER, PASSWORD)
    second = Thread(target=Users(path).add, args=("lee", Role.VIEWER, PASSWORD))

    @contextmanager
    def while_the_second_begins() -> Iterator[None]:
        second.start()
        second.join(2)  # it is done by then where it does not wait
        yield

    Users(path).remove("mara", while_the_second_begins())
    second.join()
    assert Users(path).all() == {"lee": Role.VIEWER}


def test_a_file_that_was_away_is_read_again(path: Path) -> None:
    users = Users(path)
    users.add("mara", Role.VIEWER, PASSWORD)
    path.rename(path.with_suffix(".away"))
    assert users.role("mara") is None
    path.with_suffix(".away").rename(path)
    assert users.role("mara") is Role.VIEWER


def test_who_comes_through_a_proxy_has_no_password_to_guess(path: Path) -> None:
    users = Users(path)
    users.add("mara", Role.VIEWER, None)
    assert not users.verify("mara", "")


def test_mistakes_with_users_are_said(path: Path) -> None:
    users = Users(path)
    with pytest.raises(UserError, match="12 or more"):
        users.add("mara", Role.VIEWER, "short")
    with pytest.raises(UserError, match="no user lee"):
        users.remove("lee")
    for damaged in ("{", "[]", json.dumps({"mara": {"role": "boss", "password": ""}})):
        path.write_text(damaged)
        with pytest.raises(SettingsError, match="console user add"):
            Users(path)


def test_each_failure_beyond_the_fifth_doubles_the_wait() -> None:
    now = [0.0]
    guessing = Guessing(lambda: now[0])
    waits = []
    for _ in range(9):
        waits.append(guessing.attempt("10.0.0.7"))
        now[0] += waits[-1]
        assert waits[-1] == 0 or guessing.attempt("10.0.0.7") == 0
    assert waits == [0, 0, 0, 0, 0, 2, 4, 8, 16]
    assert guessing.attempt("10.0.0.8", "10.0.0.7") == 32
    assert guessing.attempt("10.0.0.8") == 0
    guessing.succeeded("10.0.0.7")
    assert guessing.attempt("10.0.0.7") == 0


def test_a_thousand_guesses_take_days() -> None:
    now = [0.0]
    guessing = Guessing(lambda: now[0])
    for _ in range(1_000):
        while wait := guessing.attempt("10.0.0.7"):
            now[0] += wait
    assert now[0] > 9 * 86_400


def test_guesses_from_many_addresses_are_remembered_within_bounds() -> None:
    guessing = Guessing(lambda: 0.0)
    for number in range(30_000):
        guessing.attempt(f"address {number}")
    assert len(guessing._failures) == 10_000


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        (Binding(host="0.0.0.0"), "--users"),
        (Binding(host="0.0.0.0", users=Path("users.json")), "--tls-cert"),
        (Binding(proxy_header="x-user"), "--trust"),
        (Binding(trusted=("10.0.0.7",)), "--proxy-header"),
        (Binding(proxy_header="x-user", trusted=("nowhere",)), "10.0.0.0/24"),
        (Binding(certificate=Path("cert.pem")), "--tls-key"),
    ],
)
def test_a_way_in_for_anybody_is_refused(binding: Binding, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        binding.checked()


def test_loopback_needs_no_users_and_a_network_users_with_tls_or_a_proxy() -> None:
    assert Binding().checked().is_open
    with_tls = Binding(host="0.0.0.0", users=Path("users.json"), certificate=Path("cert.pem"), key=Path("key.pem"))
    assert not with_tls.checked().is_open
    assert not Binding(host="0.0.0.0", proxy_header="x-user", trusted=("10.0.0.7",)).checked().is_open
