"""What only the local adapters promise: full disks, other people's files, folders in which images appear."""

import os
import sqlite3
from pathlib import Path

import pytest

from flowgauge.domain.dead_letters import REASON
from flowgauge.domain.errors import SettingsError, StoreBusy, StoreFull, Unavailable, UserError
from flowgauge.domain.messages import DEAD_LETTERS, IMAGES, Event
from flowgauge.domain.ports import Outgoing
from flowgauge.local.database import Database, Durability
from flowgauge.local.file_system import only_runner
from flowgauge.local.folder import FolderSource
from flowgauge.local.log import LocalLog
from flowgauge.local.objects import LocalObjects
from tests.support.streaming import LINE, START, SetClock, png, records


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def log(tmp_path: Path, clock: SetClock) -> LocalLog:
    return LocalLog(tmp_path / "log.db", clock)


class Folder:
    """A folder in which images appear, at times that the test sets."""

    def __init__(self, root: Path, log: LocalLog, clock: SetClock) -> None:
        self.root = root
        self._log = log
        self._clock = clock
        root.mkdir(exist_ok=True)
        self.restart()

    def restart(self) -> None:
        self.source = FolderSource(self.root, LINE, self._log, self._clock)

    def write(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        now = self._clock.now().timestamp()
        os.utime(path, (now, now))

    def published(self) -> list[str]:
        """The names, without what makes their ids differ."""
        return [record.headers["ce_id"].partition("@")[0] for record in records(self._log, IMAGES)]


@pytest.fixture
def folder(tmp_path: Path, log: LocalLog, clock: SetClock) -> Folder:
    return Folder(tmp_path / "incoming", log, clock)


def test_images_are_published_once_in_the_order_of_their_names(folder: Folder, clock: SetClock) -> None:
    for name in ("b.png", "a/2.PNG", "a/1.jpg"):
        folder.write(name, png(100))
    clock.advance(2)
    assert [folder.source.publish(2), folder.source.publish(2), folder.source.publish(2)] == [2, 1, 0]
    assert folder.published() == ["a/1.jpg", "a/2.PNG", "b.png"]


def test_a_restart_publishes_nothing_again(folder: Folder, clock: SetClock) -> None:
    folder.write("a.png", png(100))
    clock.advance(2)
    folder.source.publish(9)
    folder.restart()
    assert folder.source.publish(9) == 0


def test_an_event_carries_the_image_its_line_and_when_it_was_taken(
    folder: Folder, clock: SetClock, log: LocalLog
) -> None:
    folder.write("a.png", png(100))
    clock.advance(2)
    folder.source.publish(9)
    [record] = records(log, IMAGES)
    event = Event.from_headers(dict(record.headers), record.key, record.at)
    assert (event.line, event.source, event.captured_at, event.use_for_training) == (
        LINE,
        f"/lines/{LINE}",
        START,
        True,
    )
    assert record.value == png(100)


def test_a_file_that_is_being_written_is_left_until_it_has_settled(folder: Folder, clock: SetClock) -> None:
    folder.write("a.png", png(100)[:20])
    assert folder.source.publish(9) == 0
    clock.advance(0.9)
    folder.write("a.png", png(100))
    assert folder.source.publish(9) == 0
    clock.advance(0.9)
    assert folder.source.publish(9) == 0
    clock.advance(0.2)
    assert folder.source.publish(9) == 1


def test_a_file_from_a_clock_that_runs_ahead_settles_by_ours(folder: Folder, clock: SetClock) -> None:
    folder.write("a.png", png(100))
    future = clock.now().timestamp() + 3_600
    os.utime(folder.root / "a.png", (future, future))
    assert folder.source.publish(9) == 0
    clock.advance(2)
    assert folder.source.publish(9) == 1


def test_hidden_files_and_other_files_are_no_images(folder: Folder, clock: SetClock) -> None:
    for name in (".a.png", ".cache/b.png", "notes.txt", "c.png.tmp", "d.png.part"):
        folder.write(name, png(100))
    (folder.root / "e.png").mkdir()
    clock.advance(2)
    assert folder.source.publish(9) == 0


def test_a_file_that_is_written_anew_is_published_anew(folder: Folder, clock: SetClock) -> None:
    for brightness in (100, 120):
        folder.write("a.png", png(brightness))
        clock.advance(2)
        assert folder.source.publish(9) == 1
    assert folder.published() == ["a.png", "a.png"]


def test_a_name_that_is_no_text_is_spelled_out(folder: Folder, clock: SetClock) -> None:
    (folder.root / os.fsdecode(b"caf\xe9.png")).write_bytes(png(100))
    os.utime(folder.root / os.fsdecode(b"caf\xe9.png"), (0, 0))
    assert folder.source.publish(9) == 1
    assert folder.published() == ["caf\\xe9.png"]


def test_a_file_that_is_too_large_is_a_dead_letter(
    folder: Folder, clock: SetClock, log: LocalLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowgauge.local.folder._LARGEST_BYTES", 10)
    folder.write("a.png", png(100))
    clock.advance(2)
    folder.source.publish(9)
    assert folder.published() == []
    assert "bytes" in records(log, DEAD_LETTERS)[0].headers[REASON]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, log: LocalLog, clock: SetClock) -> None:
    with pytest.raises(UserError, match="is no folder"):
        FolderSource(tmp_path / "nowhere", LINE, log, clock)


def test_a_full_log_says_so_loses_nothing_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    database = Database(tmp_path / "small.db", "CREATE TABLE t (x BLOB)", Durability.FULL)
    with database.reading() as connection:
        connection.execute("PRAGMA max_page_count = 8")
    with database.writing() as connection:
        connection.execute("INSERT INTO t VALUES (?)", (b"kept",))
    with pytest.raises(StoreFull, match="No space is left"), database.writing() as connection:
        connection.executemany("INSERT INTO t VALUES (?)", [(b"also",), (bytes(100_000),)])
    with database.reading() as connection:
        connection.execute("PRAGMA max_page_count = 1000")
        assert connection.execute("SELECT x FROM t").fetchall() == [(b"kept",)]
    with database.writing() as connection:
        connection.execute("INSERT INTO t VALUES (?)", (bytes(100_000),))
    database.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path, clock: SetClock) -> None:
    (tmp_path / "log.db").write_bytes(b"this is something else entirely" * 100)
    with pytest.raises(UserError, match=r"log\.db is damaged or no database"):
        LocalLog(tmp_path / "log.db", clock)


