"""What a check reports: findings, each with what was seen, the figures, why it matters and what to do."""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flowgauge.domain.messages import FrozenModel

Figure = float | int | str | bool | None


class Level(StrEnum):
    """`problem`: figures taken on this data set mislead, or a gauge fitted to it will fail; `note`: worth knowing."""

    PROBLEM = "problem"
    NOTE = "note"


class Named(FrozenModel):
    """An image that a finding is about. `value` is its own figure; `beside` names the image it is to be seen with."""

    name: str
    value: float | None = None
    beside: str | None = None
    words: str = ""


def named(
    names: Sequence[str], rows: Iterable[int], values: NDArray[np.float64], words: Callable[[int], str]
) -> tuple[Named, ...]:
    """The images of those rows, in that order, each with its figure among `values`."""
    return tuple(Named(name=names[row], value=float(values[row]), words=words(row)) for row in rows)


class Finding(FrozenModel):
    """`seen` is one sentence with the figures in it; `images` come worst first."""

    title: str
    seen: str
    why: str
    remedy: str
    level: Level = Level.PROBLEM
    figures: dict[str, Figure] = Field(default_factory=dict)
    images: tuple[Named, ...] = ()


class Check(FrozenModel):
    """One question about a data set. `figures` are told in any case; `skipped` says why it could not be asked."""

    name: str
    question: str
    figures: dict[str, Figure] = Field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    skipped: str = ""

    def with_findings(self, *findings: Finding) -> "Check":
        return self.model_copy(update={"findings": findings})

    @property
    def problems(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level is Level.PROBLEM)
