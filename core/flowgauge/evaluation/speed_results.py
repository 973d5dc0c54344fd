"""What is measured of a gauge's speed, and what was found. The field names are the keys of the JSON.

Times are milliseconds of a wall clock, memory is MiB.
"""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from pydantic import Field

from flowgauge.domain.messages import FrozenModel

TORCH = "torch"
"""The engine whose operations can be counted; every other one does the same arithmetic."""

# Rounds of batches for each of single images. Batches average over their images: more take minutes, fewer than three
# have no median.
_ROUNDS_PER_BATCH, _FEWEST_ROUNDS = 5, 3


class ImageSize(StrEnum):
    SMALL = "256px"
    MP_1_3 = "1.3MP"
    MP_5 = "5MP"
    MP_12 = "12MP"

    @property
    def pixels(self) -> tuple[int, int]:
        """(width, height), as usual sensors have them."""
        return _PIXELS[self]


_PIXELS = {
    ImageSize.SMALL: (256, 256),
    ImageSize.MP_1_3: (1280, 1024),
    ImageSize.MP_5: (2448, 2048),
    ImageSize.MP_12: (4000, 3000),
}


class ImageFormat(StrEnum):
    JPEG = "jpeg"
    PNG = "png"
    BMP = "bmp"


class Plan(FrozenModel):
    """What is measured."""

    engines: tuple[str, ...] = Field((TORCH,), min_length=1)
    sizes: tuple[ImageSize, ...] = Field(tuple(ImageSize), min_length=1)
    formats: tuple[ImageFormat, ...] = Field(tuple(ImageFormat), min_length=1)
    lines: tuple[int, ...] = Field((1, 16, 64), description="numbers of lines whose images are interleaved")
    repeats: int = Field(50, ge=3, description="rounds of single images; batches have a fifth of them")

    @property
    def rounds(self) -> int:
        """Of batches."""
        return max(_FEWEST_ROUNDS, self.repeats // _ROUNDS_PER_BATCH)


QUICK = Plan(sizes=(ImageSize.SMALL, ImageSize.MP_5), formats=(ImageFormat.JPEG,), lines=(1, 16), repeats=15)


class Quantiles(FrozenModel):
    """Of a work's times in milliseconds; between two of them they are interpolated linearly."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> "Quantiles":
        p50, p95, p99 = (float(each) for each in np.percentile(milliseconds, (50, 95, 99)))
        return cls(p50=p50, p95=p95, p99=p99)


class Case(FrozenModel):
    """Images of one size and format through one engine. Times are of one image at batch 1; rates are images/s."""

    engine: str
    size: ImageSize
    format: ImageFormat
    encoded_kib: float = Field(description="of a file, in the mean")
    reduction: int = Field(description="each pixel of the decoded picture is the mean of so many by so many")
    decode: Quantiles = Field(description="bytes to a picture as the gauge sees it, statistics included")
    statistics: Quantiles = Field(description="the part of `decode` that measures how the image was taken")
    crop: Quantiles = Field(description="picture to normalised crop")
    backbone: Quantiles = Field(description="crop to features, in all views, the way to the device included")
    detector: Quantiles = Field(description="features to scores and maps")
    predict: Quantiles = Field(description="picture to prediction: crop, backbone, detector, map and regions")
    latency: Quantiles = Field(description="bytes to prediction")
    bare_decoder: Quantiles = Field(description="Pillow alone: bytes to all pixels as RGB")
    predict_rate: float = Field(description="pictures in memory, 16 at a time")
    bytes_rate: float = Field(description="the same from bytes, decoded one after the other on the same thread")
    backbone_rate: float = Field(description="the bare backbone on crops in memory, 16 at a time")
    resident_mib: float = Field(description="of the process afterwards")
    device_mib: float | None = Field(None, description="most that was allocated on the GPU at once; null on a CPU")

    @property
    def predict_rate_single(self) -> float:
        """Pictures in memory, one at a time."""
        return 1000 / self.predict.p50


class LineCount(FrozenModel):
    """Images of several lines, each with a gauge of its own on one backbone, interleaved image by image."""

    engine: str
    lines: int
    rate: float = Field(description="images/s of pictures in memory, of one image a line at a time, 16 at least")
    resident_mib_per_line: float | None = Field(description="growth of the process with each line beyond the first")
    device_mib_per_line: float | None = Field(description="the same of the GPU's allocation; null on a CPU")


class Roofline(FrozenModel):
    """Backbone and detector at batch 16 against multiplying large square matrices, measured in turns."""

    engine: str
    gflop_per_image: float = Field(description="multiplications and additions of convolutions and matrix products")
    tflops: float = Field(description="achieved, in 10^12 operations/s")
    matmul_tflops: dict[str, float] = Field(description="by precision")

    @property
    def shares(self) -> dict[str, float]:
        """Of what the processor achieves in each precision; above 1 where the engine uses a lower one."""
        return {precision: self.tflops / limit for precision, limit in self.matmul_tflops.items()}


class GpuJpeg(FrozenModel):
    """torchvision's JPEG decoder on the GPU: bytes to all pixels there, images/s; or why there is none."""

    size: ImageSize
    rate_single: float | None = None
    rate: float | None = Field(None, description="16 files at a time")
    reason: str = ""


class ForwardSpeed(FrozenModel):
    """A method's networks alone, from normalised images to scores."""

    name: str
    single: Quantiles = Field(description="milliseconds at batch 1")
    rate: float = Field(description="images/s at batch 16")


class Machine(FrozenModel):
    processor: str
    cores: int = Field(description="logical ones")
    threads: int = Field(description="that torch computes with")
    memory_mib: float
    load: float = Field(description="mean number of runnable processes in the minute before")
    device: str = Field(description="the GPU, or cpu")
    system: str
    python: str
    torch: str
    software: str


class Subject(FrozenModel):
    """The gauge that was measured."""

    detector: str
    backbone: str
    side: int = Field(description="of the crop that it sees, in pixels")
    images: int = Field(description="that it was fitted to")


class SpeedResults(FrozenModel):
    machine: Machine
    subject: Subject
    plan: Plan
    cases: tuple[Case, ...]
    lines: tuple[LineCount, ...]
    rooflines: tuple[Roofline, ...]
    gpu_jpeg: tuple[GpuJpeg, ...] = ()
    forwards: tuple[ForwardSpeed, ...] = ()
