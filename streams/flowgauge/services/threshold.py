"""A line's threshold: what it costs, with intervals, and another one in its place."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from hashlib import sha256
from math import isfinite
from operator import methodcaller
from typing import Any

import numpy as np

from flowgauge.domain.errors import GaugeMissing, SnapshotInvalid, UserError
from flowgauge.domain.golden import Label
from flowgauge.domain.lines import LineSettings
from flowgauge.domain.messages import Decision, Expected, Trial
from flowgauge.domain.object_keys import encoded
from flowgauge.domain.ports import Objects
from flowgauge.domain.trace import Check
from flowgauge.evaluation.operating_point import Costs, Evidence, Scored
from flowgauge.models.detector import Progress
from flowgauge.models.registry import FROM_LABELS
from flowgauge.registry.golden_sets import Golden, contents, golden_set, renamed
from flowgauge.registry.lines import line_settings
from flowgauge.registry.snapshots import (
    SnapshotFiles,
    active_snapshot,
    fetch_manifest,
    fetch_snapshot,
    store_snapshot,
)
from flowgauge.registry.trials import introduce, require_no_trial
from flowgauge.runtime.backend import Store
from flowgauge.services.changes import recorded
from flowgauge.services.history import DAYS, archived_tables
from flowgauge.services.snapshots import stored_gauge
from flowgauge.training.gauge import BATCH, Gauge, score_by_each
from flowgauge.training.manifest import Manifest
from flowgauge.training.snapshot import read_manifest, with_threshold
from flowgauge.training.thresholds import Threshold

# scores of labelled images are kept so long; shorter, and whoever looks once a month waits for them each time
_KEPT_SECONDS = 31 * 86_400.0
# promises beyond these, which a person has to confirm: more false alarms reject most good parts, and fewer than one in
# ten thousand is beyond what the scores of any fit can tell
_MOST, _LEAST = 0.5, 1e-4


@dataclass(frozen=True)
class LineEvidence:
    """What a line's prices stand on. `unscored` labelled images wait for the gauge to score them; `chosen` ones were
    labelled because a gauge had flagged them, so their shares tell nothing. `images_a_day` and `defect_rate` are None
    where nobody told them and nothing tells them; the sentences say where they come from. `pooled`: calibration and
    labelled scores agree, and count together. `synthetic` is what the gate found on synthetic anomalies.
    """

    line: str
    version: str
    known: Evidence
    images_a_day: float | None
    day_source: str
    defect_source: str
    unscored: int
    chosen: int
    synthetic: Check | None

    @property
    def defects_a_day(self) -> float | None:
        rate = self.known.defect_rate
        return None if rate is None or self.images_a_day is None else rate * self.images_a_day

    @property
    def good_a_day(self) -> float | None:
        """All images where nobody knows how many of them are defective."""
        return None if self.images_a_day is None else self.images_a_day - (self.defects_a_day or 0.0)


def line_evidence(
    store: Store,
    line: str,
    *,
    days: int = DAYS,
    images_a_day: float | None = None,
    defect_rate: float | None = None,
    score: Callable[[], Gauge] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> LineEvidence:
    """What the archive of the last `days`, the labels and the settings say of the active gauge's threshold.

    `score` loads that gauge, for labelled images that it has not scored yet; None leaves them out. `images_a_day` and
    `defect_rate` go before what the line tells. Raises `GaugeMissing` and `SnapshotInvalid`.
    """
    version = active_snapshot(store.log, line).version
    facts = read_manifest(fetch_manifest(store.objects, line, version))
    settings = line_settings(store.objects, line)
    rows: list[dict[str, Any]] = []
    by_day: Counter[date] = Counter()
    for day, table in archived_tables(store, line, days, _COLUMNS, progress):
        by_day[day] += table.num_rows
        if len(rows) < _MOST_ROWS:
            rows += table.to_pylist()
    labelled = _Labelled.of(store, line, facts, rows, score, progress)
    alike = _same_weights(store.objects, line, {row["gauge_version"] for row in rows}, facts)
    recent = [row["score"] for row in rows if row["gauge_version"] in alike and row["score"] is not None]
    a_day, day_source = (images_a_day, "as told") if images_a_day is not None else _images_a_day(store, by_day)
    rate, defect_source = _defect_rate(defect_rate, settings, rows, labelled)
    known = Evidence(
        threshold=facts.threshold,
        good=labelled.scored(Label.GOOD),
        defects=labelled.scored(Label.DEFECT),
        flagged=np.array([each.score for each in labelled.found if each.label is Label.DEFECT and each.flagged]),
        recent=np.array(recent, np.float64),
        defect_rate=rate,
        costs=_costs(settings),
    )
    return LineEvidence(
        line=line,
        version=version,
        known=known,
        images_a_day=a_day,
        day_source=day_source,
        defect_source=defect_source,
        unscored=labelled.unscored,
        chosen=sum(each.flagged for each in labelled.found),
        synthetic=_synthetic(facts),
    )


# of the archive, the newest: a fast line has a million a day, each some 500 bytes here; fewer leave rare scores out
_MOST_ROWS = 100_000
_COLUMNS = ("image_id", "image_sha256", "subject", "score", "decision", "gauge_version")


def _same_weights(objects: Objects, line: str, versions: set[str | None], facts: Manifest) -> set[str]:
    """Those of `versions` that score as the gauge of `facts` does: they differ from it in their threshold at most."""
    found = {facts.version}
    for version in versions - {None, facts.version}:
        try:
            manifest = read_manifest(fetch_manifest(objects, line, str(version)))
        except (GaugeMissing, SnapshotInvalid):
            continue  # gone, or of another schema: its scores cannot be told to be the same
        if manifest.weights_sha256 == facts.weights_sha256:
            found.add(manifest.version)
    return found


@dataclass(frozen=True)
class _Label:
    label: Label
    score: float
    part: str
    flagged: bool


@dataclass(frozen=True)
class _Labelled:
    """Labelled images with the gauge's scores, and how many have none yet."""

    found: Sequence[_Label]
    unscored: int

    @classmethod
    def of(
        cls,
        store: Store,
        line: str,
        facts: Manifest,
        rows: Sequence[dict[str, Any]],
        score: Callable[[], Gauge] | None,
        progress: Progress,
    ) -> "_Labelled":
        """Images that trained a detector which learns from labels are left out: it knows them."""
        trains = facts.detector.name in FROM_LABELS
        golden = [each for each in golden_set(store.objects, line) if each.is_hold_out or not trains]
        verdicts = {key: row for row in rows for key in _keys(row)}
        digests = _digests(store.objects, golden, progress)
        scores = _golden_scores(store, line, facts, digests, score, progress)
        found = []
        for each, digest in digests.items():
            row = verdicts.get((each.key, digest))
            if each in scores:
                part = each.image_id if row is None else row["subject"] or each.image_id
                flagged = row is not None and row["decision"] != Decision.PASS
                found.append(_Label(each.label, scores[each], part, flagged))
        return cls(found, len(digests) - len(found))

    def scored(self, label: Label) -> Scored:
        """Those that were not chosen by their scores."""
        chosen = [each for each in self.found if each.label is label and not each.flagged]
        return Scored.of([each.score for each in chosen], [each.part for each in chosen])


