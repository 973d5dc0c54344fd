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
_BY_CODE = {
    "NoSuchBucket": "Create the bucket, or name another.",
    "AccessDenied": "Check the keys, and grant them this; docs/how-to/security.md lists who needs what.",
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
_BY_KIND: tuple[tuple[type[Exception], str], ...] = (
    (Damaged, "Restore the object, or delete it: then it counts as missing."),
    (SSLError, "Check the certificate of the server and FLOWGAUGE_S3_CA_FILE."),
    (InvalidResponseError, "Check that the endpoint is an S3 service."),
    (ParseError, "Check that the endpoint is an S3 service."),
    (Exception, "Check that the object store runs and can be reached."),
)


def transient(fault: BaseException | None) -> bool:
    """Worth another try soon: connections, servers that fail or ask for patience, bytes damaged on their way."""
    if isinstance(fault, S3Error) and fault.code in _TRANSIENT_CODES:
        return True
    if isinstance(fault, S3Error | ServerError):
        status = fault.response.status if isinstance(fault, S3Error) else fault.status_code
        return status == 429 or (status >= 500 and status not in _LASTING)
    return isinstance(fault, HTTPError | InvalidResponseError | Damaged) and not isinstance(fault, SSLError)


@contextmanager
def s3_faults(address: str) -> Iterator[None]:
    """Every fault of a library inside becomes `StoreFull` or `Unavailable` (`AuthorizationFailed` where the keys lack
    the right), which names `address` and the remedy."""
    try:
        yield
    except S3Error as fault:
        code = fault.code or ""
        if fault.response.status == _NO_SPACE_STATUS or "QuotaExceeded" in code:
            remedy = "Free some, and the work goes on by itself."
            raise StoreFull(f"No space is left for {address}.", remedy) from fault
        kind = AuthorizationFailed if code == "AccessDenied" else Unavailable
        reason = f"{fault.code}: {fault.message}".removesuffix(".")
        raise kind(f"{address} cannot be used: {reason}.", _BY_CODE.get(code, "Check the object store.")) from fault
    except FAULTS as fault:
        inner = next((each for each in (fault.__cause__, *fault.args) if isinstance(each, OSError)), fault)
        # The body that a server sent may be a whole page.
        reason = str(inner).partition(", Body:")[0].removesuffix(".")
        remedy = next(words for kind, words in _BY_KIND if isinstance(fault, kind))
        raise Unavailable(f"{address} cannot be used: {reason}.", remedy) from fault
