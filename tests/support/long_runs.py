"""Whether tests run at full length, as `make field-long` asks for: each property with 10,000 examples, malformed events
among ten times as many."""

import os

from hypothesis import settings

LONG = os.environ.get("FLOWGAUGE_FIELD_LONG") == "1"
_EXAMPLES, _LONG_EXAMPLES = 100, 10_000  # of a property that sets no number of its own


def examples(usual: int) -> int:
    """Of a property whose examples take longer or need more than most: `usual`, and in a long run as many times more as
    all others."""
    return usual * _LONG_EXAMPLES // _EXAMPLES if LONG else usual


settings.register_profile("long", max_examples=_LONG_EXAMPLES, deadline=None)
if LONG:
    settings.load_profile("long")
