"""What each kind of alert means to people: how urgent it is, and how the topics say that it is over."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from flowgauge.domain.messages import AlertKind


class Severity(StrEnum):
    """From the lowest to the highest."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        return list(Severity).index(self)


class Ending(StrEnum):
    """How one sees that what an alert tells of is over. `GAUGE`: the line's next announcement on the topic `snapshots`;
    `DECISION`: the same, or the alert that says how the proposal was decided; `SILENCE`: workers raise the alert once
    in each alert window while it lasts, and no longer do. `NONE`: an event, or a condition whose end is not told.
    """

    NONE = "none"
    GAUGE = "gauge"
    DECISION = "decision"
    SILENCE = "silence"


class About(NamedTuple):
    severity: Severity
    ending: Ending


DECIDED = frozenset({AlertKind.ADAPTATION_ACCEPTED, AlertKind.ADAPTATION_REFUSED, AlertKind.ADAPTATION_COALESCED})
"""Say what came of a request to adapt; their ids are made from its own: see `flowgauge.runtime.alerts.alert_id`."""

ABOUT: Mapping[AlertKind, About] = {
    # The gauge does its work, and false alarms are promised: every busy line has some.
    AlertKind.REJECT: About(Severity.INFO, Ending.NONE),
    # Verdicts lose their worth slowly, and the gauge may adapt by itself.
    AlertKind.DRIFT: About(Severity.WARNING, Ending.GAUGE),
    # Nothing changes before a person decides; the gauge in use goes on.
    AlertKind.ADAPTATION_PROPOSED: About(Severity.WARNING, Ending.DECISION),
    # The line asked for another gauge and keeps the one that it has.
    AlertKind.ADAPTATION_REFUSED: About(Severity.WARNING, Ending.NONE),
    # All is as it should be, and on record for whoever asks why the gauge changed.
    AlertKind.ADAPTATION_ACCEPTED: About(Severity.INFO, Ending.NONE),
    # Another request like it is carried out; nothing is to be done.
    AlertKind.ADAPTATION_COALESCED: About(Severity.INFO, Ending.NONE),
    # The gauge that somebody wanted does not score, and files may be damaged.
    AlertKind.SNAPSHOT_INVALID: About(Severity.CRITICAL, Ending.GAUGE),
    # Images and heatmaps wait, and are lost once Kafka drops what waits.
    AlertKind.STORE_UNAVAILABLE: About(Severity.CRITICAL, Ending.SILENCE),
    # Nothing is inspected: every image of the line is for review.
    AlertKind.NO_GAUGE: About(Severity.CRITICAL, Ending.GAUGE),
    # A part has no verdict, but its image is kept and can be replayed.
    AlertKind.DEAD_LETTER: About(Severity.WARNING, Ending.NONE),
    # Verdicts come after the deadline, when the part may have left already.
    AlertKind.BACKLOG: About(Severity.CRITICAL, Ending.SILENCE),
    # More false alarms or misses than promised, until a person sets the threshold.
    AlertKind.THRESHOLD_DISAGREES: About(Severity.WARNING, Ending.GAUGE),
    # Somebody made a topic anew; what it held unread is gone with it.
    AlertKind.OFFSETS_RESET: About(Severity.WARNING, Ending.NONE),
    # Images left their topic before they were inspected, and do not come again.
    AlertKind.RECORDS_EXPIRED: About(Severity.CRITICAL, Ending.NONE),
    # its end, and a frozen camera's, shows in verdicts alone: a line that rests raises no such alert either
    # Images are scored as ever, and filed by when they arrived.
    AlertKind.CLOCK_OFF: About(Severity.WARNING, Ending.NONE),
    # Nothing is inspected: every part gets the verdict of one picture.
    AlertKind.FROZEN_CAMERA: About(Severity.CRITICAL, Ending.NONE),
    # A candidate is tried as the line's settings say; it withdraws by itself.
    AlertKind.TRIAL_STAGE: About(Severity.INFO, Ending.NONE),
    # A candidate has passed its trial, and takes over once a person says so.
    AlertKind.TRIAL_WAITS: About(Severity.WARNING, Ending.NONE),
    # A candidate did worse than its trial allows, and the line keeps its gauge.
    AlertKind.TRIAL_STOPPED: About(Severity.WARNING, Ending.NONE),
    # The line has another gauge, which has shown on the line itself what it does.
    AlertKind.TRIAL_PROMOTED: About(Severity.INFO, Ending.NONE),
    # The part was decided without this view, and its verdict stands.
    AlertKind.LATE_VIEW: About(Severity.WARNING, Ending.NONE),
    # Verdicts are those of the reference, only slower.
    AlertKind.ENGINE_REFUSED: About(Severity.INFO, Ending.GAUGE),
}
"""Of every kind; above each stands why it is so urgent."""
