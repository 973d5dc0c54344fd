"""Which gauge decides on each image of a batch, and what a candidate on trial predicts beside it."""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import SHADOW_VERDICTS, Opinion, ShadowVerdict, Trial, Verdict
from flowgauge.domain.ports import Outgoing, State
from flowgauge.models.prediction import Prediction, Predictor
from flowgauge.registry.gauges import Gauges, OnTrial
from flowgauge.runtime.events import Image

# a worker may be killed while a good candidate predicts its first images: with fewer its trial ends for that, with more
# one that breaks workers keeps the line waiting for as many starts
_ATTEMPTS = 3
# longer than a supervisor waits before it starts a worker again; what is forgotten before is tried three times more
_ATTEMPTS_SECONDS = 86_400

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beside:
    """What two gauges predict of one image. `failure` is why the candidate could not; `decided`: it decides; `first`:
    of the images that are predicted together.
    """

    trial: Trial
    active: Prediction
    active_version: str
    candidate: Prediction | None
    failure: str
    decided: bool
    first: bool

    def record(self, verdict: Verdict) -> Outgoing:
        """The shadow verdict of the image whose `verdict` counts."""
        seen = ShadowVerdict(
            line=verdict.line,
            trial_id=self.trial.trial_id,
            verdict_id=verdict.verdict_id,
            image_id=verdict.image_id,
            image_sha256=verdict.image_sha256,
            image_uri=verdict.image_uri,
            scored_at=verdict.scored_at,
            late=verdict.late,
            active=_opinion(self.active_version, self.active),
            candidate=None if self.candidate is None else _opinion(self.trial.version, self.candidate),
            failure=self.failure,
            first=self.first,
            decided=self.decided,
            source=verdict.source,
        )
        return Outgoing(SHADOW_VERDICTS, verdict.line, seen.encode(), partition=verdict.source.partition)


@dataclass(frozen=True)
class Decided:
    """An image as the gauge that decides sees it, and that one's prediction; both are None while the line has no gauge.
    `beside`: where a candidate was asked too.
    """

    image: Image
    gauge: Predictor | None
    prediction: Prediction | None
    beside: Beside | None = None

    @property
    def trial_id(self) -> UUID | None:
        """The trial, where its candidate decides."""
        return self.beside.trial.trial_id if self.beside is not None and self.beside.decided else None


@dataclass(frozen=True)
class _Asked:
    """An image as the active gauge sees it, and who is to predict it. `on_trial`: only for images that are drawn."""

    image: Image
    gauge: Predictor | None
    on_trial: OnTrial | None

    def to_candidate(self) -> tuple[Predictor, Image] | None:
        """The candidate that is to predict the image, and the image as it sees it: the same one, where the gauges see
        alike, so that one pass through the backbone serves both.
        """
        candidate = None if self.on_trial is None else self.on_trial.candidate
        if candidate is None or self.gauge is None:
            return None
        alike = candidate.manifest.preprocessing == self.gauge.manifest.preprocessing
        return candidate, self.image if alike else self.image.seen_by(candidate)


