"""Measures how fast a gauge is: step by step, whole images, many lines, and the limits that the machine sets.

Works that are compared take turns, so that what else the machine does falls on all of them. Times are milliseconds of
a wall clock, memory is MiB. Speed depends on sizes and not on what was learned: a gauge of a handful of images will do.
"""

import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from flowgauge.domain.malloc import give_back_freed_memory
from flowgauge.domain.progress import Progress, reported, silent
from flowgauge.domain.software import software
from flowgauge.evaluation.speed_results import (
    TORCH,
    Case,
    ForwardSpeed,
    GpuJpeg,
    ImageFormat,
    ImageSize,
    LineCount,
    Machine,
    Plan,
    Quantiles,
    Roofline,
    SpeedResults,
    Subject,
)
from flowgauge.evaluation.stopwatch import Clock, Stopwatch, Work, rate
from flowgauge.synthetic.procedural import ProceduralLine
from flowgauge.training.gauge import BATCH, Gauge, predict_each
from flowgauge.vision.augmentation import normalised
from flowgauge.vision.decoding import Picture, statistics

MATERIAL = "brushed-metal"
"""Of the parts on the images: one with texture all over, as files of smooth parts decode faster."""

# Images of a case that take turns: with one, a decoder would read what lies in the processor's caches; with more, those
# of 12 megapixels take minutes to make.
_DIFFERENT = 2
# Levels of 255 either way, uniform. Without noise, files are a fraction of a camera's size and decode faster.
_NOISE = 3
_JPEG_QUALITY = 90
# zlib's quickest: higher levels save few bytes of noise and take seconds an image to write; they read as fast
_PNG_LEVEL = 1
# Side of the matrices that measure what the processor can do at best. Smaller ones do not fill it; larger ones take a
# CPU seconds, and no GPU more of its speed.
_MATMUL_SIDE = {"cpu": 1024, "cuda": 8192}
_MIB = 2**20


Make = Callable[[str], Gauge]
"""The gauge as the engine of that name runs it. Called again, it gives the gauge of another line: a detector of its own
on the same backbone.
"""

Forward = Callable[[Tensor], object]
"""Normalised images (B, 3, S, S) in the host's memory -> image scores (B,)."""


