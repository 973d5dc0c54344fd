"""Results that an interrupted run left, which the next one goes on from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from flowgauge.domain.errors import UserError

Found = TypeVar("Found")


def left_in(
    out: Path | None, key: Callable[[], str], read: Callable[[dict[str, Any]], Found], what: str, option: str = "--json"
) -> Found | None:
    """What `read` makes of the document in `out`; None where there is none. `key` names images and settings of this
    run, `what` the command whose document it should be, and `option` is how `out` was given.

    Raises `UserError` for a file of something else, which stays as it is.
    """
    if out is None or not out.exists():
        return None
    try:
        document = json.loads(out.read_bytes())
        theirs, found = document["key"], read(document)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out} is no result of {what} ({error}).", f"Give {option} another name.") from error
    if theirs != key():
        raise UserError(f"{out} tells of other images or settings.", f"Give {option} another name, or remove it.")
    return found
