"""Meta-training as the command line asks for it. Loads torch: imported when the command runs and not before."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from time import perf_counter

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from flowgauge.cli.model import Model, torch_device
from flowgauge.cli.opened import opened
from flowgauge.cli.options import Device
from flowgauge.cli.progress import Report
from flowgauge.domain.errors import UserError
from flowgauge.meta.initialization import Card, MetaInit, write
from flowgauge.meta.outer_loop import MetaState, MetaTraining, Turn, meta_train, parameters_of
from flowgauge.meta.tasks import LineSize, MetaLine, dataset_line, procedural_line
from flowgauge.models.headflow.detector import HeadFlow
from flowgauge.synthetic.procedural import MATERIALS
from flowgauge.training.fit import embedder_for
from flowgauge.training.training_set import Embedder

_PROCEDURAL = "procedural"
_SIZE = LineSize()
_KEEP_EVERY = 50  # turns between two states on disk
_INIT, _KEY, _TURNS, _SECONDS = "init.", "key", "turns", "seconds"


@dataclass(frozen=True)
class MetaRun:
    sources: tuple[str, ...]
    lines_each: int
    model: Model
    training: MetaTraining
    device: Device
    report: Report

    def run(self, out: Path) -> tuple[MetaInit, list[Turn]]:
        """Also writes `out`. What was done is kept beside it until then, so that an interrupted run goes on."""
        embedder = embedder_for(self.model.settings(), torch_device(self.device))
        detector = embedder.detector
        assert isinstance(detector, HeadFlow), "the default, which Model is asked for"
        lines = list(self._lines(embedder))
        kept = Kept(out.with_name(f".{out.name}.state"), self._key(embedder, lines))
        state, before = kept.state() or (MetaState(parameters_of(detector)), 0.0)
        begun = perf_counter()

        def after(now: MetaState) -> None:
            self.report("outer loop", len(now.turns), self.training.turns)
            if len(now.turns) % _KEEP_EVERY == 0:
                kept.keep(now, before + perf_counter() - begun)

        meta_train(detector, lines, self.training, state, after)
        seconds = before + perf_counter() - begun
        init = MetaInit(self._card(embedder, lines, state, seconds), state.init)
        write(init, out)
        kept.path.unlink(missing_ok=True)
        return init, state.turns

    def _lines(self, embedder: Embedder) -> Iterator[MetaLine]:
        sources = [(material, seed) for material in self._materials() for seed in range(self.lines_each)]
        folders = [opened(Path(source)) for source in self.sources if not source.startswith(_PROCEDURAL)]
        total = len(sources) + len(folders)
        for done, (material, seed) in enumerate(sources):
            self.report("making lines", done, total)
            yield procedural_line(material, seed, embedder, _SIZE, _silent)
        for done, folder in enumerate(folders, start=len(sources)):
            self.report("making lines", done, total)
            yield dataset_line(folder, embedder, _SIZE, done, _silent)
        self.report("making lines", total, total)

    def _materials(self) -> list[str]:
        """Raises `UserError` for one that there is not."""
        named = [source for source in self.sources if source.startswith(_PROCEDURAL)]
        if _PROCEDURAL in named:
            return list(MATERIALS)
        materials = [source.removeprefix(f"{_PROCEDURAL}:") for source in named]
        if unknown := [material for material in materials if material not in MATERIALS]:
            raise UserError(f"There is no material {unknown[0]!r}.", f"Use one of: {', '.join(MATERIALS)}.")
        return materials

    def _key(self, embedder: Embedder, lines: list[MetaLine]) -> str:
        """Changes with everything that the parameters depend on."""
        digest = sha256(self.training.model_dump_json().encode())
        digest.update(f"{version('flowgauge')} {version('torch')} {embedder.backbone.spec.sha256}".encode())
        for line in lines:
            digest.update(line.name.encode() + line.training_set.mask.numpy().tobytes() + line.mask.numpy().tobytes())
        return digest.hexdigest()

    def _card(self, embedder: Embedder, lines: list[MetaLine], state: MetaState, seconds: float) -> Card:
        last = state.turns[-max(1, len(state.turns) // 10) :]
        return Card(
            detector=HeadFlow.name,
            config=embedder.detector.config.model_dump(mode="json"),
            backbone=embedder.backbone.spec,
            size=embedder.preprocessing.size,
            lines=tuple(line.name for line in lines),
            training=self.training,
            head_loss=fmean(turn.head_loss for turn in last),
            flow_loss=fmean(turn.flow_loss for turn in last),
            seconds=seconds,
            software=f"flowgauge {version('flowgauge')}, torch {version('torch')}",
        )


@dataclass(frozen=True)
class Kept:
    """The state of a run that may be interrupted; one of another run is as good as none."""

    path: Path
    key: str

    def keep(self, state: MetaState, seconds: float) -> None:
        tensors = {_INIT + name: value for name, value in state.init.items()} | state.moments
        turns = json.dumps([turn.model_dump() for turn in state.turns])
        beside = self.path.with_name(f"{self.path.name}.part")
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, beside, metadata={_KEY: self.key, _TURNS: turns, _SECONDS: f"{seconds}"})
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
        if facts.get(_KEY) != self.key:
            return None
        init = {name.removeprefix(_INIT): value for name, value in tensors.items() if name.startswith(_INIT)}
        turns = TypeAdapter(list[Turn]).validate_json(facts[_TURNS])
        return MetaState(init, turns, tensors), float(facts[_SECONDS])


def _silent(what: str, done: int, total: int) -> None:
    """A line is one step."""
