"""Messages to people through Apprise, which knows a hundred services by address: mail, chat, webhooks, MQTT."""

import logging
from urllib.parse import urlsplit

from apprise import Apprise, AppriseAsset, NotifyBase, NotifyFormat, NotifyType
from flowgauge.domain.alert_kinds import Severity
from flowgauge.domain.errors import SettingsError, Unavailable

_TYPES = {
    Severity.INFO: NotifyType.INFO,
    Severity.WARNING: NotifyType.WARNING,
    Severity.CRITICAL: NotifyType.FAILURE,
    None: NotifyType.SUCCESS,
}
_REMEDY = "Check the address, and that its server runs and can be reached."

# what Apprise says of a failure comes back to us as the reason; in its own log lines it would stand there twice
logging.getLogger("apprise").addHandler(logging.NullHandler())
logging.getLogger("apprise").propagate = False


class AppriseMessenger:
    """Makes each message's connection anew: a server that was restarted is no special case, and nothing stays open."""

    def __init__(self) -> None:
        self._asset = AppriseAsset(app_id="Flowgauge", app_desc="Flowgauge alerts", app_url="")

    def check(self, address: str) -> None:
        self._service(address)

    def shown(self, address: str) -> str:
        """Without its query, in which Apprise repeats every default."""
        url: str = self._service(address).url(privacy=True)  # type: ignore[no-untyped-call]
        return url.partition("?")[0]

    def send(self, address: str, title: str, body: str, severity: Severity | None) -> None:
        # not the service itself: Apprise alone turns plain text into what the service wants, such as HTML for mail
        apprise = Apprise(asset=self._asset)
        apprise.add(self._service(address))
        result = apprise.notify(body=body, title=title, notify_type=_TYPES[severity], body_format=NotifyFormat.TEXT)
        if not result:
            reasons = [entry.message for entry in result.logs() if entry.level in ("WARNING", "ERROR")]
            reason = " ".join(reasons) or "The service did not take the message."
            raise Unavailable(reason if reason.endswith(".") else f"{reason}.", _REMEDY)

    def _service(self, address: str) -> NotifyBase:
        service = Apprise.instantiate(address, asset=self._asset)
        if service is None:
            scheme = urlsplit(address).scheme
            # the rest of it may be a password
            what = f"an address that begins with {scheme}://" if "://" in address and scheme else "an address"
            raise SettingsError(
                f"Apprise cannot read {what}.",
                "Write it as https://appriseit.com/services/ shows, such as mailtos://user:password@mail.example.com.",
            )
        return service
