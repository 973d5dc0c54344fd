"""What the client libraries raise: whether it may pass by itself, and as what our ports raise it."""

from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, SSLError

from flowgauge.domain.errors import AuthorizationFailed, StoreFull, Unavailable


class Damaged(Exception):
    """The bytes that came are not those that were stored."""


FAULTS = (MinioException, HTTPError, ParseError, Damaged)

_NO_SPACE_STATUS = 507
_LASTING = frozenset({501, _NO_SPACE_STATUS})
_TRANSIENT_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "OperationAborted"}
)
_KEYS = "Check the access key, the secret key and the region; temporary keys need FLOWGAUGE_S3_SESSION_TOKEN too."
_TOKEN = "Temporary keys need their FLOWGAUGE_S3_SESSION_TOKEN, and end: get new ones, and set all three variables."
_REMEDIES = {
    "NoSuchBucket": "Create the bucket, or name another.",
    "AccessDenied": "Check the keys, and grant them this; docs/security.md lists who needs what.",
    "SignatureDoesNotMatch": _KEYS,
    "InvalidAccessKeyId": _KEYS,
    "XAdminUserNotFound": _KEYS,  # what VersityGW calls an unknown access key
    "AuthorizationHeaderMalformed": _KEYS,
    "ExpiredToken": _TOKEN,
    "ExpiredTokenException": _TOKEN,
    "InvalidToken": _TOKEN,
    "InvalidTokenId": _TOKEN,  # what MinIO calls a token that is none of the key's
    "RequestTimeTooSkewed": "Set this machine's clock: signatures hold for minutes only.",
}


def transient(fault: Exception) -> bool:
    """Worth another try soon: connections, servers that fail or ask for patience, bytes damaged on their way."""
    if isinstance(fault, S3Error):
        return fault.code in _TRANSIENT_CODES or _failing(fault.response.status)
    if isinstance(fault, ServerError):
        return _failing(fault.status_code)
    return isinstance(fault, HTTPError | InvalidResponseError | Damaged) and not isinstance(fault, SSLError)


def _failing(status: int) -> bool:
    return (status >= 500 and status not in _LASTING) or status == 429


@contextmanager
def s3_faults(address: str) -> Iterator[None]:
    """Every fault of a library inside becomes `StoreFull` or `Unavailable`, which names `address` and the remedy."""
    try:
        yield
    except FAULTS as fault:
        raise _unavailable(fault, address) from fault


def _unavailable(fault: Exception, address: str) -> Unavailable:
    if _out_of_space(fault):
        return StoreFull(f"No space is left for {address}.", "Free some, and the work goes on by itself.")
    kind = AuthorizationFailed if isinstance(fault, S3Error) and fault.code == "AccessDenied" else Unavailable
    return kind(f"{address} cannot be used: {_named(fault)}.", _remedy(fault))


def _out_of_space(fault: Exception) -> bool:
    if not isinstance(fault, S3Error):
        return False
    return fault.response.status == _NO_SPACE_STATUS or "QuotaExceeded" in (fault.code or "")


def _remedy(fault: Exception) -> str:
    match fault:
        case S3Error():
            return _REMEDIES.get(fault.code or "", "Check the object store.")
        case Damaged():
            return "Restore the object, or delete it: then it counts as missing."
        case SSLError():
            return "Check the certificate of the server and FLOWGAUGE_S3_CA_FILE."
        case InvalidResponseError() | ParseError():
            return "Check that the endpoint is an S3 service."
        case _:
            return "Check that the object store runs and can be reached."


def _named(fault: Exception) -> str:
    if isinstance(fault, S3Error):
        return f"{fault.code}: {fault.message}".removesuffix(".")
    inner = next((each for each in (fault.__cause__, *fault.args) if isinstance(each, OSError)), fault)
    return str(inner).partition(", Body:")[0].removesuffix(".")  # which may be a whole page
