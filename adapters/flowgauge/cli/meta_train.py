"""`flowgauge meta-train`: a meta-learned initialization, from many lines."""

import json
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Annotated

import typer
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from flowgauge.cli import options
from flowgauge.cli.features import opened
from flowgauge.cli.model import Model, torch_device
from flowgauge.cli.output import cell, emit, say
from flowgauge.cli.progress import bars
from flowgauge.cli.results import check_writable
from flowgauge.domain.errors import UserError
from flowgauge.domain.progress import Progress, reported, silent
from flowgauge.evaluation.datasets import Dataset
from flowgauge.meta.initialization import Card, MetaInit, write
from flowgauge.meta.outer_loop import MetaLearner, MetaState, MetaTraining, Order, Turn, parameters_of
from flowgauge.meta.outer_loop import meta_train as run_outer_loop
from flowgauge.meta.tasks import LineSize, MetaLine, dataset_line, procedural_line
from flowgauge.models.featureflow.detector import FeatureFlow
from flowgauge.models.headflow.detector import HeadFlow
from flowgauge.reports.plots import losses_svg
from flowgauge.synthetic.procedural import MATERIALS
from flowgauge.training.fit import embedder_for
from flowgauge.training.training_set import Embedder

PROCEDURAL = "procedural"
LEARNERS = (FeatureFlow.name, HeadFlow.name)
# of the outer loop's steps, as decisions 38 and 11 were measured; others have not been tried for `featureflow`
BETA = {FeatureFlow.name: 2e-3, HeadFlow.name: 1e-3}
# turns between two states on disk: with more an interrupted run loses minutes, with fewer writing takes its time
KEEP_EVERY = 50
INIT, KEY, TURNS, SECONDS = "init.", "key", "turns", "seconds"


def meta_train(
    out: Annotated[Path, typer.Option(help="Where the parameters go.", metavar="FILE")],
    tasks: Annotated[
        list[str] | None,
        typer.Argument(help="procedural, procedural:MATERIAL, or folders in the MVTec AD layout with masks."),
    ] = None,
    detector: Annotated[
        str, typer.Option(help=f"Whose parameters: {' or '.join(LEARNERS)}.", metavar="NAME")
    ] = FeatureFlow.name,
    lines: Annotated[int, typer.Option(min=1, help="Procedural lines of each material.")] = 6,
    turns: Annotated[int, typer.Option(min=1, help="Turns of the outer loop, a task each.")] = 1200,
    second_order: Annotated[
        bool, typer.Option("--second-order", help="Gradients through the inner steps: slower, takes more memory.")
    ] = False,
    head_only: Annotated[
        bool, typer.Option("--head-only", help="headflow: the inner loop moves the head's last layer alone (ANIL).")
    ] = False,
    seed: Annotated[int, typer.Option(help="Same lines, settings and seed give the same parameters.")] = 0,
    weights: options.Weights = None,
    backbone: options.Backbone = None,
    size: options.Size = None,
    device: options.DeviceOption = options.Device.AUTO,
    plot: Annotated[Path | None, typer.Option(help="Draw the losses there, as an SVG.")] = None,
    json: options.Json = False,
) -> None:
    """Learn parameters from which a detector learns a new line in few steps.

    Every turn draws a line, takes some steps on a few of its images, defects
    among them that nobody has labelled, and moves the start to where these
    steps would have led further (MAML). Interrupted, it goes on when it is
    started again with the same words.

    \b
    flowgauge meta-train procedural --out init.safetensors
    flowgauge fit ./few --line press-3 --store ./plant --init init.safetensors
    flowgauge meta-train procedural ./mvtec/bottle \\
        --detector headflow --out head.safetensors
    flowgauge benchmark contamination ./tiles --splits noise.json \\
        --init head.safetensors --variant full
    """
    if detector not in LEARNERS:
        raise UserError(f"{detector} is not meta-trained.", f"Use one of: {', '.join(LEARNERS)}.")
    check_writable(out, plot)
    order = Order.SECOND if second_order else Order.FIRST
    settings = MetaTraining(turns=turns, beta=BETA[detector], seed=seed, order=order)
    if head_only:
        if detector != HeadFlow.name:
            raise UserError(f"{detector} has no head.", f"Leave --head-only out, or use --detector {HeadFlow.name}.")
        last_layer = settings.head.model_copy(update={"moving": ("leave.", "scale", "offset")})
        settings = settings.model_copy(update={"head": last_layer})
    model = Model(detector=detector, weights=weights, backbone=backbone, size=size)
    with bars() as report:
        run = MetaRun(tuple(tasks or [PROCEDURAL]), lines, model, settings, device, report)
        init, made = run.run(out)
    if plot is not None:
        plot.write_text(losses_svg(made))
    if json:
        emit(init.card)
        return
    say(f"wrote {out}: {len(init.card.lines)} lines, {turns} turns in {init.card.seconds:.0f} s")
    head = "" if init.card.head_loss is None else f"head {cell(init.card.head_loss)}, "
    say(f"mean loss after the inner loop, last tenth: {head}flow {cell(init.card.flow_loss)}")


