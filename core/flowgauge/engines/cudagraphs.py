"""NVIDIA GPUs: the backbone in bfloat16, and each network's kernels launched as one CUDA graph.

At a few images a pass, launching some thousand small kernels one by one takes longer than running them.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowgauge.engines.choice import Network, Scoring
from flowgauge.models.backbones import Backbone
from flowgauge.training.gauge import Gauge

# calls before a graph is recorded: in the first ones libraries choose their algorithms and take their memory
_WARMING = 3
# held from the copy of the inputs to that of the outputs: a gauge is checked beside scoring on the backbone they share
_ALONE = threading.Lock()


def variants(gauge: Gauge, folder: Path | None) -> tuple[Network, Iterator[Backbone]]:
    """The detector of `gauge`, and its backbone in bfloat16 and in single precision. Nothing is kept in `folder`."""
    backbones = (_backbone(gauge.backbone, dtype) for dtype in (torch.bfloat16, torch.float32))
    return _Graphs(Scoring(gauge.detector)), backbones


@lru_cache(maxsize=8)
def _backbone(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    return backbone.with_net(_Net(backbone.net, dtype))


class _Net(nn.Module):
    """A backbone's network in another precision, its features in single precision again."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = deepcopy(net).to(dtype)
        self.dtype = dtype
        self._graphs = _Graphs(self._features)

    def _features(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        images = images_BCHW.to(self.dtype, memory_format=torch.channels_last)
        return tuple(feature.float() for feature in self.net(images))

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        return self._graphs(images_BCHW)


class _Graphs:
    """A function of tensors on the GPU, recorded once for each shape of its inputs. Safe to call from any thread."""

    def __init__(self, function: Callable[..., Sequence[Tensor]]) -> None:
        self._function = function
        self._recorded: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Sequence[Tensor]]] = {}

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in inputs)
        with _ALONE:
            if key not in self._recorded:
                self._recorded[key] = self._record(inputs)
            graph, held, outputs = self._recorded[key]
            for own, given in zip(held, inputs, strict=True):
                own.copy_(given)
            graph.replay()
            # the graph's own memory is overwritten by its next replay
            return [output.clone() for output in outputs]

    def _record(self, inputs: Sequence[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Sequence[Tensor]]:
        held = [tensor.clone() for tensor in inputs]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARMING):
                self._function(*held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # other threads go on scoring: what they ask of the GPU must not spoil the recording
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = self._function(*held)
        return graph, held, outputs
