"""Messages to people through Apprise: mail, chat, webhooks, MQTT and whatever else has an address."""

from flowgauge.apprise.messenger import AppriseMessenger

__all__ = ["AppriseMessenger"]