def _keys(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Of a golden image that was made of it: the encoded id and the SHA-256, for cameras may count alike."""
    image_id, digest = row["image_id"], row["image_sha256"]
    return [(encoded(each), digest) for each in (image_id, renamed(image_id, digest))]


def _digests(objects: Objects, golden: Sequence[Golden], progress: Progress) -> dict[Golden, str]:
    """The SHA-256 of each golden image."""
    digests: dict[Golden, str] = {}
    for done, (each, data) in enumerate(contents(objects, golden)):
        progress("reading labelled images", done, len(golden))
        digests[each] = sha256(data).hexdigest()
    progress("reading labelled images", len(golden), len(golden))
    return digests


def _golden_scores(
    store: Store,
    line: str,
    facts: Manifest,
    digests: Mapping[Golden, str],
    score: Callable[[], Gauge] | None,
    progress: Progress,
) -> dict[Golden, float]:
    """The gauge's score of each golden image; without those that `score` is needed for."""
    key = f"golden-scores/{line}/{facts.weights_sha256}"
    known: dict[str, float] = json.loads(store.state.get(key) or b"{}")
    waiting = [each for each, digest in digests.items() if digest not in known]
    if waiting and score is not None:
        gauge = score()
        for start in range(0, len(waiting), BATCH):
            progress("scoring labelled images", start, len(waiting))
            some = list(contents(store.objects, waiting[start : start + BATCH]))
            if not some:
                continue
            pictures = (gauge.manifest.preprocessing.decode(data) for _, data in some)
            (scores,) = score_by_each([gauge], np.stack([gauge.crop(picture).pixels for picture in pictures]))
            known |= {digests[each]: float(found) for (each, _), found in zip(some, scores, strict=True)}
        progress("scoring labelled images", len(waiting), len(waiting))
    if known:
        kept = {digest: known[digest] for digest in digests.values() if digest in known}
        store.state.put(key, json.dumps(kept).encode(), _KEPT_SECONDS)
    return {each: known[digest] for each, digest in digests.items() if digest in known}


def _images_a_day(store: Store, by_day: Counter[date]) -> tuple[float | None, str]:
    today = store.clock.now().date()
    whole = [count for day, count in by_day.items() if day != today and count]
    if whole:
        return sum(whole) / len(whole), f"the mean of {len(whole)} days in the archive on which the line ran"
    if by_day[today]:
        return float(by_day[today]), "of today alone, which is not over"
    return None, "unknown: the archive holds none of the line's images of these days"


def _defect_rate(
    given: float | None, settings: LineSettings, rows: Sequence[dict[str, Any]], labelled: _Labelled
) -> tuple[float | None, str]:
    if given is not None:
        return given, "as told"
    if settings.defect_rate is not None:
        return settings.defect_rate, "the line's setting defect_rate"
    flagged = [each.label for each in labelled.found if each.flagged]
    if flagged and rows:
        share = sum(row["decision"] != Decision.PASS for row in rows) / len(rows)
        defective = sum(label is Label.DEFECT for label in flagged) / len(flagged)
        return share * defective, (
            f"at least: {len(flagged)} labelled of the {share:.1%} of images that were flagged;"
            " defects that passed are not counted"
        )
    return None, "unknown: give --defect-rate, or set defect_rate of the line"


def _costs(settings: LineSettings) -> Costs | None:
    if settings.cost_false_alarm is None or settings.cost_miss is None:
        return None
    return Costs(false_alarm=settings.cost_false_alarm, miss=settings.cost_miss, review=settings.cost_review or 0.0)


def _synthetic(facts: Manifest) -> Check | None:
    checks = () if facts.gate is None or facts.threshold.set_by is not None else facts.gate.checks
    return next((check for check in checks if check.name == "sensitivity to synthetic anomalies"), None)


@dataclass(frozen=True)
class Made:
    """A snapshot that is stored and not announced: the gauge `parent` with another threshold."""

    version: str
    parent: str
    threshold: Threshold
    files: SnapshotFiles


def stored_threshold(
    store: Store,
    line: str,
    by: str,
    *,
    value: float | None = None,
    false_alarms: float | None = None,
    keep_promise: bool = False,
    why: str = "",
    sure: bool = False,
) -> Made:
    """The active gauge with the threshold that the person `by` wants, stored: at `value`, or the one that promises the
    rate `false_alarms`. `keep_promise`: the line's scores have moved against the calibration's, and those move with T;
    otherwise T moves on the same scores, and the rate that they imply there is the promise of whatever is adapted next.

    Raises `GaugeMissing`, and `UserError` unless one of the two is given (and `keep_promise` with `value` alone), where
    it is no number that can be meant, and unless `sure` where it would reject most good parts or lies beyond all that
    the scores tell.
    """
    change = _change(value, false_alarms, keep_promise)
    parent = active_snapshot(store.log, line).version
    files = fetch_snapshot(store.objects, line, parent)

    def changed(limit: Threshold) -> Threshold:
        made = change(limit)
        if not sure and not keep_promise:
            _require_sense(limit, made)
        return made.model_copy(update={"set_by": by, "why": why})

    manifest, version = with_threshold(files.manifest, changed, store.clock.now())
    made = SnapshotFiles(manifest, files.weights)
    store_snapshot(store.objects, line, version, made)
    return Made(version, parent, read_manifest(manifest).threshold, made)


def _change(value: float | None, false_alarms: float | None, keep_promise: bool) -> Callable[[Threshold], Threshold]:
    if (value is None) == (false_alarms is None):
        raise UserError("A threshold is set by its value or by a promise.", "Give a value or --false-alarms.")
    if false_alarms is not None:
        if keep_promise:
            raise UserError(
                "A threshold either has another promise or keeps the present one.",
                "Give --false-alarms, or a value with --keep-promise.",
            )
        if not 0 < false_alarms < 1:
            raise UserError(f"{false_alarms:g} is no rate of false alarms.", "Give a share between 0 and 1, as 0.01.")
        return methodcaller("repromised", false_alarms)
    return methodcaller("moved_to" if keep_promise else "placed_at", finite(value or 0.0))


def finite(value: float) -> float:
    """A value that can be a threshold. Raises `UserError` for any other."""
    if not isfinite(value):
        raise UserError(f"{value} is no threshold.", "Give a finite number, in the unit of the line's scores.")
    return value


def _require_sense(limit: Threshold, made: Threshold) -> None:
    promised, scores = made.promised or 0.0, limit.calibration_scores.scores
    if promised > _MOST:
        raise UserError(
            f"At {made.value:.4g} about {promised:.0%} of the good parts would be rejected: half of the fit's good"
            f" images score above {np.median(scores):.4g}.",
            "Choose a higher one, or confirm it with --yes.",
        )
    if promised < _LEAST:
        raise UserError(
            f"{made.value:.4g} lies far above all good scores, the highest of which is {scores[-1]:.4g}: nothing tells"
            " what it would miss.",
            "Choose a lower one, or confirm it with --yes.",
        )


def announce_threshold(store: Store, line: str, made: Made, by: str) -> Trial | None:
    """Make a stored threshold the line's active one, or begin its trial where the line's policy is `shadow`; and record
    who wanted it. Raises `UserError` where another trial is under way.
    """
    before = read_manifest(fetch_manifest(store.objects, line, made.parent)).threshold
    expected = Expected.FEWER if made.threshold.value > before.value else Expected.MORE
    old, new = (
        {"version": version, "threshold": limit.value, "promised": limit.promised}
        for version, limit in ((made.parent, before), (made.version, made.threshold))
    )
    require_no_trial(store, line)
    with recorded(store, by, "threshold", line, made.version, old, new | {"why": made.threshold.why}):
        return introduce(store, line, made.version, made.files.sha256, made.parent, by, expected)


def loader(store: Store, line: str, device: str = "cpu") -> Callable[[], Gauge]:
    """What loads the active gauge of `line` when it is needed."""
    return partial(stored_gauge, store, line, None, device)
