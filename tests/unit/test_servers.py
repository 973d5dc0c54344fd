"""Servers as plain processes, with a small program in the place of a real one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.native.probes import redis_answers
from deploy.native.process import HERE, HOST, NativeServer, NotAnswering, PortTaken
from tests.support.servers import S3Address, provided, real_redis, real_s3, running

ECHO = """
import socket, sys
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listening.accept()
    with connection:
        connection.recv(100)
        connection.sendall(b"+PONG\\r\\n")
"""


class Echo(NativeServer):
    name = "echo"
    code = ECHO

    def program(self) -> Path:
        return Path(sys.executable)

    def command(self, program: Path) -> list[str]:
        return [str(program), "-c", self.code, str(self.port())]

    def answers(self) -> bool:
        return redis_answers(HOST, self.port())


class Broken(Echo):
    code = "import sys; sys.exit('the disk is full')"


def test_a_started_server_answers_until_it_is_stopped(tmp_path: Path) -> None:
    with running(Echo(tmp_path)) as server:
        assert server.answers()
    assert server.pid is None
    assert not server.answers()


def test_a_killed_server_comes_back_as_another_process_at_the_same_address(tmp_path: Path) -> None:
    with running(Echo(tmp_path)) as server:
        pid, address = server.pid, server.address
        server.kill()
        assert server.pid is None
        server.start()
        assert server.pid not in (None, pid)
        assert server.address == address


def test_a_frozen_server_answers_once_it_thaws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.native.probes.PROBE_SECONDS", 0.2)
    with running(Echo(tmp_path)) as server:
        server.freeze()
        assert not server.answers()
        server.thaw()
        assert server.answers()


def test_a_frozen_server_can_be_stopped(tmp_path: Path) -> None:
    with running(Echo(tmp_path)) as server:
        server.freeze()
    assert server.pid is None


def test_starting_twice_leaves_one_process(tmp_path: Path) -> None:
    with running(Echo(tmp_path)) as server:
        pid = server.pid
        Echo(tmp_path).start()
        assert server.pid == pid


def test_another_object_over_the_folder_is_the_same_server(tmp_path: Path) -> None:
    with running(Echo(tmp_path)) as server:
        assert Echo(tmp_path).pid == server.pid
        Echo(tmp_path).kill()
        assert server.pid is None


def test_a_process_that_took_over_the_id_is_not_the_server(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(f"{os.getpid()} 1")
    server = Echo(tmp_path)
    assert server.pid is None
    server.kill()
    server.stop()


def test_a_failed_start_shows_the_log_and_leaves_no_process(tmp_path: Path) -> None:
    server = Broken(tmp_path)
    with pytest.raises(NotAnswering, match="the disk is full"):
        server.start()
    assert server.pid is None


def test_a_silent_server_is_ended_after_a_bounded_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.native.process.START_SECONDS", 0.3)
    monkeypatch.setattr(Echo, "answers", lambda _: False)
    server = Echo(tmp_path)
    with pytest.raises(NotAnswering, match="did not answer"):
        server.start()
    assert server.pid is None


def test_a_port_that_another_process_took_is_named(tmp_path: Path) -> None:
    with running(Echo(tmp_path / "first")) as first:
        second = tmp_path / "second"
        second.mkdir()
        (second / "ports.json").write_text((tmp_path / "first" / "ports.json").read_text())
        with pytest.raises(PortTaken, match=str(first.port())):
            Echo(second).start()


def test_secret_and_ports_are_kept_and_private(tmp_path: Path) -> None:
    secret, port = Echo(tmp_path).secret, Echo(tmp_path).port()
    assert (Echo(tmp_path).secret, Echo(tmp_path).port()) == (secret, port)
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0


def test_an_address_in_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWGAUGE_TEST_REDIS_URL", "redis://plant:6379/1")
    with real_redis() as url:
        assert url == "redis://plant:6379/1"


def test_an_s3_server_is_given_with_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for part, value in {"ENDPOINT": "https://plant", "ACCESS_KEY": "a", "SECRET_KEY": "s"}.items():
        monkeypatch.setenv(f"FLOWGAUGE_TEST_S3_{part}", value)
    with real_s3() as address:
        assert address == S3Address("https://plant", "a", "s")
        assert "'s'" not in repr(address)


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_without_a_server_tests_are_skipped_and_fail_under_ci(
    ci: str, outcome: type[BaseException], pytestconfig: pytest.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="the disk is full"), provided(pytestconfig, running(Broken(tmp_path))):
        pass


GO = """#!/bin/sh
case $1 in
    env) echo go1.26.0 ;;
    *) echo built >> "$BUILDS"; sleep 0.3; [ -z "$FAIL" ] || exit 9; touch "$GOBIN/minio" ;;
esac
"""


@pytest.fixture
def building(tmp_path: Path) -> dict[str, str]:
    """An environment whose Go only pretends to build."""
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(GO)
    go.chmod(0o755)
    return {
        "PATH": f"{go.parent}:{os.environ['PATH']}",
        "FLOWGAUGE_SERVERS": str(tmp_path / "servers"),
        "BUILDS": str(tmp_path / "builds"),
        "FAIL": "",
    }


def test_two_installations_at_once_build_once(building: dict[str, str]) -> None:
    both = [_installing("minio", building) for _ in range(2)]
    folders = {process.communicate(timeout=30)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(folders) == 1
    assert (Path(folders.pop()) / "minio").exists()
    assert Path(building["BUILDS"]).read_text().split() == ["built"]


def test_a_failed_build_leaves_nothing_that_looks_installed(building: dict[str, str]) -> None:
    failed = _installing("minio", building | {"FAIL": "1"})
    out, err = failed.communicate(timeout=30)
    assert failed.returncode == 1
    assert out == ""
    assert "not installed" in err
    assert [path.name for path in Path(building["FLOWGAUGE_SERVERS"]).iterdir()] == ["minio.lock"]


def test_a_missing_java_is_named_with_its_remedy(tmp_path: Path, building: dict[str, str]) -> None:
    for tool in ("bash", "dirname", "sed", "mkdir", "rm"):
        path = subprocess.run(["which", tool], capture_output=True, text=True, check=True).stdout.strip()
        (tmp_path / "bin" / tool).symlink_to(path)
    process = _installing("kafka", building | {"PATH": str(tmp_path / "bin")})
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "apt-get install default-jre-headless" in err


def _installing(server: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [HERE / "install.sh", server], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
