"""A folder in which images appear, as a source of image events."""

import os
from dataclasses import dataclass, replace
from hashlib import sha256
from heapq import heappop, heappush
from pathlib import Path
from time import perf_counter

from flowgauge.domain.dead_letters import dead_letter
from flowgauge.domain.errors import Unavailable, UserError
from flowgauge.domain.messages import IMAGES, Event, from_epoch
from flowgauge.domain.ports import Clock, Outgoing
from flowgauge.local.disposal import Disposal
from flowgauge.local.file_system import missing_mount
from flowgauge.local.folder_options import DEFAULTS, FolderOptions, Identity
from flowgauge.local.log import LocalLog
from flowgauge.local.tree import FolderWatch, Notices, Signature, Tell, Tree
from flowgauge.vision.completeness import Completeness, completeness

# A record of the log holds the whole file, and so does memory: larger takes more of it, smaller refuses large scans.
_LARGEST_BYTES = 256 * 2**20
# Of the hash: fewer, and two images of one name may meet; more, and ids are harder to read.
_ID_DIGITS = 16
# Until a file is tried again: less is more reading, more is a later verdict.
_AGAIN_SECONDS = 0.5
# Between two polls of the folders' own times: more, and a verdict comes later than 2 s on a share; less costs a core.
_POLL_SECONDS = 0.25
# Between two whole listings at least: what was written anew in its place waits so long; less costs a core.
_LISTING_SECONDS = 1.0
# Of a core, for polling a folder: beside reports of the kernel, when polling only guards against those that were lost,
# and without them. More costs processor time while nothing happens; less finds changes later.
_SHARE_WATCHED, _SHARE_POLLED = 0.005, 0.02


@dataclass(frozen=True)
class _Waiting:
    """A file that is not taken yet: since when it has its signature, when it is tried next, and whether it was given
    up, which means that nobody waits for it, though it is still tried.
    """

    signature: Signature
    since: float
    due: float
    given_up: bool = False


