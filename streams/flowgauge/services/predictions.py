"""Verdicts predicted again: with the gauge that made them, which shows that they hold, or with another one."""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import torch

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import Verdict
from flowgauge.engines.choice import TOLERANCE
from flowgauge.models.prediction import Prediction
from flowgauge.registry.snapshots import active_snapshot
from flowgauge.runtime.backend import Store
from flowgauge.services.golden import image_of
from flowgauge.services.snapshots import stored_gauge
from flowgauge.training.gauge import Gauge
from flowgauge.vision.decoding import Picture

# gauges that stay in memory, some 30 MB each beside the backbone that they share: fewer are loaded again for each image
# that a person compares, more take memory that scoring may need
_KEPT = 4
# Torch takes other kernels for 1 x 1 convolutions where one thread has fewer than 16 images at a time, and adds in
# another order: a score of 1,000 then differs by 0.002. Whichever a worker had, one of these two has the same.
_THREADS = (2, 1)
# of a score: more than the same arithmetic ever differs by, and less than another gauge's would
SCORE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Repeated:
    """`difference` is the new score less the stored one, None where the verdict has none. `limit` is the most by which
    a compiled gauge may differ from torch (see `flowgauge.engines.choice`), in the score's unit.
    """

    version: str
    prediction: Prediction
    difference: float | None
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the score is the stored one, to within rounding."""
        return self.difference is not None and abs(self.difference) <= SCORE_TOLERANCE

    @property
    def may_be_compiled(self) -> bool:
        """Whether it is what a faster engine could have given."""
        return self.difference is not None and abs(self.difference) <= self.limit


def repeated(gauge: Gauge, prediction: Prediction, verdict: Verdict) -> Repeated:
    """What `gauge` predicted for the image of `verdict`, beside what that says."""
    facts = gauge.manifest
    difference = None if verdict.score is None else prediction.score - verdict.score
    return Repeated(
        gauge.version, prediction, difference, TOLERANCE * abs(facts.threshold.value - facts.calibration.median)
    )


def predicted_alone(gauge: Gauge, picture: Picture, verdict: Verdict) -> Repeated:
    """As a worker predicts an image that is alone in its batch, whatever threads it has. Changes torch's number of
    threads meanwhile."""
    before = torch.get_num_threads()
    found = []
    try:
        for threads in _THREADS:
            torch.set_num_threads(threads)
            found.append(repeated(gauge, gauge.predict([picture])[0], verdict))
    finally:
        torch.set_num_threads(before)
    return next((each for each in found if each.holds), found[0])


class Predictions:
    """Predicts verdicts of `store` again; may be called from several threads, and does one thing at a time."""

    def __init__(self, store: Store, device: str = "cpu") -> None:
        self._store = store
        self._device = device
        self._lock = Lock()
        self._gauges: OrderedDict[tuple[str, str], Gauge] = OrderedDict()

    def own(self, verdict: Verdict) -> Repeated:
        """With the gauge that the verdict names. Raises as `active` does."""
        if verdict.gauge_version is None:
            raise UserError("The line had no gauge then.", "Predict with the active one.")
        return self._with(verdict, verdict.gauge_version)

    def active(self, verdict: Verdict) -> Repeated:
        """With the line's active gauge.

        Raises `UserError` for an image that is no longer kept or not what was scored, `GaugeMissing` and
        `SnapshotInvalid` for a gauge that cannot be had, and `Unavailable`.
        """
        return self._with(verdict, active_snapshot(self._store.log, verdict.line).version)

    def _with(self, verdict: Verdict, version: str) -> Repeated:
        data = image_of(self._store.objects, verdict)
        with self._lock:
            gauge = self._gauge(verdict.line, version)
            picture: Picture = gauge.manifest.preprocessing.decode(data)
            return predicted_alone(gauge, picture, verdict)

    def _gauge(self, line: str, version: str) -> Gauge:
        gauge = self._gauges.pop((line, version), None) or stored_gauge(self._store, line, version, self._device)
        self._gauges[line, version] = gauge
        if len(self._gauges) > _KEPT:
            self._gauges.popitem(last=False)
        return gauge
