"""What the console's pages stand on: the store, what is going on in it, and the pictures that are shown."""

import gzip
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import lru_cache, partial
from io import BytesIO
from math import inf
from threading import Lock
from typing import TYPE_CHECKING
from uuid import UUID

from PIL import Image

from flowgauge.console.access import Access
from flowgauge.domain.messages import DEAD_LETTERS, IMAGES, SHADOW_VERDICTS, Verdict
from flowgauge.registry.lines import line_settings
from flowgauge.runtime.backend import Store
from flowgauge.services.golden import find_verdict
from flowgauge.services.overview import Overview
from flowgauge.services.status import GroupStatus, group_statuses
from flowgauge.vision.decoding import Reduction, coarsest, decode

if TYPE_CHECKING:
    from flowgauge.services.predictions import Predictions
    from flowgauge.services.threshold import LineEvidence

# pixels of the longest side, of pictures in galleries and of those that are looked at closely: less hides small
# defects, more makes a page of pictures slow to load
SMALL, LARGE = 320, 1_600
# JPEG's: lower, and its blocks look like texture; higher only makes files larger
_QUALITY = 88
# more, and with the pauses between two looks, at the topics and from a browser, a verdict shows later than two seconds;
# less, and the page of a large plant is made more often than anybody sees
_SHARED_SECONDS = 0.25
# small pictures that stay in memory, some 15 kB each: fewer than what ten people look at are made again for each
_KEPT = 2_000
# older verdicts, 5 kB each: with fewer than people look at, page, image and heatmap each search the archive for theirs
_VERDICTS_KEPT = 500
# what a line's prices stand on is looked up again after so long: less, and each threshold that somebody tries reads the
# archive of two weeks; more, and labels of the last minute do not count
_EVIDENCE_SECONDS = 60.0
_EVIDENCE_KEPT = 4  # lines of which it stays in memory: the archived scores of a fast line take some 50 MB


class Shared:
    """A page's part that is the same for all who look, made anew after a quarter of a second: ten browsers that ask
    each second cost no more than four.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._made_at = -inf
        self._plain = self._packed = b""

    def get(self, make: Callable[[], str], packed: bool) -> bytes:
        """What `make` gave; gzipped if `packed`."""
        with self._lock:
            if time.monotonic() - self._made_at >= _SHARED_SECONDS:
                self._plain = make().encode()
                # level 1: half the time of the default's, and a few per cent more bytes
                self._packed = gzip.compress(self._plain, 1)
                self._made_at = time.monotonic()
            return self._packed if packed else self._plain


class Console:
    """`store` is closed by whoever opened it."""

    def __init__(self, store: Store, access: Access, device: str = "cpu") -> None:
        self.store = store
        self.access = access
        self.overview = Overview(store)
        self.plant_live = Shared()
        self.device = device
        self._lock = Lock()
        self._predictions: Predictions | None = None
        self.lag: Sequence[GroupStatus] = ()
        self.thumbnail = lru_cache(_KEPT)(partial(self.picture, longest=SMALL))
        self._evidence = lru_cache(_EVIDENCE_KEPT)(self._looked_up)
        self._older = lru_cache(_VERDICTS_KEPT)(self._found)
        self._scored = 0

    @property
    def predictions(self) -> "Predictions":
        # what loads a gauge takes ten seconds to load itself, and most people only look
        from flowgauge.services.predictions import Predictions

        with self._lock:
            if self._predictions is None:
                self._predictions = Predictions(self.store, self.device)
            return self._predictions

    def evidence(self, line: str) -> "LineEvidence":
        """What the prices of the line's thresholds stand on, at most a minute old. Raises `GaugeMissing`."""
        active = self.overview.summary(line).active
        version = None if active is None else active.version
        settings = line_settings(self.store.objects, line)
        return self._evidence(line, version, settings, self._scored, int(time.monotonic() / _EVIDENCE_SECONDS))

    def score_labelled(self, line: str) -> None:
        """Have the active gauge score the labelled images that it has not scored yet."""
        from flowgauge.services.threshold import line_evidence, loader

        line_evidence(self.store, line, score=loader(self.store, line, self.device))
        self._scored += 1

    def _looked_up(self, line: str, *until_these_change: object) -> "LineEvidence":
        from flowgauge.services.threshold import line_evidence

        return line_evidence(self.store, line)

    def catch_up(self) -> None:
        """What has happened up to now. Raises `Unavailable`."""
        self.refresh()
        self.look_at_lag()

    def refresh(self) -> None:
        self.overview.refresh()

    def look_at_lag(self) -> None:
        for topic in (IMAGES, DEAD_LETTERS, SHADOW_VERDICTS):  # the overview asks for those that it follows
            self.store.log.topic_id(topic)  # partitions may have been added
        self.lag = list(group_statuses(self.store))

    def verdict(self, verdict_id: UUID, day: date | None = None) -> Verdict:
        """Raises `UserError` where there is none."""
        return self.overview.verdict(verdict_id) or self._older(verdict_id, day)

    def _found(self, verdict_id: UUID, day: date | None) -> Verdict:
        return find_verdict(self.store, verdict_id, lambda what, done, total: None, day)

    def picture(self, uri: str, longest: int) -> bytes:
        """A JPEG of the object at `uri`. Raises `KeyError` where it is gone, and `UnreadableImage`."""
        return jpeg(self.store.objects.get(self.store.objects.name(uri)), longest)


def reduced_to(longest: int) -> Reduction:
    """As far as a picture of `longest` pixels a side allows, twice as fine."""
    return lambda size: coarsest(size, max(size) / (2 * longest))


def jpeg(data: bytes, longest: int) -> bytes:
    """As a browser can show it, whatever the camera sent, at most `longest` pixels a side. Raises `UnreadableImage`."""
    shown = Image.fromarray(decode(data, reduced_to(longest)).pixels)
    shown.thumbnail((longest, longest), Image.Resampling.BOX)
    made = BytesIO()
    shown.save(made, "JPEG", quality=_QUALITY)
    return made.getvalue()
