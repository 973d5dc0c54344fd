"""What the client library raises, as what our ports raise."""

from collections.abc import Iterator
from contextlib import contextmanager

from flowgauge.domain.errors import StoreFull, Unavailable
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

_PRIMARY = "Name the primary in its URL: a replica takes no writes. After a failover the work goes on by itself."
_DATABASE = "End FLOWGAUGE_REDIS_URL in /0: a cluster has no other database."
_REMEDIES: tuple[tuple[tuple[type[RedisError], ...], str], ...] = (
    ((BusyLoadingError,), "It loads its data, and the work goes on by itself once it has."),
    ((AuthenticationError, AuthenticationWrongNumberOfArgsError), "Check the user and the password in its URL."),
    ((AuthorizationError, NoPermissionError), "Grant this user reads, writes and scripts on the keys of our prefix."),
    ((ResponseError,), "Mend what it names, and the work goes on by itself."),
    ((InvalidResponse,), "Check that its URL names a Redis server."),
)


@contextmanager
def redis_faults(address: str) -> Iterator[None]:
    """Every `RedisError` inside becomes `StoreFull` or `Unavailable`, which names `address` and the remedy."""
    try:
        yield
    except (RedisError, RedisClusterException) as error:  # of which neither is the other
        raise _unavailable(error, address) from error


def only_replica(error: Exception) -> bool:
    """Whether a server answers as a replica does. Before version 7, a script's answer has the word inside."""
    return isinstance(error, ReadOnlyError) or "-READONLY" in str(error)


def _unavailable(error: Exception, address: str) -> Unavailable:
    if _out_of_memory(error):
        return StoreFull(f"Redis at {address} has no memory left.", "Raise its maxmemory, or free some.")
    remedy = next((words for kinds, words in _REMEDIES if isinstance(error, kinds)), None)
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        remedy = "Check FLOWGAUGE_REDIS_CA_FILE, and the host names in the server's certificate."
    if only_replica(error):
        remedy = _PRIMARY
    if "SELECT is not allowed in cluster mode" in str(error):
        remedy = _DATABASE
    cause = f"Redis at {address} cannot be used: {str(error).removesuffix('.')}."
    return Unavailable(cause, remedy or "Check that it runs and can be reached.")


def _out_of_memory(error: Exception) -> bool:
    """Before version 7, what a script meets comes as a plain error with the text inside."""
    return isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error)
