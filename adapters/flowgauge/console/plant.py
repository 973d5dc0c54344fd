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
from flowgauge.domain.messages import Verdict
from flowgauge.runtime.backend import Store
from flowgauge.services.golden import find_verdict
from flowgauge.services.overview import Overview
from flowgauge.services.status import GroupStatus, group_statuses
from flowgauge.vision.decoding import Reduction, coarsest, decode

if TYPE_CHECKING:
    from flowgauge.services.predictions import Predictions

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
        self._device = device
        self._lock = Lock()
        self._predictions: Predictions | None = None
        self.lag: Sequence[GroupStatus] = ()
        self.thumbnail = lru_cache(_KEPT)(partial(self.picture, longest=SMALL))

    @property
    def predictions(self) -> "Predictions":
        # what loads a gauge takes ten seconds to load itself, and most people only look
        from flowgauge.services.predictions import Predictions

        with self._lock:
            if self._predictions is None:
                self._predictions = Predictions(self.store, self._device)
            return self._predictions

    def catch_up(self) -> None:
        """What has happened up to now. Raises `Unavailable`."""
        self.refresh()
        self.look_at_lag()

    def refresh(self) -> None:
        self.overview.refresh()

    def look_at_lag(self) -> None:
        self.lag = list(group_statuses(self.store))

    def verdict(self, verdict_id: UUID, day: date | None = None) -> Verdict:
        """Raises `UserError` where there is none."""
        recent = self.overview.verdict(verdict_id)
        return recent or find_verdict(self.store, verdict_id, lambda what, done, total: None, day)

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
