"""Which alerts go to whom: what a person writes into a file of routes."""

import re
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from flowgauge.domain.alert_kinds import ABOUT, Severity
from flowgauge.domain.messages import AlertKind, FrozenModel

ENVIRONMENT = "env:"
"""What an address begins with that stands in an environment variable."""

_QUIET = re.compile(r"([0-9]{2}:[0-9]{2})-([0-9]{2}:[0-9]{2}) +(\S+)")
_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
# longer than an alert window of a minute and what an alert's last count may be late: shorter, and a window is told
# twice, once with its first alert and once with its whole count; longer, and people wait
_DIGEST_SECONDS = 90.0
# shorter, and people stop to read what is repeated
_SHORTEST_REPEAT = timedelta(minutes=1)


class Address(FrozenModel):
    """Where messages go. `written` is what the file says, `url` the Apprise address, which may hold a password."""

    written: str
    url: SecretStr

    @property
    def key(self) -> str:
        """By which state names it: the same as long as the file says the same."""
        return sha256(self.written.encode()).hexdigest()[:16]


class Quiet(FrozenModel):
    """Hours of every day, by the clocks of `zone`: summer time moves them with everything else there."""

    start: time
    end: time
    zone: str

    def covers(self, now: datetime) -> bool:
        at = now.astimezone(ZoneInfo(self.zone)).time()
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M} {self.zone}"


def _address(value: object, info: ValidationInfo) -> object:
    """Of the variables in the validation's context, the one that an address names."""
    if not isinstance(value, str):
        return value
    url = value
    if value.startswith(ENVIRONMENT):
        name = value.removeprefix(ENVIRONMENT)
        url = (info.context or {}).get(name, "")
        if not url:
            raise ValueError(f"the environment variable {name} is not set")
    return {"written": value, "url": url.strip()}


def _quiet(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = _QUIET.fullmatch(value.strip())
    if not found:
        raise ValueError(f'{value!r} is no time span with a zone: write "22:00-06:00 Europe/Berlin"')
    start, end, zone = found.groups()
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"there is no time zone {zone}: write one such as Europe/Berlin or UTC, and pip install tzdata where the"
            " system has no zones"
        ) from None
    if start == end:
        raise ValueError(f"{start}-{end} is no span: the two times must differ")
    return {"start": start, "end": end, "zone": zone}


def _duration(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('it is a text with a unit, such as "30m", "4h" or "1d"')
    found = _DURATION.fullmatch(value.strip())
    if not found:
        raise ValueError(f'{value!r} is no duration: write "30m", "4h" or "1d"')
    duration = timedelta(seconds=int(found[1]) * _SECONDS[found[2]])
    if duration < _SHORTEST_REPEAT:
        raise ValueError(f"{value} is shorter than a minute, which nobody reads")
    return duration


class Route(FrozenModel):
    """Some alerts, some addresses, and when."""

    # a misspelt key of a file that people write is a mistake, and no addition of a later version
    model_config = ConfigDict(extra="forbid")

    to: tuple[Annotated[Address, BeforeValidator(_address)], ...] = Field(
        min_length=1, description='Apprise addresses; "env:NAME" takes one from an environment variable'
    )
    lines: tuple[str, ...] = Field(("*",), min_length=1, description='shell patterns of lines, such as ["press-*"]')
    kinds: tuple[AlertKind, ...] | None = Field(None, min_length=1, description="kinds of alerts; unset: all")
    severity: Severity | None = Field(
        None, description="the lowest: info, warning or critical; unset: info where kinds are named, else warning"
    )
    quiet: Annotated[Quiet, BeforeValidator(_quiet)] | None = Field(
        None, description='when messages are held back: "22:00-06:00 Europe/Berlin"; they come as one at its end'
    )
    critical_passes: bool = Field(True, description="critical alerts are sent in quiet hours too")
    repeat_after: Annotated[timedelta, BeforeValidator(_duration)] | None = Field(
        None, description='a problem that goes on is told again after this: "30m", "4h" or "1d"; unset: it is not'
    )
    digest_seconds: float = Field(
        _DIGEST_SECONDS, ge=0, le=86_400, description="seconds, 0 to 86,400, that a line's alerts of a kind gather"
    )

    @model_validator(mode="after")
    def _severity_admits_kinds(self) -> "Route":
        if self.kinds is not None and self.severity is not None:
            below = [kind for kind in self.kinds if ABOUT[kind].severity.rank < self.severity.rank]
            if below:
                named = ", ".join(f"{kind.value} ({ABOUT[kind].severity.value})" for kind in below)
                raise ValueError(f"severity {self.severity.value} leaves out {named}, which kinds names: lower it")
        return self

    @property
    def lowest(self) -> Severity:
        if self.severity is not None:
            return self.severity
        return Severity.WARNING if self.kinds is None else Severity.INFO

    def admits(self, kind: AlertKind) -> bool:
        return ABOUT[kind].severity.rank >= self.lowest.rank and (self.kinds is None or kind in self.kinds)

    def takes(self, line: str, kind: AlertKind) -> bool:
        return self.admits(kind) and any(fnmatchcase(line, pattern) for pattern in self.lines)

    def holds_back(self, kind: AlertKind, now: datetime) -> bool:
        """Whether a message of `kind` waits for the end of the quiet hours."""
        if self.critical_passes and ABOUT[kind].severity is Severity.CRITICAL:
            return False
        return self.quiet is not None and self.quiet.covers(now)


class Routes(FrozenModel):
    model_config = ConfigDict(extra="forbid")

    console: str | None = Field(
        None, pattern="^https?://", description='where the console is, "http://host:8080": messages link to its pages'
    )
    routes: dict[str, Route] = Field(min_length=1, description="one table [routes.NAME] for each route")

    @field_validator("console")
    @classmethod
    def _without_slash(cls, console: str | None) -> str | None:
        return None if console is None else console.rstrip("/")

    @property
    def addresses(self) -> Mapping[str, Address]:
        """Every address once, by its key."""
        return {address.key: address for route in self.routes.values() for address in route.to}

    @classmethod
    def of(cls, document: Mapping[str, Any], environment: Mapping[str, str]) -> "Routes":
        """Raises pydantic's `ValidationError`."""
        return cls.model_validate(document, context=environment)