@dataclass(frozen=True)
class SpeedBenchmark:
    """`images` are those that the gauge was fitted to; `forwards` are measured beside it."""

    make: Make
    plan: Plan
    device: str
    clock: Clock
    images: int
    progress: Progress = silent
    forwards: Mapping[str, Forward] = field(default_factory=dict)

    def run(self) -> SpeedResults:
        machine = machine_of(self.device)
        gauges = {engine: self.make(engine) for engine in self.plan.engines}
        first = next(iter(gauges.values()))
        facts = first.manifest
        subject = Subject(
            detector=facts.detector.name,
            backbone=facts.backbone.name,
            side=facts.preprocessing.size,
            images=self.images,
        )
        cases, gpu_jpeg = self._cases(gauges)
        return SpeedResults(
            machine=machine,
            subject=subject,
            plan=self.plan,
            cases=cases,
            lines=tuple(found for engine in gauges for found in self._lines(engine)),
            rooflines=self._rooflines(gauges),
            gpu_jpeg=gpu_jpeg,
            forwards=self._forwards(first),
        )

    @property
    def _stopwatch(self) -> Stopwatch:
        return Stopwatch(self.clock, self.device)

    def _cases(self, gauges: Mapping[str, Gauge]) -> tuple[tuple[Case, ...], tuple[GpuJpeg, ...]]:
        plan, cases, gpu_jpeg = self.plan, list[Case](), list[GpuJpeg]()
        steps = [(size, format_) for size in plan.sizes for format_ in plan.formats]
        pixels: dict[ImageSize, list[NDArray[np.uint8]]] = {}
        for size, format_ in reported(steps, "sizes and formats", self.progress):
            if size not in pixels:
                pixels = {size: camera_images(size)}  # those of one size are in memory at a time
            files = [encoded(each, format_) for each in pixels[size]]
            cases += [self._case(engine, gauge, size, format_, files) for engine, gauge in gauges.items()]
            if self.device == "cuda" and format_ is ImageFormat.JPEG:
                gpu_jpeg.append(self._gpu_jpeg(size, files))
        return tuple(cases), tuple(gpu_jpeg)

    def _case(self, engine: str, gauge: Gauge, size: ImageSize, format_: ImageFormat, files: Sequence[bytes]) -> Case:
        preprocessing = gauge.manifest.preprocessing
        pictures = [preprocessing.decode(data) for data in files]
        data, picture = cycle(files), cycle(pictures)
        one = views_of(gauge, pictures[:1])
        sixteen = [images.repeat(BATCH, 1, 1, 1) for images in one]
        features = features_of(gauge, one)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        single = self._stopwatch.in_turns(
            {
                "decode": lambda: preprocessing.decode(next(data)),
                "bare_decoder": lambda: np.asarray(Image.open(BytesIO(next(data))).convert("RGB")),
                "statistics": lambda: statistics(next(picture).pixels),
                "crop": lambda: views_of(gauge, [next(picture)]),
                "backbone": lambda: features_of(gauge, one),
                "detector": lambda: [gauge.score(each) for each in features],
                "predict": lambda: gauge.predict([next(picture)]),
                "latency": lambda: gauge.predict([preprocessing.decode(next(data))]),
            },
            self.plan.repeats,
        )
        together = self._stopwatch.in_turns(
            {
                "predict_rate": lambda: gauge.predict(list(islice(picture, BATCH))),
                "bytes_rate": lambda: gauge.predict([preprocessing.decode(each) for each in islice(data, BATCH)]),
                "backbone_rate": lambda: features_of(gauge, sixteen),
            },
            self.plan.rounds,
        )
        found: dict[str, object] = {name: Quantiles.of(times) for name, times in single.items()}
        found |= {name: rate(BATCH, times) for name, times in together.items()}
        found |= {"encoded_kib": sum(map(len, files)) / len(files) / 1024, "reduction": pictures[0].reduction}
        if self.device == "cuda":
            found["device_mib"] = torch.cuda.max_memory_allocated() / _MIB
        return Case.model_validate(
            found | {"engine": engine, "size": size, "format": format_, "resident_mib": resident_mib()}
        )

    def _lines(self, engine: str) -> Iterator[LineCount]:
        counts = sorted(set(self.plan.lines))
        gauges = [self.make(engine)]  # brings libraries and, where it is the first, the backbone with it
        growth: dict[int, tuple[float, float] | None] = {}
        for count in counts:
            added, before = count - len(gauges), settled_mib(self.device)
            for _ in range(added):
                self.progress(f"gauges of lines on {engine}", len(gauges), counts[-1])
                gauges.append(self.make(engine))
            resident, device = (now - then for now, then in zip(settled_mib(self.device), before, strict=True))
            growth[count] = (resident / added, device / added) if added else None
        self.progress(f"gauges of lines on {engine}", counts[-1], counts[-1])
        preprocessing = gauges[0].manifest.preprocessing
        files = [encoded(each, ImageFormat.JPEG) for each in camera_images(ImageSize.SMALL)]
        pictures = list(islice(cycle(map(preprocessing.decode, files)), max(counts[-1], BATCH)))
        items = {
            count: [(gauges[number % count], pictures[number]) for number in range(max(count, BATCH))]
            for count in counts
        }
        times = self._stopwatch.in_turns(
            {count: partial(predict_each, each) for count, each in items.items()}, self.plan.rounds
        )
        for count, each in growth.items():
            yield LineCount(
                engine=engine,
                lines=count,
                rate=rate(len(items[count]), times[count]),
                resident_mib_per_line=each and each[0],
                device_mib_per_line=each[1] if each and self.device == "cuda" else None,
            )

    def _rooflines(self, gauges: Mapping[str, Gauge]) -> tuple[Roofline, ...]:
        picture = Picture(camera_images(ImageSize.SMALL)[0], sha256="")
        # what the networks multiply is counted once, for torch sees nothing of what other engines do
        flop = counted_flop(self.make(TORCH), picture)
        found = []
        for engine, gauge in reported(list(gauges.items()), "limits", self.progress):
            sixteen = [images.to(self.device) for images in views_of(gauge, [picture] * BATCH)]
            products = matrix_products(self.device)
            networks = partial(networks_of, gauge, sixteen)
            times = self._stopwatch.in_turns({engine: networks} | products, self.plan.rounds)
            side = _MATMUL_SIDE[self.device]
            found.append(
                Roofline(
                    engine=engine,
                    gflop_per_image=flop / 1e9,
                    tflops=flop * rate(BATCH, times[engine]) / 1e12,
                    matmul_tflops={name: 2 * side**3 * rate(1, times[name]) / 1e12 for name in products},
                )
            )
        return tuple(found)

    def _gpu_jpeg(self, size: ImageSize, files: Sequence[bytes]) -> GpuJpeg:
        loaded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in islice(cycle(files), BATCH)]
        try:
            from torchvision.io import ImageReadMode, decode_jpeg

            works: dict[int, Work] = {
                count: partial(decode_jpeg, loaded[:count], ImageReadMode.RGB, device="cuda") for count in (1, BATCH)
            }
            with warnings.catch_warnings():
                # torchvision announces that another package will take its decoders over
                warnings.simplefilter("ignore", DeprecationWarning)
                times = self._stopwatch.in_turns(works, self.plan.rounds)
        # what a wheel that was built without it, or a driver without nvJPEG, raises
        except (ImportError, RuntimeError, AttributeError) as error:
            return GpuJpeg(size=size, reason=str(error).splitlines()[0])
        return GpuJpeg(size=size, rate_single=rate(1, times[1]), rate=rate(BATCH, times[BATCH]))

    def _forwards(self, gauge: Gauge) -> tuple[ForwardSpeed, ...]:
        """The gauge's own networks first. Nothing where there is nothing to compare them with."""
        if not self.forwards:
            return ()
        own = gauge.manifest.detector.name
        forwards = {own: forward_of(gauge)} | dict(self.forwards)
        preprocessing, picture = gauge.manifest.preprocessing, Picture(camera_images(ImageSize.SMALL)[0], sha256="")
        one = normalised(preprocessing, preprocessing.crops([picture]))
        found: list[dict[str, list[float]]] = []
        batches = ((one, self.plan.repeats), (one.repeat(BATCH, 1, 1, 1), self.plan.rounds))
        for images, repeats in reported(batches, "baselines", self.progress):
            works = {name: partial(forward, images) for name, forward in forwards.items()}
            found.append(self._stopwatch.in_turns(works, repeats))
        single, together = found
        return tuple(
            ForwardSpeed(name=name, single=Quantiles.of(single[name]), rate=rate(BATCH, together[name]))
            for name in forwards
        )