def test_a_folder_that_cannot_hold_a_database_is_named(tmp_path: Path, clock: SetClock) -> None:
    with pytest.raises(Unavailable, match="cannot be used"):
        LocalLog(tmp_path / "nowhere" / "log.db", clock)


def test_a_log_keeps_the_number_of_its_partitions(tmp_path: Path, clock: SetClock) -> None:
    LocalLog(tmp_path / "log.db", clock, partitions=4).close()
    with pytest.raises(SettingsError, match="made with 4 partitions, not 2"):
        LocalLog(tmp_path / "log.db", clock, partitions=2)


def test_offsets_are_never_used_again_after_a_trim(log: LocalLog) -> None:
    log.append([Outgoing(IMAGES, LINE, bytes([number])) for number in range(5)])
    log.trim(IMAGES, 0, 5)
    assert log.read(IMAGES, 0, 0, 10) == []
    log.append([Outgoing(IMAGES, LINE, b"next")])
    assert [record.offset for record in log.read(IMAGES, 0, 0, 10)] == [5]


def test_the_space_of_trimmed_images_is_used_again(tmp_path: Path, clock: SetClock) -> None:
    log = LocalLog(tmp_path / "log.db", clock)
    sizes = []
    for _ in range(12):
        log.append([Outgoing(IMAGES, LINE, bytes(200_000)) for _ in range(10)])
        log.trim(IMAGES, 0, log.end(IMAGES, 0))
        sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert sizes[-1] < 1.5 * sizes[2]
    log.close()


def test_a_batch_is_appended_whole_or_not_at_all(log: LocalLog) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        log.append([Outgoing(IMAGES, LINE, b"first"), Outgoing(IMAGES, LINE, None)])  # type: ignore[arg-type]
    assert log.read(IMAGES, 0, 0, 10) == []
    assert log.end(IMAGES, 0) == 0


def test_what_was_appended_under_a_token_is_appended_once(log: LocalLog) -> None:
    assert log.append_once("folder|a", [Outgoing(IMAGES, LINE, b"x")])
    assert not log.append_once("folder|a", [Outgoing(IMAGES, LINE, b"x")])
    assert len(records(log, IMAGES)) == 1
    assert log.known(["folder|a", "folder|b"]) == ["folder|a"]


def test_what_a_killed_writer_left_is_no_object_and_is_swept(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    leftover = tmp_path / ".unfinished" / "abc"
    leftover.write_bytes(b"half")
    assert list(objects.names("")) == []
    os.utime(leftover, (0, 0))
    objects.sweep()
    assert not leftover.exists()


def test_two_holders_of_one_lock_are_refused_and_the_first_is_named(tmp_path: Path) -> None:
    with only_runner(tmp_path / "lock"), pytest.raises(StoreBusy, match=f"process {os.getpid()}"):
        only_runner(tmp_path / "lock").__enter__()
    with only_runner(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text() == str(os.getpid())
