"""What a model of pydantic refuses, in words for people."""

from collections.abc import Sequence

from pydantic import ValidationError


def problems(error: ValidationError) -> str:
    """Each field with what is wrong with it, without a full stop."""
    return "; ".join(_in_words(problem["loc"], problem["msg"]) for problem in error.errors(include_url=False))


def _in_words(location: Sequence[int | str], message: str) -> str:
    field, words = ".".join(map(str, location)), message.removeprefix("Value error, ").rstrip(".")
    if words.startswith("Input "):
        return f"{field or 'the whole'} {words.removeprefix('Input ')}"
    # a rule that several fields must keep to has no place of its own, and names them
    return f"{field}: {words}" if field else words