def camera_images(size: ImageSize) -> list[NDArray[np.uint8]]:
    """(H, W, 3) each: parts of a procedural line, enlarged to what a camera takes, under a sensor's noise."""
    line, (width, height) = ProceduralLine(MATERIAL, seed=0), size.pixels
    found = []
    for index in range(_DIFFERENT):
        part = Image.fromarray(line.good(index).pixels).resize((width, height), Image.Resampling.BICUBIC)
        noise = np.random.default_rng(index).integers(-_NOISE, _NOISE, (height, width, 3), np.int8, endpoint=True)
        found.append(np.clip(np.asarray(part, np.int16) + noise, 0, 255).astype(np.uint8))
    return found


def encoded(pixels: NDArray[np.uint8], format_: ImageFormat) -> bytes:
    options = {ImageFormat.JPEG: {"quality": _JPEG_QUALITY}, ImageFormat.PNG: {"compress_level": _PNG_LEVEL}}
    file = BytesIO()
    Image.fromarray(pixels).save(file, format_.value, **options.get(format_, {}))
    return file.getvalue()


def views_of(gauge: Gauge, pictures: Sequence[Picture]) -> list[Tensor]:
    """(B, 3, S, S) for each view over which the gauge's detector averages."""
    preprocessing = gauge.manifest.preprocessing
    crops = preprocessing.crops(pictures)
    return [normalised(preprocessing, crops, view) for view in gauge.detector.views]


def features_of(gauge: Gauge, views: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    return [gauge.backbone(images, gauge.detector.pyramid_levels) for images in views]


def networks_of(gauge: Gauge, views: Sequence[Tensor]) -> None:
    """From normalised crops to scores, which are thrown away."""
    for features in features_of(gauge, views):
        gauge.score(features)


def forward_of(gauge: Gauge) -> Forward:
    """Backbone and detector. The plain view stands for all of the detector's."""
    views = len(gauge.detector.views)
    return lambda images: networks_of(gauge, [images] * views)


def counted_flop(gauge: Gauge, picture: Picture) -> int:
    """Multiplications and additions of an image. `gauge` is good for nothing else afterwards."""
    gauge.detector.requires_grad_(False)  # the counter cannot follow parameters that want gradients
    with FlopCounterMode(display=False) as counter:
        networks_of(gauge, views_of(gauge, [picture]))
    return int(counter.get_total_flops())


def matrix_products(device: str) -> dict[str, Work]:
    """A product of two square matrices, by precision: all that a GPU offers, on a CPU the one that it computes in."""
    side = _MATMUL_SIDE[device]
    square = torch.rand(side, side, device=device)
    products: dict[str, Work] = {"float32": partial(torch.mm, square, square)}
    if device == "cuda":
        half = square.half()

        def tf32() -> None:
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high")
            torch.mm(square, square)
            torch.set_float32_matmul_precision(before)

        products |= {"tf32": tf32, "float16": partial(torch.mm, half, half)}
    return products


def resident_mib() -> float:
    """Of this process."""
    return float(psutil.Process().memory_info().rss) / _MIB


def settled_mib(device: str) -> tuple[float, float]:
    """Of this process without what is free in it, and of what torch has allocated on the GPU."""
    give_back_freed_memory()
    return resident_mib(), torch.cuda.memory_allocated() / _MIB if device == "cuda" else 0.0


def machine_of(device: str) -> Machine:
    return Machine(
        processor=_processor(),
        cores=psutil.cpu_count(),
        threads=torch.get_num_threads(),
        memory_mib=psutil.virtual_memory().total / _MIB,
        load=psutil.getloadavg()[0],
        device=torch.cuda.get_device_name() if device == "cuda" else device,
        system=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        software=software(),
    )


def _processor() -> str:
    """Its name where Linux tells it; otherwise the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