class FolderSource:
    """Publishes each image below `folder` once, however often the process is killed; in the order of their names.

    An image's id is its path relative to `folder` and what `options.identity` adds, its time of capture the file's time
    of change. A file is taken once it is quiet and all there (see `flowgauge.vision.completeness`); one that does not
    become so within `options.wait_seconds` is a dead letter, and one that may not be read too, but is taken when it
    may be. Whatever vanishes or cannot be read is reported to `tell` once, holds nothing else up, and is tried again.
    """

    def __init__(
        self,
        folder: Path,
        line: str,
        log: LocalLog,
        clock: Clock,
        options: FolderOptions = DEFAULTS,
        disposal: Disposal | None = None,
        tell: Tell = lambda message: None,
    ) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder.", "Create it, or name the folder in which the images appear.")
        self._folder = folder
        self._line = line
        self._log = log
        self._clock = clock
        self._options = options
        self._disposal = disposal
        self._notices = Notices(tell)
        self._tree = Tree(folder, self._notices)
        self._waiting: dict[str, _Waiting] = {}
        self._done: dict[str, Signature] = {}
        self._due: list[tuple[float, str]] = []
        self._ready: list[str] = []
        self._listed = self._polled = float("-inf")
        self._listing_cost = self._poll_cost = 0.0
        self._dark_is_usual = False
        self._device = folder.stat().st_dev
        self._watched: tuple[int, int] | None = None
        self._watch: FolderWatch | None = None
        self.away: Unavailable | None = None

    def publish(self, limit: int) -> int:
        """Append at most `limit` images that are ready; how many there were."""
        now = self._clock.now().timestamp()
        self._scan(now)
        if self._disposal is not None:
            self._disposal.dispose(self._notices)
        while self._due and self._due[0][0] <= now:
            heappush(self._ready, heappop(self._due)[1])
        count = 0
        # Bounded too where files turn out to be known, so that scoring is not held up.
        for _ in range(max(limit, 1)):
            if not self._ready or count == limit:
                break
            path = heappop(self._ready)
            waiting = self._waiting.get(path)
            if waiting is not None and waiting.due <= now:
                count += self._take(path, waiting, now)
        return count

    def awaited(self) -> bool:
        """Whether files that lie there now may still become images, or are to be moved or deleted once scored."""
        waits = any(not waiting.given_up for waiting in self._waiting.values())
        return self.away is None and (waits or (self._disposal is not None and bool(self._disposal.pending)))

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def _scan(self, now: float) -> None:
        """Take what the kernel reports; beside it, poll at a pace that its cost allows."""
        share = _SHARE_WATCHED if self._watch is not None and not self._watch.reason else _SHARE_POLLED
        if not 0 <= now - self._polled < max(_POLL_SECONDS, self._poll_cost / share):
            self._polled, began = now, perf_counter()
            if not self._is_there():
                return
            for path, signature in self._tree.fresh_files(lambda path: path in self._done or path in self._waiting):
                self._observe(path, signature, now)
            self._poll_cost = perf_counter() - began
        if self.away is None and self._watch is not None:
            self._take_reports(self._watch, now)
        pause = max(_LISTING_SECONDS, self._listing_cost / share)
        if self.away is None and (self._tree.stale or not 0 <= now - self._listed < pause):
            self._listed, began = now, perf_counter()
            self._list(now)
            self._listing_cost = perf_counter() - began

    def _take_reports(self, watch: FolderWatch, now: float) -> None:
        for changed in watch.changed():
            for path, signature in self._tree.files_at(changed):
                self._observe(path, signature, now)
        if watch.reason:
            self._notices.about(f"{self._folder} watch", f"{watch.reason}: it is polled.")

    def _list(self, now: float) -> None:
        listed = dict(self._tree.files())
        unknown = {path: signature for path, signature in listed.items() if self._done.get(path) != signature}
        # With a disposal each file's id is wanted, and that needs its bytes.
        if self._disposal is None:
            tokens = {self._seen_token(path, signature): path for path, signature in unknown.items()}
            for token in self._log.known(list(tokens)):
                path = tokens[token]
                self._done[path] = unknown.pop(path)
        for path, signature in unknown.items():
            self._observe(path, signature, now)
        for path in self._done.keys() - listed.keys():
            del self._done[path]

    def _is_there(self) -> bool:
        """Whether the folder can be listed. Says once that it is away, and once that it is back."""
        folder = str(self._folder)
        try:
            facts = self._folder.stat()
            with os.scandir(folder) as entries:
                is_empty = next(entries, None) is None
        except OSError as error:
            return self._gone(f"{folder} is away: {error.strerror}.")
        missing = missing_mount(self._folder) if is_empty else None
        if missing is not None:
            return self._gone(f"{folder} is empty, and the share that /etc/fstab wants at {missing} is not mounted.")
        if is_empty and facts.st_dev != self._device:
            return self._gone(f"{folder} is empty and on another file system than before: its share is not mounted.")
        if self.away is not None:
            self.away = None
            self._notices.over(folder)
            self._notices.about(f"{folder} ", f"{folder} is back.")
        self._device = facts.st_dev
        # The kernel watches a folder and not its name: one that was made anew needs another watch, and a listing.
        if self._watched != (facts.st_dev, facts.st_ino):
            self.close()
            self._watched = facts.st_dev, facts.st_ino
            self._watch, self._listed = FolderWatch(self._folder), float("-inf")
        return True

    def _gone(self, cause: str) -> bool:
        self.away = Unavailable(cause, "Images are taken again as soon as it is back. Check the share.")
        self._notices.over(f"{self._folder} ")
        self._notices.about(str(self._folder), str(self.away))
        return False

    def _observe(self, path: str, signature: Signature, now: float) -> None:
        if self._done.get(path) == signature:
            return
        waiting = self._waiting.get(path)
        if waiting is None or waiting.signature != signature:
            # Quiet by the file's own time, or, where the clocks of folder and machine differ, by ours.
            quiet_from = min(signature.modified_ns / 1e9, now) + self._options.quiet_seconds
            waiting = self._waiting[path] = _Waiting(signature, since=now, due=max(now, quiet_from))
            heappush(self._due, (waiting.due, path))

    def _take(self, path: str, waiting: _Waiting, now: float) -> bool:
        """Publish the file, or wait on for it; whether there is an event more."""
        signature = self._tree.signature(path)
        if signature is None:
            # Gone, or not to be read: a listing finds it again.
            del self._waiting[path]
            return False
        if signature != waiting.signature:
            self._observe(path, signature, now)
            return False
        if signature.size > _LARGEST_BYTES:
            return self._refuse(path, signature, b"", f"The file has {signature.size:,} bytes.")
        data = self._read(path, waiting, now)
        if data is None:
            return False
        state = completeness(data)
        is_whole = state is Completeness.WHOLE or (state is Completeness.DARK and self._dark_is_usual)
        if not is_whole and not self._outlasted(waiting, now):
            self._retry(path, waiting, now)
            return False
        if state is Completeness.CUT:
            reason = "From some place on, the file holds nothing but zeros: it was not written to its end."
            return self._refuse(path, signature, data, reason)
        # A camera whose images end in black does so each time: its next ones are not waited for.
        self._dark_is_usual |= state is Completeness.DARK
        return self._append(path, signature, data)

    def _read(self, path: str, waiting: _Waiting, now: float) -> bytes | None:
        """None where it cannot be read now, or changed meanwhile; what may not be read is a dead letter in the end."""
        try:
            data = Path(path).read_bytes()
            after = Signature.of(Path(path).stat())
        except FileNotFoundError:
            del self._waiting[path]
            return None
        except OSError as error:
            self._notices.about(
                f"{path} ", f"{path} cannot be read: {error.strerror}. The others go on; it is tried again."
            )
            given_up = waiting.given_up or self._outlasted(waiting, now)
            if given_up and not waiting.given_up and isinstance(error, PermissionError):
                self._refuse(path, waiting.signature, None, "The file may not be read; check its rights.")
            self._retry(path, replace(waiting, given_up=given_up), now)
            return None
        self._notices.over(f"{path} ")
        if after != waiting.signature:
            self._observe(path, after, now)
            return None
        return data

    def _outlasted(self, waiting: _Waiting, now: float) -> bool:
        """By when it last changed, or, where clocks differ, by when that was seen."""
        last = min(waiting.signature.changed_ns / 1e9, waiting.since)
        return last <= now - self._options.wait_seconds

    def _retry(self, path: str, waiting: _Waiting, now: float) -> None:
        """Ever more seldom, and soon after `wait_seconds` at the latest: some shares change bytes before times."""
        wait = max(_AGAIN_SECONDS, min(now - waiting.since, self._options.wait_seconds / 4))
        self._waiting[path] = replace(waiting, due=now + wait)
        heappush(self._due, (now + wait, path))

    def _append(self, path: str, signature: Signature, data: bytes) -> bool:
        event, token = self._event(path, signature, sha256(data).hexdigest())
        record = Outgoing(IMAGES, self._line, data, event.headers())
        fresh = self._log.append_once(token, [record], also=[self._seen_token(path, signature)])
        if self._disposal is not None:
            self._disposal.await_verdict(event.image_id, path, signature)
        elif not fresh and path in self._done:
            # A camera that writes one image again and again may be frozen, and its parts would get no verdicts.
            self._notices.about(
                f"{path} same",
                f"{path} was written again with the same bytes: it gets no second verdict. A camera may be frozen; "
                "where that is another part, use --identity capture.",
            )
        self._done[path] = self._waiting.pop(path).signature
        return fresh

    def _refuse(self, path: str, signature: Signature, data: bytes | None, reason: str) -> bool:
        """A dead letter, once for each state of the file; one without `data` may not be read, and is waited for."""
        kind = "unreadable" if data is None else sha256(data).hexdigest()
        event, _ = self._event(path, signature, kind)
        letter = dead_letter(self._line, data or b"", event.headers(), reason)
        token = f"{self._line}|letter|{self._tree.name(path)}|{kind}|{signature.size}|{signature.modified_ns}"
        fresh = self._log.append_once(token, [letter], [] if data is None else [self._seen_token(path, signature)])
        if data is not None:
            self._done[path] = self._waiting.pop(path).signature
        return fresh

    def _event(self, path: str, signature: Signature, digest: str) -> tuple[Event, str]:
        """The image's event, and the token under which it is published once."""
        name, hashed = self._tree.name(path), digest[:_ID_DIGITS]
        parts = {
            Identity.CONTENT: [hashed],
            Identity.CAPTURE: [hashed, str(signature.modified_ns)],
            Identity.NAME: [],
        }[self._options.identity]
        # Not validated here: scoring does that for every source.
        event = Event.model_construct(
            image_id="@".join([name, *parts]),
            source=f"/lines/{self._line}",
            line=self._line,
            captured_at=from_epoch(signature.modified_ns / 1e9),
            use_for_training=self._options.use_for_training,
        )
        return event, "|".join([self._line, "image", *(parts or [digest]), name])

    def _seen_token(self, path: str, signature: Signature) -> str:
        facts = f"{signature.size}|{signature.modified_ns}|{signature.changed_ns}"
        return f"{self._line}|seen|{self._options.identity}|{self._tree.name(path)}|{facts}"


def images_below(folder: Path, tell: Tell = lambda message: None) -> list[Path]:
    """Files with the suffix of an image, in the order of their names; nothing that is hidden. What is left out for
    another reason is told.
    """
    return sorted(Path(path) for path, _ in Tree(folder, Notices(tell)).files())