class Decider:
    """A candidate that fails, in whatever way, costs no image its verdict: the active gauge decides, and the failure is
    on record. One with whose first images a worker ends, as where memory runs out or a library breaks, is asked
    `_ATTEMPTS` times in all: `state` counts them by partition, of which one worker has each.
    """

    def __init__(self, gauges: Gauges, state: State) -> None:
        self._gauges = gauges
        self._state = state
        self._failed: dict[UUID, str] = {}
        self._begun: set[tuple[UUID, int]] = set()
        self._proved: set[tuple[UUID, int]] = set()

    def decide(self, images: Sequence[Image]) -> list[Decided]:
        """In the order of `images`; those of all lines are predicted together, each as its gauge sees it."""
        lines = {image.event.line for image in images}
        gauges = {line: self._gauges.gauge(line) for line in lines}
        trials = {line: self._gauges.on_trial(line) for line in lines if gauges[line] is not None}
        asked: list[_Asked] = []
        unproved: UUID | None = None
        for image in images:
            line = image.event.line
            gauge, on_trial = gauges[line], trials.get(line)
            if on_trial is not None and not on_trial.trial.predicts(image.event.image_id):
                on_trial = None
            if on_trial is not None and self._is_unproved(on_trial, image.record.partition):
                # one in a pass: where the worker ends with it, no other candidate is to blame; the others come next
                unproved = unproved or on_trial.trial.trial_id
                on_trial = on_trial if unproved == on_trial.trial.trial_id else None
            asked.append(_Asked(image.seen_by(gauge), gauge, on_trial))
        tried = self._tried(asked)
        predictions, candidates = self._predicted(asked, tried)
        self._prove(asked, candidates)
        first = {each.image.event.line: index for index, each in reversed(list(enumerate(asked))) if each.on_trial}
        return [
            self._decided(
                each,
                predictions.get(index),
                tried.get(index),
                candidates.get(index),
                first.get(each.image.event.line) == index,
            )
            for index, each in enumerate(asked)
        ]

    def _tried(self, asked: Sequence[_Asked]) -> dict[int, tuple[Predictor, Image]]:
        """Candidates and the images that they are to predict, by index in `asked`."""
        tried: dict[int, tuple[Predictor, Image]] = {}
        for index, each in enumerate(asked):
            if each.on_trial is None or not self._may_be_asked(each.on_trial.trial, each.image.record.partition):
                continue
            try:
                candidate = each.to_candidate()
            except Exception as error:
                self._fail(each.on_trial, error)
                continue
            if candidate is not None:
                tried[index] = candidate
        return tried

    def _is_unproved(self, on_trial: OnTrial, partition: int) -> bool:
        """Whether the candidate would be asked and the worker has not outlived its first images yet."""
        trial_id = on_trial.trial.trial_id
        will_be_asked = on_trial.candidate is not None and trial_id not in self._failed
        return will_be_asked and (trial_id, partition) not in self._proved

    def _may_be_asked(self, trial: Trial, partition: int) -> bool:
        """Counts the attempt before it is made: after one that ends the process nothing could."""
        if trial.trial_id in self._failed:
            return False
        if (trial.trial_id, partition) not in self._begun:
            self._begun.add((trial.trial_id, partition))
            key = _attempts_key(trial, partition)
            with suppress(Unavailable):  # without a count a candidate is asked as if it were the first time
                attempts = int(self._state.get(key) or 0)
                if attempts >= _ATTEMPTS:
                    self._failed[trial.trial_id] = f"workers ended {attempts} times in a row with its first images"
                    return False
                self._state.put(key, str(attempts + 1).encode(), _ATTEMPTS_SECONDS)
        return True

    def _prove(self, asked: Sequence[_Asked], predicted: Mapping[int, Prediction]) -> None:
        """The worker has outlived the first images of these candidates."""
        for index in predicted:
            on_trial, partition = asked[index].on_trial, asked[index].image.record.partition
            if on_trial is not None and (on_trial.trial.trial_id, partition) not in self._proved:
                self._proved.add((on_trial.trial.trial_id, partition))
                with suppress(Unavailable):
                    self._state.put(_attempts_key(on_trial.trial, partition), b"0", _ATTEMPTS_SECONDS)

    def _fail(self, on_trial: OnTrial, error: Exception) -> None:
        log.error("Candidate %s failed on an image.", on_trial.trial.version, exc_info=error)
        self._failed[on_trial.trial.trial_id] = f"{type(error).__name__}: {error}"

    def _predicted(
        self, asked: Sequence[_Asked], tried: Mapping[int, tuple[Predictor, Image]]
    ) -> tuple[dict[int, Prediction], dict[int, Prediction]]:
        """Predictions of active gauges and of candidates, by index in `asked`."""
        active = {index: (each.gauge, each.image.picture) for index, each in enumerate(asked) if each.gauge is not None}
        if not active:
            return {}, {}
        predict_each = next(iter(active.values()))[0].predict_each  # gauges of a process are of one kind
        beside = {index: (candidate, image.picture) for index, (candidate, image) in tried.items()}
        try:
            found = predict_each([*active.values(), *beside.values()])
            return dict(zip(active, found[: len(active)], strict=True)), dict(
                zip(beside, found[len(active) :], strict=True)
            )
        except Exception:
            if not beside:
                raise
        # a candidate fails, or an active gauge does, which raises here
        predictions = dict(zip(active, predict_each([*active.values()]), strict=True))
        candidates: dict[int, Prediction] = {}
        for on_trial in {id(asked[index].on_trial): asked[index].on_trial for index in beside}.values():
            assert on_trial is not None
            own = {index: item for index, item in beside.items() if asked[index].on_trial is on_trial}
            try:
                candidates |= zip(own, predict_each([*own.values()]), strict=True)
            except Exception as error:
                self._fail(on_trial, error)
        return predictions, candidates

    def _decided(
        self,
        asked: _Asked,
        active: Prediction | None,
        tried: tuple[Predictor, Image] | None,
        candidate: Prediction | None,
        first: bool,
    ) -> Decided:
        # what is no number cannot be compared, nor written as JSON
        if asked.on_trial is None or asked.gauge is None or active is None or not _finite(active):
            return Decided(asked.image, asked.gauge, active)
        trial, failure = asked.on_trial.trial, ""
        if candidate is None or tried is None:
            failure = self._failed.get(trial.trial_id, "its snapshot does not load")
        elif not _finite(candidate):
            failure = f"its score is {candidate.score}, standardised {candidate.standard_score}"
            candidate = None
        decides = candidate is not None and trial.decides(asked.image.event.image_id)
        beside = Beside(trial, active, asked.gauge.version, candidate, failure, decides, first)
        if decides and tried is not None:
            return Decided(tried[1], tried[0], candidate, beside)
        return Decided(asked.image, asked.gauge, active, beside)


def _attempts_key(trial: Trial, partition: int) -> str:
    return f"attempts/{trial.trial_id}/{partition}"


def _finite(prediction: Prediction) -> bool:
    return math.isfinite(prediction.score) and math.isfinite(prediction.standard_score)


def _opinion(version: str, prediction: Prediction) -> Opinion:
    return Opinion(
        version=version,
        score=prediction.score,
        threshold=prediction.threshold,
        standard_score=prediction.standard_score,
        decision=prediction.decision,
        seconds=prediction.seconds,
    )
