"""`flowgauge meta-search`: which alpha, beta and k to ship."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from flowgauge.cli import options
from flowgauge.cli.model import Model, torch_device
from flowgauge.cli.output import say, show
from flowgauge.cli.progress import bars
from flowgauge.cli.results import check_writable, items_left_in, write_results
from flowgauge.domain.errors import UserError, install
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import Progress, reported, silent
from flowgauge.meta.search import DEFAULTS, Choice, SearchSettings, SearchSetup, validation_line
from flowgauge.meta.tasks import LineSize, procedural_line
from flowgauge.models.headflow.detector import HeadFlow
from flowgauge.reports.plots import search_svg
from flowgauge.training.fit import FitSettings, embedder_for

# images of half the default's side: a fourth of the work, and lengths of steps have no pixels in them
SIZE = 128
TRAINED_ON = ("brushed-metal", "turned-washer", "ceramic-tile", "wood-veneer")
# materials that no task of the outer loop shows
VALIDATED_ON = ("cast-iron", "woven-fabric", "leather")
# added to the seed of the lines that test, so that nothing is drawn for them as for the lines that train
HELD_OUT_SEEDS = 100
# lengths of inner and outer steps, and the limit of suspicion: on a logarithmic scale, well below and above the
# defaults; where the best choice lies at an end of its range, that is too narrow
RANGES = {"alpha": (0.02, 0.5), "beta": (1e-4, 1e-2), "k": (2.0, 12.0)}
# so many evaluations, the defaults among them, before the Gaussian process has a say: fewer tell it of too small a part
# of the ranges, more are wasted on chance
AT_RANDOM = 8


def meta_search(
    out: Annotated[Path, typer.Option(help="Write every evaluation there, as JSON; a second run goes on.")],
    evaluations: Annotated[int, typer.Option(min=1, help="Choices to compare; the defaults are the first.")] = 28,
    turns: Annotated[int, typer.Option(min=1, help="Turns of the outer loop for each choice.")] = 40,
    seed: Annotated[int, typer.Option(help="Same seed, same lines and same choices.")] = 0,
    table: Annotated[Path | None, typer.Option(help="Write the evaluations there, as Markdown.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them there, as an SVG.")] = None,
    device: options.DeviceOption = options.Device.AUTO,
) -> None:
    """Search for the step sizes of the inner and outer loop, and for the outlier threshold.

    Each choice of alpha, beta and k meta-learns for a short while on four
    procedural materials and adapts by it to lines of three others, with 0, 20
    and 50 % of unlabelled defects. It is rated by its worst image
    AUROC where that is worst. Optuna's Gaussian process proposes the next one
    (extra search); one takes a minute or two.

    \b
    flowgauge meta-search --out search.json --plot search.svg
    """
    check_writable(out, table, plot)
    settings = SearchSettings(turns=turns, seed=seed)
    model = Model(detector=HeadFlow.name, size=SIZE)
    with bars() as report:
        found = MetaSearch(model, settings, device, report).run(evaluations, out)
    if table is not None:
        table.write_text(markdown(found, settings.levels))
    if plot is not None:
        plot.write_text(search_svg([each.choice for each in found], [each.worst for each in found]))
    choices = {"best": best(found), "defaults": found[0]}
    show(
        ("", "alpha", "beta", "k", "worst_image_auroc"),
        ((name, *each.choice.model_dump().values(), each.worst) for name, each in choices.items()),
    )
    say(f"wrote {', '.join(str(path) for path in (out, table, plot) if path is not None)}")


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
    device: options.Device
    report: Progress

    def run(self, evaluations: int, out: Path) -> list[Evaluation]:
        """Evaluate as many choices as are missing in `out`, which is written after each. The defaults are the first."""
        known = items_left_in(out, lambda: self._key, Evaluation, "evaluations", "this search", "--out")
        optuna = require_optuna()
        search_setup = None if len(known) >= evaluations else self._search_setup()
        while search_setup is not None and len(known) < evaluations:
            self.report("evaluating choices", len(known), evaluations)
            choice = proposed(optuna, self.settings.seed, known)
            begun = perf_counter()
            aurocs = search_setup.aurocs(choice, self.report)
            known.append(Evaluation(choice=choice, image_aurocs=aurocs, seconds=perf_counter() - begun))
            write_results(out, self.document(known))
        self.report("evaluating choices", len(known), evaluations)
        return known

    def document(self, known: Sequence[Evaluation]) -> dict[str, Any]:
        return {
            "key": self._key,
            "settings": self.settings,
            "best": best(known).choice,
            "evaluations": known,
        }

    def _search_setup(self) -> SearchSetup:
        embedder = embedder_for(self._fit_settings, torch_device(self.device))
        assert isinstance(embedder.detector, HeadFlow), "the default, which Model is asked for"
        seed = self.settings.seed
        trained, validation = [], []
        for material in reported((*TRAINED_ON, *VALIDATED_ON), "making lines", self.report):
            if material in TRAINED_ON:
                trained.append(procedural_line(material, seed, embedder, LineSize(), silent))
            else:
                validation.append(validation_line(material, seed + HELD_OUT_SEEDS, embedder, silent))
        return SearchSetup(embedder.detector, trained, validation, self.settings)

    @property
    def _fit_settings(self) -> FitSettings:
        settings = self.model.settings()
        return settings.model_copy(update={"config": settings.config | {"pooled_weight": 0}})

    @property
    def _key(self) -> str:
        """Changes with everything that a figure depends on."""
        inputs = (
            f"{version('flowgauge')} {version('torch')} {TRAINED_ON} {VALIDATED_ON} {self.settings.model_dump_json()}"
        )
        return sha256(f"{inputs} {self._fit_settings.model_dump_json()}".encode()).hexdigest()


def best(known: Sequence[Evaluation]) -> Evaluation:
    """The first of those that are best where they are worst."""
    return max(known, key=lambda each: each.worst)


def require_optuna() -> Any:
    """The library. Raises `UserError` where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("The search needs Optuna, which is not installed.", install("search")) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def proposed(optuna: Any, seed: int, known: Sequence[Evaluation]) -> Choice:
    """By Optuna's Gaussian process, made anew from what is known, so that interruptions do not matter."""
    if not known:
        return DEFAULTS
    own = 1000 * seed + len(known)
    if len(known) < AT_RANDOM:
        sampler = optuna.samplers.RandomSampler(seed=own)
    else:
        sampler = optuna.samplers.GPSampler(seed=own, n_startup_trials=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    ranges = {name: optuna.distributions.FloatDistribution(*ends, log=True) for name, ends in RANGES.items()}
    for each in known:
        params = each.choice.model_dump()
        study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=each.worst))
    return Choice(**study.ask(ranges).params)


def markdown(known: Sequence[Evaluation], levels: Sequence[float]) -> str:
    """Markdown, in the order of the evaluations; the best is bold."""
    head = ["", "alpha", "beta", "k", "worst", *(f"{100 * level:g} %" for level in levels)]
    rows = [head, ["---"] * len(head)]
    for number, each in enumerate(known):
        choice, mark = each.choice, "**" if each is best(known) else ""
        figures = [f"{mark}{value:.3f}{mark}" for value in (each.worst, *each.image_aurocs)]
        rows.append([f"{number}", f"{choice.alpha:.3g}", f"{choice.beta:.2g}", f"{choice.k:.3g}", *figures])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
