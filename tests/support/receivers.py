"""Where messages to people arrive in tests: a mail server, a webhook, and a broker with a reader of its topic."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar

import paho.mqtt.client as mqtt
from aiosmtpd.controller import Controller
from paho.mqtt.enums import CallbackAPIVersion

from deploy.native.process import HOST, NativeServer, NotInstalled, free_port, write_private

_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Message:
    title: str
    body: str


@dataclass
class Inbox:
    """What has arrived somewhere, at `address` of Apprise's."""

    address: str
    messages: list[Message] = field(default_factory=list)

    @property
    def bodies(self) -> list[str]:
        return [each.body for each in self.messages]


class Mosquitto(NativeServer):
    """A broker of MQTT that lets everybody in."""

    name = "mosquitto"
    folders: ClassVar = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"

    def program(self) -> Path:
        found = shutil.which(self.name, path=self.folders)
        if found is None:
            raise NotInstalled("mosquitto is not installed: apt-get install mosquitto")
        return Path(found)

    def prepare(self, program: Path) -> None:
        write_private(self.folder / "mosquitto.conf", f"listener {self.port()} {HOST}\nallow_anonymous true\n")

    def command(self, program: Path) -> list[str]:
        return [str(program), "-c", str(self.folder / "mosquitto.conf")]

    def answers(self) -> bool:
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        try:
            client.connect(HOST, self.port())
        except OSError:
            return False
        client.disconnect()
        return True


@contextmanager
def subscribed(broker: Mosquitto, topic: str) -> Iterator[Inbox]:
    """What is published to `topic`. MQTT has no titles of its own: Apprise puts them before the text."""
    inbox = Inbox(f"mqtt://{broker.address}/{topic}?qos=1")
    client, ready = mqtt.Client(CallbackAPIVersion.VERSION2), Event()
    client.on_message = lambda _client, _data, message: inbox.messages.append(Message("", message.payload.decode()))
    client.on_subscribe = lambda *_: ready.set()
    client.connect(HOST, broker.port())
    client.subscribe(topic, qos=1)
    client.loop_start()
    try:
        assert ready.wait(_TIMEOUT_SECONDS)
        yield inbox
    finally:
        client.disconnect()
        client.loop_stop()


class _Mailbox:
    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  aiosmtpd calls it so
        mail = message_from_bytes(envelope.content, policy=default)
        part = mail.get_body(("plain", "html"))
        assert part is not None
        self._messages.append(Message(str(mail["Subject"]), part.get_content()))
        return "250 Message accepted for delivery"


@contextmanager
def mail_server() -> Iterator[Inbox]:
    port = free_port()
    inbox = Inbox(f"mailto://{HOST}:{port}?from=flowgauge@example.com&to=shift@example.com&mode=insecure&format=text")
    controller = Controller(_Mailbox(inbox.messages), hostname=HOST, port=port)
    controller.start()
    try:
        yield inbox
    finally:
        controller.stop()


Received = Callable[[Message], int | None]


def _nothing(message: Message) -> None:
    """What most receivers do beside keeping a message."""


class Webhook:
    """A receiver of Apprise's JSON, which may be stopped and started again on the same port. Both functions are called
    in its thread with each message: `arrived` before it is answered, by the status that it returns or 200, `answered`
    once the sender has been given that."""

    def __init__(self, arrived: Received = _nothing, answered: Received = _nothing) -> None:
        self.port = free_port()
        self.inbox = Inbox(f"json://{HOST}:{self.port}/alerts")
        self._arrived, self._answered = arrived, answered
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                message = Message(given["title"], given["message"])
                hook.inbox.messages.append(message)
                status = hook._arrived(message) or 200
                with suppress(ConnectionError):  # of a sender that was killed
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                hook._answered(message)

            def log_message(self, *_: Any) -> None:
                """Tests say enough."""

        self._server = ThreadingHTTPServer((HOST, self.port), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None


@contextmanager
def webhook(arrived: Received = _nothing, answered: Received = _nothing) -> Iterator[Webhook]:
    hook = Webhook(arrived, answered)
    hook.start()
    try:
        yield hook
    finally:
        hook.stop()
