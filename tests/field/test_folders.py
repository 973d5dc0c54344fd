"""Hot folders as plants have them: names that come again, copies under way, shares that blink, links, rights."""

import ctypes
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from flowgauge.domain.dead_letters import REASON
from flowgauge.domain.messages import DEAD_LETTERS, IMAGES
from flowgauge.local import file_system
from flowgauge.local.file_system import missing_mount
from flowgauge.local.folder import FolderSource, images_below
from flowgauge.local.folder_options import DEFAULTS, FolderOptions, Identity
from flowgauge.local.log import LocalLog
from flowgauge.local.tree import Notices, Tree
from flowgauge.vision.completeness import Completeness, completeness
from tests.support.shell import Shell
from tests.support.streaming import LINE, SetClock, png, records
from tests.support.tiffs import packed_tiff, word_tiff

FORMATS = ("BMP", "TIFF", "JPEG", "PNG")
NOBODY = 65534
TIMEOUT_SECONDS = 30
WAIT = DEFAULTS.wait_seconds


def texture(seed: int, height: int = 64, width: int = 50) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(60, 190, (height, width, 3)).astype(np.uint8)


def encoded(pixels: NDArray[np.uint8], form: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def under_way(whole: bytes, written: int) -> bytes:
    """What a copy that has reserved its space shows."""
    return whole[:written] + bytes(len(whole) - written)


class Incoming:
    """A watched folder; time passes when the test says so."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root = root
        self.clock = SetClock(datetime.now(UTC))
        self.log = LocalLog(store / "log.db", self.clock)
        self.notices: list[str] = []
        root.mkdir(exist_ok=True)
        self.start()

    def start(self, options: FolderOptions = DEFAULTS) -> None:
        self.source = FolderSource(self.root, LINE, self.log, self.clock, options, tell=self.notices.append)

    def restart(self, options: FolderOptions = DEFAULTS) -> None:
        self.source.close()
        self.start(options)

    def close(self) -> None:
        self.source.close()
        self.log.close()

    def write(self, name: str, data: bytes, at: float | None = None) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        at = self.clock.now().timestamp() if at is None else at
        os.utime(path, (at, at))

    def after(self, seconds: float) -> list[str]:
        """The ids of what is published within `seconds`."""
        before = len(records(self.log, IMAGES))
        for _ in range(round(seconds / 0.5)):
            self.clock.advance(0.5)
            self.source.publish(1_000)
        return [record.headers["ce_id"] for record in records(self.log, IMAGES)[before:]]

    def names_after(self, seconds: float) -> list[str]:
        return [image_id.partition("@")[0] for image_id in self.after(seconds)]

    def reasons(self) -> list[str]:
        return [letter.headers[REASON] for letter in records(self.log, DEAD_LETTERS)]


@pytest.fixture
def incoming(tmp_path: Path) -> Iterator[Incoming]:
    folder = Incoming(tmp_path / "incoming", tmp_path)
    yield folder
    folder.close()


def run_once(flowgauge: Shell, folder: Path, store: Path, *options: object) -> list[str]:
    """The names of the images that got verdicts."""
    done = flowgauge("run", folder, "--line", LINE, "--store", store, "--once", "--json", *options)
    assert done.code == 0, done.err
    messages = [json.loads(line) for line in done.out.splitlines()]
    return [each["image_id"].partition("@")[0] for each in messages if each["topic"] == "verdicts"]


# identity


def test_a_name_that_comes_again_with_other_bytes_is_another_image(flowgauge: Shell, tmp_path: Path) -> None:
    for day, first in (("monday", 0), ("tuesday", 100)):
        (tmp_path / day).mkdir()
        for number in range(3):
            (tmp_path / day / f"{number:04d}.bmp").write_bytes(encoded(texture(first + number), "BMP"))
    names = ["0000.bmp", "0001.bmp", "0002.bmp"]
    assert run_once(flowgauge, tmp_path / "monday", tmp_path / "plant") == names
    assert run_once(flowgauge, tmp_path / "tuesday", tmp_path / "plant") == names
    assert run_once(flowgauge, tmp_path / "monday", tmp_path / "plant") == []
    assert flowgauge("dead-letters", "list", "--store", tmp_path / "plant", "--json").json == []


def test_a_file_that_is_always_written_anew_is_another_image_each_time(incoming: Incoming) -> None:
    """Also where size and time stay the same, as of a BMP from a camera whose clock was never set."""
    ids = []
    for frame in range(3):
        incoming.write("camera.bmp", encoded(texture(frame), "BMP"), at=0)
        ids += incoming.after(3)
    assert len(set(ids)) == 3


def test_what_was_scored_is_not_scored_again_whatever_its_times(incoming: Incoming) -> None:
    incoming.write("a.png", png(100))
    assert incoming.names_after(3) == ["a.png"]
    incoming.write("a.png", png(100))
    incoming.restart()
    assert incoming.after(3) == []


def test_bytes_that_come_again_under_a_name_are_reported_and_may_count_as_another_capture(incoming: Incoming) -> None:
    incoming.restart(FolderOptions(identity=Identity.CONTENT))
    incoming.write("camera.png", png(100))
    assert len(incoming.after(3)) == 1
    incoming.write("camera.png", png(100))
    assert incoming.after(3) == []
    assert any("written again with the same bytes" in message for message in incoming.notices)
    incoming.restart(FolderOptions(identity=Identity.CAPTURE))
    assert len(incoming.after(3)) == 1
    incoming.write("camera.png", png(100))
    assert len(incoming.after(3)) == 1
    incoming.restart(FolderOptions(identity=Identity.CAPTURE))
    assert incoming.after(3) == []


def test_names_that_are_serials_stay_ids(incoming: Incoming) -> None:
    incoming.restart(FolderOptions(identity=Identity.NAME))
    incoming.write("serial-1.png", png(100))
    assert incoming.after(3) == ["serial-1.png"]


# what moves, vanishes, blocks


def test_a_folder_that_vanishes_while_it_is_listed_takes_nothing_with_it(tmp_path: Path) -> None:
    for day in "abc":
        (tmp_path / day / "deep").mkdir(parents=True)
        (tmp_path / day / "deep" / "0.png").write_bytes(png(100))
    listing = Tree(tmp_path, Notices(lambda message: None)).files()
    first, _ = next(listing)
    gone = next(day for day in "abc" if day not in Path(first).parts)
    shutil.rmtree(tmp_path / gone)
    assert len([first, *(path for path, _ in listing)]) == 2


def test_what_cannot_be_looked_at_is_reported_once_and_taken_when_it_can_be(incoming: Incoming) -> None:
    """A name that the file system refuses: a real error that is none of absence, as a stale handle is."""
    (incoming.root / "refused.png").symlink_to("x" * 300)
    (incoming.root / "itself.png").symlink_to("itself.png")
    (incoming.root / "nowhere.png").symlink_to(incoming.root.parent / "later.png")
    incoming.write("well.png", png(100))
    assert incoming.names_after(5) == ["well.png"]
    said = [sum(name in message for message in incoming.notices) for name in ("refused", "itself", "nowhere")]
    assert said == [1, 1, 1]
    (incoming.root.parent / "later.png").write_bytes(png(120))
    assert incoming.names_after(5) == ["nowhere.png"]


def test_a_pipe_by_the_name_of_an_image_holds_nobody_up(incoming: Incoming) -> None:
    os.mkfifo(incoming.root / "a.png")
    incoming.write("b.png", png(100))
    assert incoming.names_after(3) == ["b.png"]
    pipe = incoming.root / "a.png"
    assert incoming.notices == [f"{pipe} is no regular file, and is passed over."]


def test_a_folder_that_is_away_is_reported_once_and_its_images_are_taken_when_it_is_back(incoming: Incoming) -> None:
    incoming.write("a.png", png(100))
    assert incoming.names_after(3) == ["a.png"]
    incoming.root.rename(incoming.root.with_name("elsewhere"))
    assert incoming.after(5) == []
    assert incoming.source.away is not None
    assert sum("is away" in message for message in incoming.notices) == 1
    incoming.write("b.png", png(120))
    assert incoming.names_after(3) == ["b.png"]
    assert incoming.source.away is None
    assert sum(message.endswith("is back.") for message in incoming.notices) == 1


def test_a_share_that_is_not_mounted_is_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "share" / "incoming").mkdir(parents=True)
    table = tmp_path / "fstab"
    monkeypatch.setattr(file_system, "_FSTAB", table)
    assert missing_mount(tmp_path / "share" / "incoming") is None
    table.write_text(f"# comment\n//nas/line {tmp_path}/share cifs ro 0 0\nproc /proc proc defaults 0 0\n")
    assert missing_mount(tmp_path / "share" / "incoming") == tmp_path / "share"
    assert missing_mount(Path("/proc/self")) is None


# rights


@contextmanager
def without_rights() -> Iterator[None]:
    """For a user who may read everything, as somebody who may not: of this thread's access to files alone."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None)
    libc.setfsuid(NOBODY)
    try:
        yield
    finally:
        libc.setfsuid(0)


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Incoming]:
    """A folder that everybody may list."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    folder = Incoming(root, tmp_path)
    yield folder
    folder.close()
    shutil.rmtree(root)


def test_a_file_that_may_not_be_read_is_one_dead_letter_and_has_a_verdict_once_it_may(public: Incoming) -> None:
    public.write("a.png", png(100))
    public.write("b.png", png(120))
    (public.root / "a.png").chmod(0)
    with without_rights():
        assert public.names_after(WAIT - 5) == ["b.png"]
        assert public.reasons() == []
        assert public.source.awaited()
        assert public.after(WAIT) == []
        public.restart()
        assert public.after(2 * WAIT) == []
    assert public.reasons() == ["The file may not be read; check its rights."]
    assert not public.source.awaited()
    (public.root / "a.png").chmod(0o644)
    with without_rights():
        assert public.names_after(WAIT) == ["a.png"]


def test_a_folder_that_may_not_be_listed_is_reported_once_and_listed_once_it_may(public: Incoming) -> None:
    public.write("closed/a.png", png(100))
    public.write("open/b.png", png(120))
    (public.root / "closed").chmod(0)
    with without_rights():
        assert public.names_after(5) == ["open/b.png"]
    assert sum("closed cannot be listed" in message for message in public.notices) == 1
    (public.root / "closed").chmod(0o755)
    assert public.names_after(5) == ["closed/a.png"]


# files that are being written


@pytest.mark.parametrize("form", FORMATS)
def test_a_copy_under_way_is_waited_for_and_scored_once(incoming: Incoming, form: str) -> None:
    whole = encoded(texture(0), form)
    incoming.write(f"a.{form.lower()}", under_way(whole, len(whole) // 2))
    assert incoming.after(WAIT - 5) == []
    incoming.write(f"a.{form.lower()}", whole)
    assert len(incoming.after(WAIT)) == 1
    assert records(incoming.log, IMAGES)[0].value == whole
    assert incoming.reasons() == []


def test_a_copy_that_breaks_off_is_a_dead_letter_after_the_timeout_and_scored_when_it_is_whole(
    incoming: Incoming,
) -> None:
    whole = encoded(texture(0), "BMP")
    incoming.write("a.bmp", under_way(whole, len(whole) // 2))
    assert incoming.after(2 * WAIT) == []
    assert len(incoming.reasons()) == 1
    assert "not written to its end" in incoming.reasons()[0]
    incoming.restart()
    assert incoming.after(2 * WAIT) == []
    assert len(incoming.reasons()) == 1
    incoming.write("a.bmp", whole)
    assert incoming.names_after(3) == ["a.bmp"]


def test_once_waits_for_copies_too(flowgauge: Shell, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for form in FORMATS:
        whole = encoded(texture(0), form)
        (tmp_path / "in" / f"a.{form.lower()}").write_bytes(under_way(whole, len(whole) // 2))
    (tmp_path / "in" / "b.png").write_bytes(png(100))
    assert run_once(flowgauge, tmp_path / "in", tmp_path / "plant", "--wait", "0.5") == ["b.png"]
    assert len(flowgauge("dead-letters", "list", "--store", tmp_path / "plant", "--json").json) == 4
    for form in FORMATS:
        (tmp_path / "in" / f"a.{form.lower()}").write_bytes(encoded(texture(0), form))
    found = run_once(flowgauge, tmp_path / "in", tmp_path / "plant", "--wait", "0.5")
    assert sorted(found) == ["a.bmp", "a.jpeg", "a.png", "a.tiff"]


def test_a_picture_with_a_black_border_is_waited_for_once_and_its_likes_are_taken(incoming: Incoming) -> None:
    pixels = texture(0)
    pixels[:8] = pixels[-8:] = 0
    incoming.write("a.bmp", encoded(pixels, "BMP"))
    assert incoming.after(WAIT - 5) == []
    assert incoming.names_after(10) == ["a.bmp"]
    pixels[20:30] += 3
    incoming.write("b.bmp", encoded(pixels, "BMP"))
    assert incoming.names_after(3) == ["b.bmp"]


@example(form="TIFF", seed=0, height=16, width=16, share=0.875, gray=True)  # 47 bytes are missing
@example(form="JPEG", seed=0, height=16, width=16, share=0.875, gray=True)
@given(
    form=st.sampled_from(FORMATS),
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(16, 80),
    width=st.integers(16, 80),
    share=st.floats(0, 0.9),
    gray=st.booleans(),
)
def test_no_part_of_an_image_passes_for_the_whole(
    form: str, seed: int, height: int, width: int, share: float, gray: bool
) -> None:
    pixels = texture(seed, height, width)
    whole = encoded(pixels[:, :, 0] if gray else pixels, form)
    assert completeness(whole) is Completeness.WHOLE
    written = int(share * len(whole))
    assert completeness(under_way(whole, written)) is not Completeness.WHOLE
    assert completeness(whole[:written]) is not Completeness.WHOLE


@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(9, 15),
    words=st.booleans(),
    order=st.sampled_from("<>"),
    height=st.integers(32, 60),
    width=st.integers(32, 60),
    strips=st.integers(1, 4),
    share=st.floats(0, 0.9),
)
def test_no_part_of_a_packed_tiff_passes_for_the_whole(
    seed: int, bits: int, words: bool, order: str, height: int, width: int, strips: int, share: float
) -> None:
    values = texture(seed, height, width)[:, :, 0].astype(np.uint16) << np.uint16(bits - 8)
    whole = word_tiff(values, bits, order) if words else packed_tiff(values, bits, order, strips)
    assert completeness(whole) is Completeness.WHOLE
    written = int(share * len(whole))
    assert completeness(under_way(whole, written)) is not Completeness.WHOLE
    assert completeness(whole[:written]) is not Completeness.WHOLE


@pytest.mark.parametrize("bits", [9, 10, 11, 12, 13, 14, 15])
def test_a_packed_tiff_is_taken_as_soon_as_it_is_whole(incoming: Incoming, bits: int) -> None:
    whole = packed_tiff(texture(0)[:, :, 0].astype(np.uint16), bits)
    row = -(-50 * bits // 8)
    incoming.write("a.tif", under_way(whole, len(whole) - 20 * row - row // 2))
    assert incoming.after(2 * WAIT) == []
    assert "not written to its end" in incoming.reasons()[0]
    incoming.write("a.tif", whole)
    assert incoming.names_after(3) == ["a.tif"]


# other formats


def test_images_that_are_not_decoded_are_reported_once_for_each_suffix(incoming: Incoming) -> None:
    for name in ("a.webp", "b.webp", "C.GIF", "d.png.part", "e.txt"):
        incoming.write(name, b"")
    assert incoming.names_after(3) == []
    incoming.write("f.webp", b"")
    assert incoming.names_after(3) == []
    assert sorted(incoming.notices) == [
        f"Files that end in {suffix} are passed over. Save images as PNG, JPEG, BMP or TIFF."
        for suffix in (".gif", ".webp")
    ]


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe"])
def test_a_jpeg_has_other_suffixes_too(incoming: Incoming, name: str) -> None:
    incoming.write(name, encoded(texture(0), "JPEG"))
    assert incoming.names_after(3) == [name]


# many files


def test_the_kernel_says_what_is_new_without_any_listing(incoming: Incoming) -> None:
    """The clock stands still, so that no look is due."""
    incoming.write("a.png", png(100))
    assert incoming.names_after(3) == ["a.png"]
    incoming.source.publish(9)
    incoming.write("b.png", png(120), at=0)
    eventually(lambda: incoming.source.publish(9) == 1)


def test_a_name_that_the_kernels_reports_cannot_tell_ends_them_and_its_image_is_taken(incoming: Incoming) -> None:
    incoming.source.publish(9)
    incoming.write(os.fsdecode(b"M\xfcller.png"), png(100))

    def polled() -> bool:
        incoming.source.publish(9)
        return any("no longer reports" in notice and "polled" in notice for notice in incoming.notices)

    eventually(polled)
    incoming.write("b.png", png(120))
    assert incoming.names_after(3) == ["M\\xfcller.png", "b.png"]
    assert len(incoming.notices) == 1


def eventually(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert monotonic() < deadline, "it never happened"
        sleep(0.005)


def test_one_call_looks_at_no_more_files_than_it_was_asked_for(incoming: Incoming) -> None:
    for number in range(30):
        incoming.write(f"{number:02d}.png", png(100, seed=number), at=0)
    incoming.clock.advance(2)
    assert [incoming.source.publish(7) for _ in range(5)] == [7, 7, 7, 7, 2]


# links


def test_linked_folders_and_files_are_followed_once_each(incoming: Incoming, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / "elsewhere" / f"{number}.png").write_bytes(png(100 + number))
    (tmp_path / "single.png").write_bytes(png(130))
    incoming.write("real/0.png", png(140))
    (incoming.root / "a-link").symlink_to(incoming.root / "real", target_is_directory=True)
    (incoming.root / "again.png").symlink_to(incoming.root / "real" / "0.png")
    (incoming.root / "camera-1").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (incoming.root / "camera-2").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (incoming.root / "linked.png").symlink_to(tmp_path / "single.png")
    (incoming.root / "real" / "loop").symlink_to(incoming.root / "real", target_is_directory=True)
    (incoming.root / "around").symlink_to(tmp_path, target_is_directory=True)
    names = ["camera-1/0.png", "camera-1/1.png", "linked.png", "real/0.png"]
    assert sorted(incoming.names_after(3)) == names
    assert sum("around" in message for message in incoming.notices) == 1
    (tmp_path / "elsewhere" / "2.png").write_bytes(png(150))
    assert incoming.names_after(3) == ["camera-1/2.png"]
    assert sorted(str(path.relative_to(incoming.root)) for path in images_below(incoming.root)) == sorted(
        [*names, "camera-1/2.png"]
    )


# what becomes of files


def test_what_was_scored_is_moved_and_what_is_a_dead_letter_stays(flowgauge: Shell, tmp_path: Path) -> None:
    folder, done = tmp_path / "in", tmp_path / "done"
    (folder / "day").mkdir(parents=True)
    for number in range(3):
        (folder / "day" / f"{number}.png").write_bytes(png(100 + number))
    (folder / "words.png").write_bytes(b"no pixels at all")
    moving = ("--after", "move", "--move-to", done)
    assert run_once(flowgauge, folder, tmp_path / "plant") == ["day/0.png", "day/1.png", "day/2.png"]
    assert run_once(flowgauge, folder, tmp_path / "plant", *moving) == []
    assert [path.name for path in images_below(done)] == ["0.png", "1.png", "2.png"]
    assert [path.name for path in images_below(folder)] == ["words.png"]
    (folder / "day" / "0.png").write_bytes(png(140))
    assert run_once(flowgauge, folder, tmp_path / "plant", *moving) == ["day/0.png"]
    assert [path.name for path in images_below(done)] == ["0.png", "0~1.png", "1.png", "2.png"]


def test_what_was_scored_is_deleted(flowgauge: Shell, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(100))
    assert run_once(flowgauge, tmp_path / "in", tmp_path / "plant", "--after", "delete") == ["a.png"]
    assert images_below(tmp_path / "in") == []


def test_a_folder_to_move_to_must_be_given_and_lie_outside(flowgauge: Shell, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    common = ("run", tmp_path / "in", "--line", LINE, "--store", tmp_path / "plant", "--once")
    missing = flowgauge(*common, "--after", "move")
    inside = flowgauge(*common, "--after", "move", "--move-to", tmp_path / "in" / "done")
    useless = flowgauge(*common, "--move-to", tmp_path / "done")
    assert (missing.code, inside.code, useless.code) == (2, 2, 2)
    assert "--move-to" in missing.err
    assert "outside" in inside.err


@pytest.mark.parametrize("store", [".", "incoming", "incoming/plant", "link/plant"])
def test_a_folder_that_shares_its_files_with_the_store_is_refused(store: str, flowgauge: Shell, tmp_path: Path) -> None:
    """A runner would take its own copies and heatmaps for images, without end."""
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "a.png").write_bytes(png(100))
    (tmp_path / "link").symlink_to("incoming")
    refused = flowgauge("run", tmp_path / "incoming", "--line", LINE, "--store", tmp_path / store, "--once")
    assert refused.code == 2
    assert "outside" in refused.err
