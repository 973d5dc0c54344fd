"""One adaptation, from buffer and anchor to a gated candidate.

The light is corrected first, on the pixels. Where the anchor then scores the line as it scored its own good images,
that is the candidate: the anchor itself, with its threshold, behind a flat-field correction. What else has changed is
adapted to, on corrected images.
"""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from flowgauge.adaptation.contract import AdaptationInput, AdaptationOutcome
from flowgauge.adaptation.gate import Change, GateSettings, Recent, check_candidate
from flowgauge.adaptation.refine import AdaptationData, Division, Refined, RefinementSettings, refine, round_of
from flowgauge.domain.buffer import uris_by_name
from flowgauge.domain.errors import UserError
from flowgauge.domain.even_spacing import evenly_spaced
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.ports import Buffered
from flowgauge.domain.software import software
from flowgauge.domain.trace import AdaptationTrace, Round, Step
from flowgauge.models.adaptable import Ensemble, require_adaptable
from flowgauge.models.detector import Embedding
from flowgauge.training.fit import map_scale, ranges_of
from flowgauge.training.gauge import Gauge, score_by_each
from flowgauge.training.manifest import Manifest
from flowgauge.training.outliers import Suspicion, suspect
from flowgauge.training.snapshot import save
from flowgauge.training.threshold_check import Shift, shift
from flowgauge.training.thresholds import Calibration, Threshold
from flowgauge.training.training_set import Embedder, probes_of
from flowgauge.vision.augmentation import View
from flowgauge.vision.flat_field import Illumination


class LightCorrection(StrEnum):
    """`first`: what else has changed is adapted to where correcting the light is not enough. `always`: it is adapted to
    in any case. `off`: images stay as they are.
    """

    FIRST = "first"
    ALWAYS = "always"
    OFF = "off"


class AdaptSettings(FrozenModel):
    """`recent` is the share of the buffer, from its newer half, that does not train: the gate tests on it."""

    recent: float = Field(0.2, gt=0, le=0.25)
    light: LightCorrection = LightCorrection.FIRST
    refinement: RefinementSettings = RefinementSettings()
    gate: GateSettings = GateSettings()


def adapt(given: AdaptationInput, settings: AdaptSettings | None = None) -> AdaptationOutcome:
    """A candidate that started at the anchor, learned from what is unsuspected in the buffer, and met the gate.

    Neither gauge is touched; same input, same outcome. Raises `UserError` for a detector that cannot be adapted, or a
    buffer that is too small to be split.
    """
    settings = settings or AdaptSettings()
    assert isinstance(given.anchor, Gauge), "made by flowgauge.training.snapshot.load"
    assert isinstance(given.parent, Gauge), "made by flowgauge.training.snapshot.load"
    adaptation = _Adaptation(given, given.anchor, given.parent, settings)
    candidate, trace = adaptation.candidate()
    copies = settings.gate.anomalies_per_image
    recent = Recent(candidate, given.parent, adaptation.hold_out, given.seed, copies, adaptation.progress)
    change = Change(adaptation.change, given.by_person)
    gate = check_candidate(recent, trace, change, given.golden_good, given.golden_defect, settings.gate)
    facts = candidate.manifest.model_copy(update={"gate": gate})
    snapshot = save(Gauge(facts, candidate.backbone, candidate.detector, candidate.probes))
    return AdaptationOutcome(manifest=snapshot.manifest, weights=snapshot.weights, trace=trace, gate=gate)


_NEARER = 0.5
"""How far the buffer's lower quartile may still lie from that of the calibration, as a share of how far it lies without
the correction. Larger, and what chance does to the light of a few dozen images is corrected on a line that has not
changed; smaller, and a light that changed together with something else is left as it is."""

_MOST_SCORED = 128
"""Parts, at regular steps over the buffer, by whose scores it is decided whether the line, or its light alone, has
changed. More, and scoring takes most of the time of an adaptation to a full buffer; fewer, and chance explains more."""

_PAINTS_APART = 1_000_003
"""Between the seeds of what trains the head and of what the gate paints: it asks about defects that trained nobody."""


def part_of(entry: Buffered) -> str:
    """The part that an image shows: all of its images train, or none does."""
    return entry.subject or entry.image_id