@dataclass(frozen=True)
class MetaRun:
    sources: tuple[str, ...]
    lines_each: int
    model: Model
    training: MetaTraining
    device: options.Device
    report: Progress

    def run(self, out: Path) -> tuple[MetaInit, list[Turn]]:
        """Also writes `out`. What was done is kept beside it until then, so that an interrupted run goes on."""
        embedder = embedder_for(self.model.settings(), torch_device(self.device))
        detector = embedder.detector
        assert isinstance(detector, MetaLearner), "one of LEARNERS"
        lines = self._lines(embedder)
        if isinstance(detector, FeatureFlow):
            detector.measure_lines([line.training_set.plain().good for line in lines])
        kept = Kept(out.with_name(f".{out.name}.state"), self._key(embedder, lines))
        state, before = kept.state() or (MetaState(parameters_of(detector)), 0.0)
        begun = perf_counter()

        def after(now: MetaState) -> None:
            self.report("outer loop", len(now.turns), self.training.turns)
            if len(now.turns) % KEEP_EVERY == 0:
                kept.keep(now, before + perf_counter() - begun)

        run_outer_loop(detector, lines, self.training, state, after)
        seconds = before + perf_counter() - begun
        # single turns are noisy, for each is another line: the last tenth of them is averaged
        last = state.turns[-max(1, len(state.turns) // 10) :]
        heads = [turn.head_loss for turn in last if turn.head_loss is not None]
        card = Card(
            detector=detector.name,
            config=embedder.detector.config.model_dump(mode="json"),
            backbone=embedder.backbone.spec,
            size=embedder.preprocessing.size,
            lines=tuple(line.name for line in lines),
            training=self.training,
            head_loss=fmean(heads) if heads else None,
            flow_loss=fmean(turn.flow_loss for turn in last),
            seconds=seconds,
            software=f"flowgauge {version('flowgauge')}, torch {version('torch')}",
        )
        whole = detector.initialization(state.init) if isinstance(detector, FeatureFlow) else state.init
        init = MetaInit(card, whole)
        write(init, out)
        kept.path.unlink(missing_ok=True)
        return init, state.turns

    def _lines(self, embedder: Embedder) -> list[MetaLine]:
        """Raises `UserError` for a material that there is not."""
        named = [source for source in self.sources if source.startswith(PROCEDURAL)]
        materials = [source.removeprefix(f"{PROCEDURAL}:") for source in named]
        if PROCEDURAL in named:
            materials = list(MATERIALS)
        elif unknown := [material for material in materials if material not in MATERIALS]:
            raise UserError(f"There is no material {unknown[0]!r}.", f"Use one of: {', '.join(MATERIALS)}.")
        sources: list[tuple[str, int] | Dataset] = []
        sources += [(material, seed) for material in materials for seed in range(self.lines_each)]
        sources += [opened(Path(source)) for source in self.sources if source not in named]
        lines = []
        for done, source in enumerate(reported(sources, "making lines", self.report)):
            if isinstance(source, Dataset):
                lines.append(dataset_line(source, embedder, LineSize(), done, silent))
            else:
                lines.append(procedural_line(*source, embedder, LineSize(), silent))
        return lines

    def _key(self, embedder: Embedder, lines: list[MetaLine]) -> str:
        """Changes with everything that the parameters depend on."""
        detector = embedder.detector
        digest = sha256(f"{detector.name} {detector.config.model_dump_json()}".encode())
        digest.update(self.training.model_dump_json().encode())
        digest.update(f"{version('flowgauge')} {version('torch')} {embedder.backbone.spec.sha256}".encode())
        for line in lines:
            digest.update(line.name.encode() + line.training_set.mask.numpy().tobytes() + line.mask.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Kept:
    """The state of a run that may be interrupted; one of another run is as good as none."""

    path: Path
    key: str

    def keep(self, state: MetaState, seconds: float) -> None:
        tensors = {INIT + name: value for name, value in state.init.items()} | state.moments
        turns = json.dumps([turn.model_dump() for turn in state.turns])
        beside = self.path.with_name(f"{self.path.name}.part")
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, beside, metadata={KEY: self.key, TURNS: turns, SECONDS: f"{seconds}"})
        beside.replace(self.path)

    def state(self) -> tuple[MetaState, float] | None:
        """And the seconds that it took so far."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                facts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.path} cannot be read ({error}).", "Remove it to start anew.") from error
        if facts.get(KEY) != self.key:
            return None
        init = {name.removeprefix(INIT): value for name, value in tensors.items() if name.startswith(INIT)}
        turns = TypeAdapter(list[Turn]).validate_json(facts[TURNS])
        return MetaState(init, turns, tensors), float(facts[SECONDS])
