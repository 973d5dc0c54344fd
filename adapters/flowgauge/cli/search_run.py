"""The search for alpha, beta and k as the command line asks for it. Loads torch: imported when the command runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from flowgauge.cli.model import Model, torch_device
from flowgauge.cli.options import Device
from flowgauge.cli.output import write_whole
from flowgauge.cli.progress import Report
from flowgauge.cli.resumption import left_in
from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import FrozenModel
from flowgauge.meta.search import DEFAULTS, Choice, SearchSettings, SearchSetup, judged_line
from flowgauge.meta.tasks import LineSize, procedural_line
from flowgauge.models.headflow.detector import HeadFlow
from flowgauge.training.fit import embedder_for

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

TRAINED_ON = ("brushed-metal", "turned-washer", "ceramic-tile", "wood-veneer")
JUDGED = ("cast-iron", "woven-fabric", "leather")
"""Materials that no task of the outer loop shows."""
_HELD_OUT_MATERIALS = 100
"""The seed of the judged lines."""
_RANGES = {"alpha": (0.02, 0.5), "beta": (1e-4, 1e-2), "k": (2.0, 12.0)}
_AT_RANDOM = 8
"""So many evaluations, the defaults among them, before the Gaussian process has a say."""


class Evaluation(FrozenModel):
    """`image_aurocs` at each of the search's levels; `seconds` that it took."""

    choice: Choice
    image_aurocs: tuple[float, ...]
    seconds: float

    @property
    def worst(self) -> float:
        return min(self.image_aurocs)


@dataclass(frozen=True)
class MetaSearch:
    model: Model
    settings: SearchSettings
    device: Device
    report: Report

    def run(self, evaluations: int, out: Path) -> list[Evaluation]:
        """All that `out` does not tell of already; it is written after each. The defaults are the first."""
        known, sampler = self._earlier(out), _Sampler(self.settings.seed)
        search_setup = None if len(known) >= evaluations else self._search_setup()
        while search_setup is not None and len(known) < evaluations:
            self.report("evaluating choices", len(known), evaluations)
            choice = sampler.next(known)
            begun = perf_counter()
            aurocs = search_setup.aurocs(choice, self.report)
            known.append(Evaluation(choice=choice, image_aurocs=aurocs, seconds=perf_counter() - begun))
            write_whole(out, json.dumps(self.document(known), indent=2))
        self.report("evaluating choices", len(known), evaluations)
        return known

    def document(self, known: Sequence[Evaluation]) -> dict[str, Any]:
        return {
            "key": self._key,
            "settings": self.settings.model_dump(mode="json"),
            "best": best(known).choice.model_dump(mode="json"),
            "evaluations": [each.model_dump(mode="json") for each in known],
        }

    def _search_setup(self) -> SearchSetup:
        embedder = embedder_for(self._fit_settings, torch_device(self.device))
        assert isinstance(embedder.detector, HeadFlow), "the default, which Model is asked for"
        trained, judged = [], []
        for done, material in enumerate(TRAINED_ON):
            self.report("making lines", done, len(TRAINED_ON) + len(JUDGED))
            trained.append(procedural_line(material, self.settings.seed, embedder, LineSize(), _silent))
        for done, material in enumerate(JUDGED, start=len(TRAINED_ON)):
            self.report("making lines", done, len(TRAINED_ON) + len(JUDGED))
            judged.append(judged_line(material, self.settings.seed + _HELD_OUT_MATERIALS, embedder, _silent))
        return SearchSetup(embedder.detector, trained, judged, self.settings)

    @property
    def _fit_settings(self) -> Any:
        settings = self.model.settings()
        return settings.model_copy(update={"config": settings.config | {"pooled_weight": 0}})

    @property
    def _key(self) -> str:
        """Changes with everything that a figure depends on."""
        inputs = f"{version('flowgauge')} {version('torch')} {TRAINED_ON} {JUDGED} {self.settings.model_dump_json()}"
        return sha256(f"{inputs} {self._fit_settings.model_dump_json()}".encode()).hexdigest()

    def _earlier(self, out: Path) -> list[Evaluation]:
        def read(document: dict[str, Any]) -> list[Evaluation]:
            return [Evaluation.model_validate(each, strict=False) for each in document["evaluations"]]

        return left_in(out, lambda: self._key, read, "this search", "--out") or []


def best(known: Sequence[Evaluation]) -> Evaluation:
    """The first of those that are best where they are worst."""
    return max(known, key=lambda each: each.worst)


class _Sampler:
    """Optuna's Gaussian process, made anew from what is known before each choice: so it does not matter when a search
    was interrupted.
    """

    def __init__(self, seed: int) -> None:
        """Raises `UserError` where Optuna is not installed."""
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "The search needs Optuna, which is not installed.", "Run: pip install 'flowgauge[search]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._seed = seed
        distribution = optuna.distributions.FloatDistribution
        self._ranges: dict[str, BaseDistribution] = {
            name: distribution(low, high, log=True) for name, (low, high) in _RANGES.items()
        }

    def next(self, known: Sequence[Evaluation]) -> Choice:
        if not known:
            return DEFAULTS
        study = self._study(known)
        return Choice(**study.ask(self._ranges).params)

    def _study(self, known: Sequence[Evaluation]) -> "Study":
        seed = 1000 * self._seed + len(known)
        random = self._optuna.samplers.RandomSampler(seed=seed)
        sampler = random if len(known) < _AT_RANDOM else self._optuna.samplers.GPSampler(seed=seed, n_startup_trials=0)
        study = self._optuna.create_study(direction="maximize", sampler=sampler)
        for each in known:
            study.add_trial(
                self._optuna.trial.create_trial(
                    params=each.choice.model_dump(), distributions=self._ranges, value=each.worst
                )
            )
        return study


def table(known: Sequence[Evaluation], levels: Sequence[float]) -> str:
    """Markdown, in the order of the evaluations; the best is bold."""
    head = ["", "alpha", "beta", "k", "worst", *(f"{100 * level:g} %" for level in levels)]
    lines = [_row(head), _row(["---"] * len(head))]
    for number, each in enumerate(known):
        choice, mark = each.choice, "**" if each is best(known) else ""
        figures = [f"{mark}{value:.3f}{mark}" for value in (each.worst, *each.image_aurocs)]
        lines.append(_row([f"{number}", f"{choice.alpha:.3g}", f"{choice.beta:.2g}", f"{choice.k:.3g}", *figures]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _silent(what: str, done: int, total: int) -> None:
    """A line is one step."""