def _hold_out_parts(parts: Sequence[str], share: float) -> set[str]:
    """Parts of the newer half, at regular steps, that make up `share` of all: what tests is as new as what trains."""
    newer = list(dict.fromkeys(parts[len(parts) // 2 :]))
    count = min(round(share * len(dict.fromkeys(parts))), len(newer))
    return {newer[(2 * rank + 1) * len(newer) // (2 * count)] for rank in range(count)}


class _Adaptation:
    """The buffer, split: of its newer half, parts taken at regular steps are the gate's; all others train. Images whose
    object the preprocessing doubts do neither.
    """

    def __init__(self, given: AdaptationInput, anchor: Gauge, parent: Gauge, settings: AdaptSettings) -> None:
        require_adaptable(anchor.detector)
        self._given = given
        self._anchor = anchor
        self._parent = parent
        # a person may have set the parent's since the fit
        self._promised = parent.manifest.threshold.promised
        self._settings = settings
        clear = [item for item in given.buffered if not item[1].unclear_reasons]
        held_back = _hold_out_parts([part_of(entry) for entry, _ in clear], settings.recent)
        self.training = [item for item in clear if part_of(item[0]) not in held_back]
        hold_out = [crop.pixels for entry, crop in clear if part_of(entry) in held_back]
        if not hold_out or len(self.training) < 2 * settings.refinement.folds:
            counts = f"{len(clear)} of {len(given.buffered)} buffered images can train or test"
            raise UserError(f"{counts}, too few to adapt.", "Let more images pass.")
        self.hold_out = np.stack(hold_out)
        self._crops = np.stack([crop.pixels for _, crop in self.training])
        one_of_each_part = list({part_of(item[0]): item for item in reversed(clear)}.values())
        self._scored = [one_of_each_part[row] for row in evenly_spaced(len(one_of_each_part), _MOST_SCORED)]
        self._scored_crops = np.stack([crop.pixels for _, crop in self._scored])
        gauges = [anchor] if parent is anchor else [anchor, parent]
        scores = score_by_each(gauges, self._scored_crops, self.progress)
        self._anchors_scores, self._parents_scores = scores[0], scores[-1]

    @property
    def change(self) -> Shift:
        """What the parent's scores of what may train or test say of the line."""
        return self._shift(self._parent, self._parents_scores)

    def _shift(self, gauge: Gauge, scores: NDArray[np.float64]) -> Shift:
        return shift(gauge.manifest.threshold, scores, seed=self._given.seed)

    def candidate(self) -> tuple[Gauge, AdaptationTrace]:
        """The anchor behind a correction of the light, where that brings the line's scores much nearer to its own, and
        adapted where that is not enough.
        """
        if self._settings.light is LightCorrection.OFF:
            return self._adapted()
        anchor, facts = self._anchor, self._anchor.manifest
        self.progress("correcting the light", 0, 1)
        seen = Illumination.of(self._crops, cut=facts.preprocessing.blackens)
        lit = facts.model_copy(update={"flat_field": seen.correction_to(facts.illumination)})
        corrected = Gauge(lit, anchor.backbone, anchor.detector, anchor.probes)
        (scores,) = score_by_each([corrected], self._scored_crops, self.progress)
        wanted = np.quantile(facts.threshold.scores, 0.25)
        before, after = (abs(float(np.quantile(found, 0.25) - wanted)) for found in (self._anchors_scores, scores))
        if after >= _NEARER * before:
            return self._adapted()
        self._anchor = corrected
        enough = self._settings.light is LightCorrection.FIRST and not self._shift(corrected, scores).changed
        return self._corrected(scores) if enough else self._adapted()

    def _corrected(self, known: NDArray[np.float64]) -> tuple[Gauge, AdaptationTrace]:
        """The anchor behind the correction of the light, and no more. Its scores of `_scored` are `known`."""
        anchor, facts = self._anchor, self._anchor.manifest
        by_uri = {entry.image_uri: score for (entry, _), score in zip(self._scored, known, strict=True)}
        uris = [entry.image_uri for entry, _ in self.training]
        rest = [number for number, uri in enumerate(uris) if uri not in by_uri]
        if rest:
            (found,) = score_by_each([anchor], self._crops[rest], self.progress)
            by_uri |= {uris[number]: score for number, score in zip(rest, found, strict=True)}
        scores = np.array([by_uri[uri] for uri in uris])
        rejection, threshold = self._settings.refinement.rejection, facts.threshold
        suspicion = suspect(scores, rejection, threshold.clean_half_k)
        rounds = (round_of(suspicion, rejection, self._image_ids),)
        trace = self._trace(suspicion, rounds, (), light_alone=True)
        if self._promised not in (None, threshold.promised):
            threshold = threshold.repromised(self._promised)
        manifest = self._manifest(suspicion, trace).model_copy(update={"threshold": threshold})
        return Gauge(manifest, anchor.backbone, anchor.detector, probes_of(self._crops[suspicion.kept])), trace

    def _adapted(self) -> tuple[Gauge, AdaptationTrace]:
        groups = [part_of(entry) for entry, _ in self.training]
        anchor, folds = require_adaptable(self._anchor.detector), self._settings.refinement.folds
        refined = refine(
            anchor,
            self._data(),
            self._image_ids,
            Division.of(groups, anchor.member_count if isinstance(anchor, Ensemble) else folds),
            self._settings.refinement,
            default_k=self._anchor.manifest.threshold.clean_half_k,
            seed=self._given.seed,
            progress=self.progress,
        )
        kept = refined.suspicion.kept
        trace = self._trace(refined.suspicion, refined.rounds, refined.steps, light_alone=False)
        manifest = self._manifest(refined.suspicion, trace).model_copy(
            update={
                "threshold": self._threshold(refined, groups),
                "calibration": Calibration.of(refined.scores[kept]),
                "map_scale": map_scale(refined.maps[torch.from_numpy(kept)]),
            }
        )
        return Gauge(manifest, self._anchor.backbone, refined.detector, probes_of(self._crops[kept])), trace

    def _trace(
        self, suspicion: Suspicion, rounds: tuple[Round, ...], steps: tuple[Step, ...], *, light_alone: bool
    ) -> AdaptationTrace:
        return AdaptationTrace(
            buffered=len(self._given.buffered),
            trained=int(suspicion.kept.sum()),
            light_alone=light_alone,
            rounds=rounds,
            steps=steps,
        )

    @property
    def _image_ids(self) -> list[str]:
        by_name = uris_by_name([entry for entry, _ in self._given.buffered])
        names = {uri: name for name, uri in by_name.items()}
        return [names[entry.image_uri] for entry, _ in self.training]

    def progress(self, what: str, done: int, total: int) -> None:
        self._given.progress(what, done / total)

    def _data(self) -> AdaptationData:
        anchor = self._anchor
        embedder = Embedder(anchor.backbone, anchor.manifest.preprocessing, anchor.detector)
        crops = anchor.corrected(self._crops)
        views, further = anchor.detector.views, tuple[View, ...]()
        if isinstance(anchor.detector, Ensemble):
            further = tuple(view for view in anchor.detector.training_views(len(crops)) if view not in views)

        def synthetic(numbers: Tensor) -> tuple[Embedding, Tensor]:
            seed = self._given.seed + _PAINTS_APART
            return embedder.synthetic(crops[numbers.numpy()], seed, self.progress, "synthetic anomalies")

        seen, mirrored = (
            tuple(embedder.embed(crops, self.progress, view) for view in some) for some in (views, further)
        )
        return AdaptationData(seen, synthetic, mirrored)

    def _manifest(self, suspicion: Suspicion, trace: AdaptationTrace) -> Manifest:
        """The anchor's behind the correction, with what this adaptation is and what of the buffer was kept."""
        given, facts = self._given, self._anchor.manifest
        kept = [crop for (_, crop), keep in zip(self.training, suspicion.kept, strict=True) if keep]
        return facts.model_copy(
            update={
                "version": given.version,
                "parent": given.parent.version,
                "created_at": given.at,
                "software": software(),
                "seed": given.seed,
                "images": len(kept),
                "ranges": ranges_of([crop.statistics for crop in kept]),
                "fit_ranges": None if facts.flat_field is None else facts.ranges,
                "adaptation": trace,
            }
        )

    def _threshold(self, refined: Refined, groups: list[str]) -> Threshold:
        """On the cross-fitted scores of the kept images, with what the anchor's clean scores say of the tail that was
        cut.

        Suspects lie beyond a limit, so leaving them out moves the quartiles of good scores little, while with them in,
        a fifth of defects lifts the threshold by as much as the good scores' deviation.

        The promise is the parent's: an adaptation does not take back what a person has set.
        """
        kept = refined.suspicion.kept
        clean = self._anchor.manifest.threshold.model_copy(update={"promised": self._promised})
        return clean.for_adapted_gauge(
            refined.scores[kept],
            refined.folds[kept],
            rescaled=isinstance(self._anchor.detector, Ensemble),
            groups=[part for part, keep in zip(groups, kept, strict=True) if keep],
            seed=self._given.seed,
        )
