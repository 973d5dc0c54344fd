"""The S3 library's client, as our settings want it."""

from minio import Minio
from minio.helpers import check_bucket_name
from urllib3 import PoolManager
from urllib3.util import Timeout

from flowgauge.domain.errors import SettingsError
from flowgauge.s3.settings import S3Settings

_CONNECTIONS = 16


def bucket_name(bucket: str) -> str:
    """`bucket`, if every service takes it. Raises `SettingsError`."""
    try:
        check_bucket_name(bucket, strict=True)
    except ValueError as error:
        remedy = "Use 3 to 63 lower-case letters, digits, dots or hyphens."
        raise SettingsError(f"{bucket!r} cannot name a bucket.", remedy) from error
    return bucket


def connections(settings: S3Settings) -> PoolManager:
    """Without retries of its own: `patiently` is the only loop."""
    return PoolManager(
        maxsize=_CONNECTIONS,
        timeout=Timeout(connect=settings.connect_seconds, read=settings.answer_seconds),
        retries=False,
        ca_certs=None if settings.ca_file is None else str(settings.ca_file),
    )


def client(settings: S3Settings, http: PoolManager) -> Minio:
    """Raises `SettingsError` for an endpoint or region that the library does not take."""
    try:
        return Minio(
            settings.host,
            settings.access_key,
            settings.secret_key.get_secret_value(),
            None if settings.session_token is None else settings.session_token.get_secret_value(),
            secure=settings.secure,
            region=settings.region,
            http_client=http,
        )
    except ValueError as error:
        raise SettingsError(f"The settings of S3 do not fit: {error}.", "Check the endpoint and the region.") from error
