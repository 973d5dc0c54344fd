"""Replay: the originals of dead letters are sent again, once what was wrong has been mended."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from flowgauge.domain.dead_letters import origin_of, replayed
from flowgauge.domain.messages import DEAD_LETTERS, IMAGES
from flowgauge.domain.object_keys import is_line
from flowgauge.domain.ports import Log, Record, State
from flowgauge.runtime.backend import Store
from flowgauge.services.changes import recorded

# dead letters that are read at once: each holds a whole image, so more would take hundreds of megabytes
_PAGE = 16
# of the mark that a letter was replayed, as long as dead letters are kept: less, and an old one is sent twice
_TTL_SECONDS = 30 * 86_400.0
_NAMED = 20  # places that a change's record names: fewer say too little of a small replay, more nobody reads


@dataclass(frozen=True)
class DeadLetters:
    """Which dead letters are meant: all, or those of a line, of an image, or of both. `image_id` may leave out what a
    hot folder adds to a file's name, from the last `@` on.
    """

    line: str | None = None
    image_id: str | None = None

    def match(self, letter: Record) -> bool:
        image_id = letter.headers.get("ce_id", "")
        return self.line in (None, letter.key) and self.image_id in (None, image_id, image_id.rpartition("@")[0])


@dataclass
class Counts:
    """`sent` again; left out because they were `replayed` before; and `lost`: they never lay among the images, or what
    they held was not kept."""

    sent: int = 0
    replayed: int = 0
    lost: int = 0


def dead_letters(log: Log, wanted: DeadLetters) -> Iterator[Record]:
    """Those that are there now, the oldest first within each partition."""
    ends = [log.end(DEAD_LETTERS, number) for number in range(log.partitions(DEAD_LETTERS))]
    for number, end in enumerate(ends):
        offset = 0
        while page := log.read(DEAD_LETTERS, number, offset, _PAGE):
            yield from (letter for letter in page if letter.offset < end and wanted.match(letter))
            offset = page[-1].offset + 1
            if offset >= end:
                break


def latest_dead_letters(log: Log, limit: int, line: str | None = None) -> list[Record]:
    """The last `limit` dead letters (of `line`) of all that are among the last `limit` of their partition, the newest
    first."""
    found: list[Record] = []
    for number in range(log.partitions(DEAD_LETTERS)):
        offset, end = max(0, log.end(DEAD_LETTERS, number) - limit), log.end(DEAD_LETTERS, number)
        while offset < end and (page := log.read(DEAD_LETTERS, number, offset, _PAGE)):
            found += [letter for letter in page if line in (None, letter.key)]
            # each holds an image: those of all partitions together would take a gigabyte
            found = sorted(found, key=lambda letter: letter.at, reverse=True)[:limit]
            offset = page[-1].offset + 1
    return found


def replay(store: Store, records: Iterable[Record], by: str, again: bool = False) -> Counts:
    """Send the originals of `letters` again, as the person `by` wants; those that were replayed before only if `again`.

    A replayed image that fails once more becomes a new dead letter. After a crash in between the next replay may repeat
    a letter, which scoring then skips as sent twice.
    """
    partitions = store.log.partitions(IMAGES)
    counts, sent, found = Counts(), defaultdict[str, list[str]](list), dict[str, dict[str, Any]]()
    with ExitStack() as stack:
        for letter in records:
            origin = origin_of(letter)
            if origin is None or origin.topic != IMAGES:
                counts.lost += 1
            elif not again and replayed_at(store.state, letter) is not None:
                counts.replayed += 1
            else:
                line, offset = letter.key, f"{letter.partition}/{letter.offset}"
                if line not in found:
                    change = recorded(store, by, "replay", line if is_line(line) else None, f"from {offset} on")
                    found[line] = stack.enter_context(change)
                original = replayed(letter, origin)
                # a topic that was made anew may have fewer partitions: then it lies with its line's images
                store.log.append([original if origin.partition < partitions else replace(original, partition=None)])
                store.state.put(_key(letter), store.clock.now().isoformat().encode(), _TTL_SECONDS)
                counts.sent += 1
                sent[line].append(offset)
        for line, offsets in sent.items():
            # who sends a whole topic again wants no record as long as that
            target = ", ".join(offsets[:_NAMED]) + (" and more" if len(offsets) > _NAMED else "")
            found[line].update(target=target, after={"sent": len(offsets)})
    return counts


def replayed_at(state: State, letter: Record) -> datetime | None:
    """When `letter` was replayed last; None if it never was."""
    stored = state.get(_key(letter))
    return None if stored is None else datetime.fromisoformat(stored.decode())


def _key(letter: Record) -> str:
    return f"replayed/{letter.partition}/{letter.offset}/{letter.at.isoformat()}"
