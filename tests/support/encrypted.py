"""A MinIO that speaks TLS only, with users of the policies of deploy/policies, and a Redis that wants a password."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from urllib3 import PoolManager

from deploy.native.process import HOST
from deploy.native.servers import ACCESS_KEY, Minio, Redis
from tests.support.certificates import Authority
from tests.support.guarded import password_of
from tests.support.servers import running

POLICIES = Path(__file__).parents[2] / "deploy" / "policies"
_BUCKET = "flowgauge"


@dataclass(frozen=True)
class GuardedMinio:
    minio: Minio
    authority: Authority

    def operator(self) -> dict[str, str]:
        return self._variables(ACCESS_KEY, self.minio.secret)

    def user(self, name: str) -> dict[str, str]:
        return self._variables(name, password_of(name))

    def add_users(self, bucket: str) -> None:
        """One for each policy and of the same name, with its rights in `bucket`; one that is there gets them anew."""
        http = PoolManager(ca_certs=str(self.authority.certificate))
        admin = MinioAdmin(
            endpoint=self.minio.address,
            credentials=StaticProvider(ACCESS_KEY, self.minio.secret),
            http_client=http,
        )
        for file in sorted(POLICIES.glob("*.json")):
            policy = json.loads(file.read_text().replace(f":::{_BUCKET}", f":::{bucket}"))
            admin.policy_add(file.stem, policy=policy)
            admin.user_add(file.stem, password_of(file.stem))
            admin.policy_set(file.stem, user=file.stem)
        http.clear()

    def _variables(self, access_key: str, secret_key: str) -> dict[str, str]:
        return {
            "FLOWGAUGE_S3_ENDPOINT": self.minio.endpoint,
            "FLOWGAUGE_S3_ACCESS_KEY": access_key,
            "FLOWGAUGE_S3_SECRET_KEY": secret_key,
            "FLOWGAUGE_S3_CA_FILE": str(self.authority.certificate),
        }


@contextmanager
def guarded_minio(folder: Path) -> Iterator[GuardedMinio]:
    """Raises `ServerError` where it cannot be had."""
    authority = Authority(folder / "authority")
    with running(Minio(folder / "minio", authority.issue("minio"))) as minio:
        yield GuardedMinio(minio, authority)


@dataclass(frozen=True)
class GuardedRedis:
    redis: Redis
    authority: Authority

    def variables(self, password: str = password_of("redis")) -> dict[str, str]:
        address = f"{HOST}:{self.redis.port('tls_port')}"
        return {
            "FLOWGAUGE_REDIS_URL": f"rediss://:{quote(password)}@{address}/0",
            "FLOWGAUGE_REDIS_CA_FILE": str(self.authority.certificate),
        }


@contextmanager
def guarded_redis(folder: Path) -> Iterator[GuardedRedis]:
    """Raises `ServerError` where it cannot be had."""
    authority = Authority(folder / "authority")
    with running(Redis(folder / "redis", authority.issue("redis"), password_of("redis"))) as redis:
        yield GuardedRedis(redis, authority)
