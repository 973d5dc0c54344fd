"""Names: what may name a line, and where in the object store each thing lies.

Every function that builds a path percent-encodes what comes from outside, so an id can never climb out of its folder.
"""

import re
from datetime import date, datetime
from hashlib import sha256
from pathlib import PurePath
from urllib.parse import quote
from uuid import NAMESPACE_URL, UUID, uuid5

from flowgauge.domain.errors import InvalidName

_LINE = re.compile(r"[A-Za-z0-9._-]{1,64}")
# hex digits; fewer, and two cameras of one line could share them; more are only longer to read
_HASH_DIGITS = 12
# how Python keeps bytes of names that are no UTF-8
_UNDECODED = re.compile("[\udc80-\udcff]")
# file systems allow 255 bytes, S3 1,024 for a whole key
_LONGEST_SEGMENT = 180


# where copies of the archive's files lie
COMPACTED = "compacted/"


def line_name(text: str) -> str:
    """`text` itself if it may name a line: 1 to 64 of `A-Z a-z 0-9 . _ -`, and neither `.` nor `..`.

    Raises `InvalidName` otherwise.
    """
    if is_line(text):
        return text
    raise InvalidName(f"{text!r} cannot name a line.", "Use 1 to 64 letters, digits, dots, underscores or hyphens.")


def is_line(text: str) -> bool:
    return _LINE.fullmatch(text) is not None and text.strip(".") != ""


def encoded(text: str) -> str:
    """One path segment: everything but letters, digits, `_`, `-` and inner dots is percent-encoded.

    What would be too long for a file's name ends in `~` and a hash of `text` instead; no other segment holds a `~`.
    """
    segment = quote(text, safe="").replace("~", "%7E")
    if len(segment) > _LONGEST_SEGMENT:
        return f"{segment[: _LONGEST_SEGMENT - 33]}~{sha256(text.encode()).hexdigest()[:32]}"
    return segment.replace(".", "%2E") if not segment.strip(".") else segment


def spelled(text: str, backslash: str = "\\") -> str:
    """`text` with the bytes of file names that are no UTF-8, which no file or terminal takes, written as `\\xfc`."""
    return _UNDECODED.sub(lambda found: f"{backslash}x{ord(found[0]) - 0xDC00:02x}", text)


def path_text(path: PurePath) -> str:
    """`path` with slashes, as the text that an id must be."""
    return spelled(path.as_posix())


def verdict_id(source: str, image_id: str) -> UUID:
    """UUIDv5 of `ce_source` and `ce_id`: the same event has the same verdict id wherever it is scored."""
    if "#" in source:
        # where it ends and the id begins would be anybody's guess
        return uuid5(uuid5(NAMESPACE_URL, source), image_id)
    return uuid5(NAMESPACE_URL, f"{source}#{image_id}")


def _day(at: date | datetime) -> str:
    # and not strftime, which writes the year 1 as 1
    return at.isoformat()[:10]


def _of_source(line: str, image_id: str, source: str) -> str:
    """Cameras that count their images alike must not overwrite one another's."""
    own = source in ("", f"/lines/{line}")
    return encoded(image_id if own else f"{image_id}@{sha256(source.encode()).hexdigest()[:_HASH_DIGITS]}")


def images_folder(line: str) -> str:
    return f"images/{line_name(line)}/"


def image_object(line: str, at: datetime, image_id: str, source: str = "") -> str:
    return f"{images_folder(line)}{_day(at)}/{_of_source(line, image_id, source)}"


def heatmap_object(line: str, at: datetime, image_id: str, source: str = "") -> str:
    return f"heatmaps/{line_name(line)}/{_day(at)}/{_of_source(line, image_id, source)}.png"


def verdicts_folder(day: date) -> str:
    return f"verdicts/date={_day(day)}/"


def verdicts_object(day: date, partition: int, first_offset: int) -> str:
    return f"{verdicts_folder(day)}{partition}-{first_offset:012d}.parquet"


def compacted_folder(day: date) -> str:
    return f"{COMPACTED}date={_day(day)}/"


def snapshot_prefix(line: str, version: str) -> str:
    return f"snapshots/{line_name(line)}/{encoded(version)}"


def adaptation_object(line: str, version: str) -> str:
    return f"adaptations/{line_name(line)}/{encoded(version)}.json"


def trials_folder(line: str) -> str:
    return f"trials/{line_name(line)}/"


def trial_object(line: str, trial_id: UUID) -> str:
    return f"{trials_folder(line)}{trial_id.hex}.json"


def changes_folder(day: date) -> str:
    return f"changes/{_day(day)}/"


def change_object(at: datetime, change_id: UUID) -> str:
    """Of a change made `at` that time, in UTC; names of one day are in the order of time."""
    return f"{changes_folder(at)}{at:%H%M%S.%f}-{change_id.hex}.json"


def golden_object(line: str, label: str, image_id: str, kind: str = "") -> str:
    """`kind` is the class of a defect, "" where nobody said."""
    folder = f"golden/{line_name(line)}/{encoded(label)}"
    return f"{folder}/{encoded(kind)}/{encoded(image_id)}" if kind else f"{folder}/{encoded(image_id)}"


def line_settings_object(line: str) -> str:
    return f"lines/{line_name(line)}.json"
