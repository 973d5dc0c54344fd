"""The console's users: a file of names, roles and password hashes, and how fast passwords may be guessed."""

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from threading import Lock

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pydantic import Field, ValidationError

from flowgauge.domain.errors import SettingsError, UserError
from flowgauge.domain.messages import FrozenModel

# characters: shorter ones are guessed from a stolen file in hours
_SHORTEST_PASSWORD = 12
# failures from one address, and of it under one name, before the next attempt has to wait: fewer lock out who mistypes,
# more let a guesser try
_FREE_FAILURES = 5
# seconds that the first wait takes, doubled with each further failure; less lets a guesser try hundreds a day, more
# locks a person out for a shift
_FIRST_WAIT, _LONGEST_WAIT = 2.0, 900.0
# seconds after which failures are forgotten: with less than the longest wait, a guesser who waits begins anew
_REMEMBERED = 86_400.0
_MARK_DIGITS = 16  # hex; fewer, and two passwords could share them; more are only longer
# addresses and names whose failures are remembered: fewer, and a guesser with many addresses pushes out his own
_MOST_REMEMBERED = 10_000
_NO_RECORD = nullcontext()


class Role(IntEnum):
    """Each may do what those below it may."""

    VIEWER = 1
    INSPECTOR = 2
    ENGINEER = 3

    @property
    def word(self) -> str:
        return self.name.lower()


class User(FrozenModel):
    """`password` is an argon2id hash; empty for one whom a reverse proxy signs in."""

    role: str = Field(description="viewer, inspector or engineer")
    password: str = Field("", description="argon2id hash; empty: signs in through a reverse proxy only")


class Users:
    """The users in `path`, read anew whenever it changes. Raises `SettingsError` for a file that does not hold."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hasher = PasswordHasher()
        # so that an unknown name takes as long as a wrong password
        self._nobody = self._hasher.hash("nobody has this password")
        self._lock = Lock()
        self._read_at: float | None = None
        self._users: dict[str, User] = {}
        self._load()

    def role(self, name: str) -> Role | None:
        """Of a user who is known; None for anybody else."""
        user = self._load().get(name)
        return None if user is None else Role[user.role.upper()]

    def verify(self, name: str, password: str) -> bool:
        """Whether `password` is that of `name`. One at a time: each takes 64 MiB and some 50 ms on purpose."""
        user = self._load().get(name)
        with self._lock:
            try:
                right = self._hasher.verify(user.password if user and user.password else self._nobody, password)
            except (VerificationError, InvalidHashError):
                return False
        return right and user is not None and bool(user.password)

    def add(
        self, name: str, role: Role, password: str | None, record: AbstractContextManager[object] = _NO_RECORD
    ) -> None:
        """Add a user, or change role and password of one; the file is written within `record`. Raises `UserError` for
        a password that is too short.
        """
        if password is not None and len(password) < _SHORTEST_PASSWORD:
            raise UserError(
                f"The password has {len(password)} characters.", f"Use {_SHORTEST_PASSWORD} or more: a sentence, say."
            )
        hashed = "" if password is None else self._hasher.hash(password)
        with self._alone(), record:
            self._write({**self._load(), name: User(role=role.word, password=hashed)})

    def remove(self, name: str, record: AbstractContextManager[object] = _NO_RECORD) -> None:
        """Within `record` too. Raises `UserError` for a name that is not there."""
        with self._alone():
            users = dict(self._load())
            if users.pop(name, None) is None:
                raise UserError(f"There is no user {name}.", "`flowgauge console user list` names them.")
            with record:
                self._write(users)

    def mark(self, name: str) -> str:
        """Changes with the password of `name`: a session that was begun with another one is over."""
        user = self._load().get(name)
        return "" if user is None else sha256(user.password.encode()).hexdigest()[:_MARK_DIGITS]

    def all(self) -> dict[str, Role]:
        return {name: Role[user.role.upper()] for name, user in sorted(self._load().items())}

    def _load(self) -> dict[str, User]:
        try:
            changed_at = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            self._users, self._read_at = {}, None
            return self._users
        if changed_at != self._read_at:
            try:
                document = json.loads(self._path.read_bytes())
                users = {name: User.model_validate(each) for name, each in document.items()}
                if any(user.role.upper() not in Role.__members__ for user in users.values()):
                    raise ValueError("a role is none of viewer, inspector and engineer")
            except (OSError, ValueError, AttributeError, ValidationError) as error:
                raise SettingsError(
                    f"{self._path} holds no users of a console: {error}.",
                    "Make it with `flowgauge console user add`.",
                ) from error
            self._users, self._read_at = users, changed_at
        return self._users

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Others who change the file wait: each would write back the users as they were before the other's change."""
        # a file of its own: the users' file is replaced with each change
        lock = self._path.with_name(f".{self._path.name}.lock")
        lock.touch(mode=0o600)
        with lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self._read_at = None  # of two changes within a tick of the file system's clock both count
            yield

    def _write(self, users: dict[str, User]) -> None:
        made = self._path.with_name(f".{self._path.name}.part")
        made.touch(mode=0o600)
        made.write_text(json.dumps({name: each.model_dump() for name, each in sorted(users.items())}, indent=2))
        made.replace(self._path)


class Guessing:
    """Failed sign-ins by address and by name: how long the next attempt has to wait. `now` gives seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = Lock()
        self._failures: dict[str, tuple[int, float]] = {}

    def attempt(self, *keys: str) -> float:
        """Seconds until an attempt under all `keys` is taken; 0.0: it is taken, and counts as failed until `succeeded`
        says otherwise, so that many at once are no more than one after the other.
        """
        with self._lock:
            wait = max(self._left(key) for key in keys)
            if wait > 0:
                return wait
            for key in keys:
                failures = self._failures.pop(key)[0] if self._remembered(key) else 0
                self._failures[key] = failures + 1, self._now()
            while len(self._failures) > _MOST_REMEMBERED:
                del self._failures[next(iter(self._failures))]
        return 0.0

    def succeeded(self, *keys: str) -> None:
        with self._lock:
            for key in keys:
                self._failures.pop(key, None)

    def _remembered(self, key: str) -> bool:
        return key in self._failures and self._now() - self._failures[key][1] < _REMEMBERED

    def _left(self, key: str) -> float:
        if not self._remembered(key):
            return 0.0
        failures, last = self._failures[key]
        if failures < _FREE_FAILURES:
            return 0.0
        pause = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (failures - _FREE_FAILURES))
        return max(0.0, last + pause - self._now())
