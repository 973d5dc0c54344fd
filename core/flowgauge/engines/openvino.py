"""OpenVINO on the CPU: the backbone in bfloat16 where the CPU has it, else in single precision, as the detector."""

import hashlib
import json
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from torch import Tensor, nn

from flowgauge.domain.software import software
from flowgauge.engines.choice import Network, Scoring
from flowgauge.models.backbones import Backbone
from flowgauge.training.gauge import Gauge

log = logging.getLogger(__name__)

_DEVICE = "CPU"
# Threads of one image: its small layers gain little from more. Further cores score further images of a batch.
_THREADS_OF_AN_IMAGE = 4
# Compiled networks that are kept on disk, one a gauge and at most two a backbone, of 6 MB each at 256 pixels. With
# fewer than a worker has lines, every start compiles again; with more, those of gauges long replaced fill the disk.
_KEPT = 128


def variants(gauge: Gauge, folder: Path | None) -> tuple[Network, Iterator[Backbone]]:
    """The detector of `gauge`, compiled, and its backbone, the fastest first: in bfloat16, and in single precision."""
    precisions = ["f32"]
    if "BF16" in _core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"):
        precisions.insert(0, "bf16")
    facts = gauge.manifest
    name = f"detector {facts.weights_sha256} {facts.detector.model_dump_json()}"
    backbones = (_backbone(gauge.backbone, precision, folder) for precision in precisions)
    return _Network(Scoring(gauge.detector), "f32", name, folder), backbones


@lru_cache(maxsize=8)
def _backbone(backbone: Backbone, precision: str, folder: Path | None) -> Backbone:
    """One for all gauges of it, so that images of many lines pass it together."""
    return backbone.with_net(_Network(backbone.net, precision, f"backbone {backbone.spec.sha256}", folder))


@cache
def _core() -> ov.Core:
    return ov.Core()


class _Network(nn.Module):
    """Compiled for one image, with as many images at a time as there are cores for.

    Larger batches gain nothing on a CPU: one image's activations stay in its cache. Safe to call from any thread.
    """

    def __init__(self, module: nn.Module, precision: str, name: str, folder: Path | None) -> None:
        super().__init__()
        threads = torch.get_num_threads()
        self._folder = folder
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": max(1, threads // _THREADS_OF_AN_IMAGE),
            "ENABLE_HYPER_THREADING": True,
        }
        self._name = name
        # hidden from torch, for which this is a network on the CPU without parameters of its own
        self._modules_of = (module,)
        self._nothing = nn.Parameter(torch.empty(0), requires_grad=False)
        self._queues: dict[tuple[tuple[int, ...], ...], ov.AsyncInferQueue] = {}
        self._lock = threading.Lock()

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        shapes = tuple((1, *tensor.shape[1:]) for tensor in inputs)
        with self._lock:
            if shapes not in self._queues:
                self._queues[shapes] = ov.AsyncInferQueue(self._compiled(shapes))
            queue, found = self._queues[shapes], dict[int, list[Tensor]]()

            def keep(request: ov.InferRequest, number: int) -> None:
                found[number] = [torch.from_numpy(output.data.copy()) for output in request.output_tensors]

            queue.set_callback(keep)
            for number in range(len(inputs[0])):
                queue.start_async([tensor[number : number + 1].contiguous().numpy() for tensor in inputs], number)
            queue.wait_all()
        return [torch.cat(parts) for parts in zip(*(found[number] for number in sorted(found)), strict=True)]

    def _compiled(self, shapes: tuple[tuple[int, ...], ...]) -> ov.CompiledModel:
        """From the cache, else made and put there. A file that does not load is made again."""
        device = _core().get_property(_DEVICE, "FULL_DEVICE_NAME")
        # of our own version too: it may score otherwise by the same weights
        identity = json.dumps([self._name, shapes, self._options, device, ov.get_version(), software()])
        kept = self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.blob" if self._folder else None
        if kept is not None and kept.is_file():
            try:
                model = _core().import_model(kept.read_bytes(), _DEVICE, self._options)
            except (OSError, RuntimeError) as error:
                log.warning("%s is damaged, so it is compiled again: %s", kept, error)
            else:
                with suppress(OSError):  # a folder that is only for reading
                    kept.touch()
                return model
        model = _core().compile_model(_converted(self._modules_of[0], shapes), _DEVICE, self._options)
        if kept is not None:
            try:
                kept.parent.mkdir(parents=True, exist_ok=True)
                unfinished = kept.with_suffix(f".{os.getpid()}")
                unfinished.write_bytes(model.export_model().getvalue())
                unfinished.replace(kept)
                by_use = sorted(kept.parent.glob("*.blob"), key=lambda blob: blob.stat().st_mtime)
                for unused in by_use[:-_KEPT]:
                    unused.unlink(missing_ok=True)
            except OSError as error:
                log.warning("What was compiled cannot be kept in %s, so the next start compiles again: %s", kept, error)
        return model


def _converted(module: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> ov.Model:
    """By torch.export: a trace would lose what Python computes from shapes, and `beta` of a softplus."""
    example = tuple(torch.rand(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes)
    with warnings.catch_warnings(), torch.no_grad():
        # of both libraries, about one another's future
        warnings.simplefilter("ignore")
        return ov.convert_model(torch.export.export(module.eval(), example))
