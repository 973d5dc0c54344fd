"""A camera that shows the same picture again and again, or none: every part would pass."""

from collections.abc import Iterator

from flowgauge.domain.messages import AlertKind, Decision, FrozenModel, Instant, Verdict
from flowgauge.domain.ports import Outgoing
from flowgauge.runtime.alerts import alert

# Pictures among which one comes again: a frame grabber that hangs repeats all buffers of its ring, rarely more than
# eight. Larger only costs state.
_RING = 8

# Mean gray values beyond which an even image shows nothing. Nearer to the middle, plain goods would count as blank;
# nearer to the ends, the noise behind a lens cap would not.
_BLACK, _WHITE = 0.05, 0.95

# Standard deviation of gray values below which an image is even: about five of 255 gray levels, more than sensors'
# noise. Larger, and a dark picture with few bright edges would count as blank.
_EVEN = 0.02


class FrozenRun(FrozenModel):
    """The images of a line up to now that show what one of the last few before them showed.

    `recent` are the looks of the last images, `images` how many are in the run, `since` and `first` when it began and
    with which image.
    """

    recent: tuple[str, ...] = ()
    images: int = 0
    since: Instant | None = None
    first: str = ""

    def followed_by(self, verdict: Verdict) -> "FrozenRun":
        seen = verdict.statistics
        # equal for equal pixels, however they are encoded, and in live images never: sensors' noise moves all figures
        look = f"{seen.fingerprint} {seen.brightness!r} {seen.contrast!r} {seen.focus!r}"
        # a gauge that passes even images at the end of the scale was fitted to them, as in a dark field
        if verdict.decision is not Decision.PASS and seen.contrast < _EVEN:
            look = "black" if seen.brightness < _BLACK else "white" if seen.brightness > _WHITE else look
        recent = (*self.recent, look)[-_RING:]
        if look in self.recent:
            return FrozenRun(recent=recent, images=self.images + 1, since=self.since, first=self.first)
        return FrozenRun(recent=recent, images=1, since=verdict.event_time, first=verdict.image_id)

    def alerts(self, verdict: Verdict, limit: int) -> Iterator[Outgoing]:
        """At `limit` images, and again whenever there are twice as many: one alert, whose count grows."""
        if not limit or self.images % limit or (self.images // limit).bit_count() != 1 or self.since is None:
            return
        look = self.recent[-1]
        shown = f"are all {look}" if look in ("black", "white") else "show the same picture"
        yield alert(
            verdict.line,
            AlertKind.FROZEN_CAMERA,
            f"{self.first}@{self.since.isoformat()}",
            verdict.scored_at,
            f"{verdict.line}: the last {self.images} images {shown}, since {self.first} of "
            f"{self.since:%Y-%m-%d %H:%M:%S} UTC. Nothing is inspected: look at the camera, its lens and its cable. "
            f"Where it is meant to be so, run `flowgauge lines set {verdict.line} frozen_images=0`.",
            self.images,
            since=self.since.isoformat(),
            first=self.first,
            last=verdict.image_id,
            look=look if look in ("black", "white") else "same",
        )
