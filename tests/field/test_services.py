"""Services as plants run them: Redis that fails over or is a cluster, temporary keys, disks of another machine."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from uuid import uuid4

import pytest
from minio import Minio, MinioAdmin
from minio.credentials.providers import AssumeRoleProvider, StaticProvider
from pydantic import SecretStr
from redis import Redis as Client

from deploy.native.servers import Redis
from flowgauge.domain.errors import Unavailable
from flowgauge.redis.state import RedisState
from flowgauge.s3.objects import S3Objects
from flowgauge.settings.environment import s3_settings
from tests.support.redis_servers import Address, redis_cluster
from tests.support.servers import S3Address, plant_variables, provided, running
from tests.support.shell import Shell
from tests.support.sockets import serving
from tests.support.streaming import SetClock, png

_FAILOVER_SECONDS = 60


def insisted(state: RedisState, key: str, value: bytes) -> list[Unavailable]:
    """What was raised until `value` could be put: a worker tries again in the same way."""
    raised: list[Unavailable] = []
    deadline = monotonic() + _FAILOVER_SECONDS
    while monotonic() < deadline:
        try:
            state.put(key, value, 60)
            return raised
        except Unavailable as error:
            raised.append(error)
            sleep(0.1)
    raise raised[-1]


def test_after_a_failover_the_address_leads_to_the_new_primary_without_a_restart(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    with (
        provided(pytestconfig, running(Redis(tmp_path / "one"))) as one,
        running(Redis(tmp_path / "two")) as two,
        Client.from_url(one.url) as first,
        Client.from_url(two.url) as second,
    ):
        address = Address(one)
        with serving(address) as port, closing(RedisState(f"redis://127.0.0.1:{port}/0", SetClock())) as state:
            state.put("k", b"before", 60)
            first.replicaof("127.0.0.1", two.port())
            with pytest.raises(Unavailable, match=r"a replica takes no writes.* goes on by itself"):
                state.put("k", b"lost", 60)
            with pytest.raises(Unavailable, match="a replica takes no writes"):
                state.lease("l", "one", 10)
            address.primary = two
            assert insisted(state, "k", b"after") == []
            assert state.get("k") == b"after"
            assert second.dbsize() == 1


@pytest.mark.slow
def test_a_cluster_that_loses_a_primary_is_waited_for(pytestconfig: pytest.Config) -> None:
    keys = [str(number) for number in range(50)]
    with (
        provided(pytestconfig, redis_cluster(replicas=1)) as nodes,
        closing(RedisState(nodes[0].url, SetClock())) as state,
        Client.from_url(nodes[1].url) as second,
    ):
        for key in keys:
            insisted(state, key, b"before")
        assert second.dbsize(), "a primary without keys proves nothing"
        nodes[1].kill()
        assert [error for key in keys for error in insisted(state, key, b"after")], "nothing was missing"
        assert {state.get(key) for key in keys} == {b"after"}


def test_a_database_that_a_cluster_does_not_have_is_said(redis_cluster_url: str) -> None:
    url = redis_cluster_url.removesuffix("0") + "3"
    with closing(RedisState(url, SetClock())) as state, pytest.raises(Unavailable, match="has no other database"):
        state.get("k")


@pytest.fixture
def temporary(s3_address: S3Address, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket; the environment has keys to it of a role that somebody has taken on."""
    name = f"sts-{uuid4().hex[:8]}"
    host, secure = s3_address.endpoint.partition("://")[2], s3_address.endpoint.startswith("https")
    own = StaticProvider(s3_address.access_key, s3_address.secret_key)
    admin = MinioAdmin(endpoint=host, credentials=own, secure=secure)
    admin.user_add(name, "secret-of-the-role")
    admin.policy_set("readwrite", user=name)
    Minio(endpoint=host, credentials=own, secure=secure).make_bucket(name)
    role = AssumeRoleProvider(
        sts_endpoint=s3_address.endpoint, access_key=name, secret_key="secret-of-the-role", duration_seconds=3_600
    ).retrieve()
    for variable, value in plant_variables("127.0.0.1:1", "redis://127.0.0.1:1", s3_address).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("FLOWGAUGE_S3_ACCESS_KEY", role.access_key)
    monkeypatch.setenv("FLOWGAUGE_S3_SECRET_KEY", role.secret_key)
    monkeypatch.setenv("FLOWGAUGE_S3_SESSION_TOKEN", str(role.session_token))
    yield name
    admin.user_remove(name)


def test_temporary_keys_work_with_their_token_and_the_remedy_names_it_without(
    flowgauge: Shell, temporary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("store", "retention", "--store", f"s3://{temporary}", "--passes-days", 30)
    done = flowgauge(*command)
    assert done.code == 0, done.err
    settings = s3_settings(os.environ)
    with closing(S3Objects(settings, temporary)) as objects:
        objects.put("a", b"1")
        assert objects.get("a") == b"1"
    assert os.environ["FLOWGAUGE_S3_SESSION_TOKEN"] not in repr(settings)

    monkeypatch.delenv("FLOWGAUGE_S3_SESSION_TOKEN")
    refused = flowgauge(*command)
    assert refused.code == 1
    assert "FLOWGAUGE_S3_SESSION_TOKEN" in refused.err

    wrong = settings.model_copy(update={"session_token": SecretStr("of-another-role")})
    with closing(S3Objects(wrong, temporary)) as objects, pytest.raises(Unavailable, match="get new ones"):
        objects.get("a")


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Path]:
    """A mount that the kernel lists as a share of another machine, and whose other side does not answer."""
    folder = tmp_path / "share"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no file system of a process can be mounted here: {error}")
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0".encode()
    mounted = libc.mount(b"camera@nas:/plant", bytes(folder), b"fuse.sshfs", 0, options)
    os.close(descriptor)  # a server that went away: what is asked of the mount fails at once
    if mounted:
        pytest.skip(f"no file system of a process can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_store_on_a_share_is_refused_and_who_insists_gets_it(
    flowgauge: Shell, share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = tmp_path / "plant"
    linked.symlink_to(share)
    for store in (share, share / "deep" / "below", linked):
        refused = flowgauge("lines", "list", "--store", store)
        assert refused.code == 2
        assert "network file system (fuse.sshfs)" in refused.err
        assert "FLOWGAUGE_ALLOW_NETWORK_STORE=1 insists" in refused.err
    monkeypatch.setenv("FLOWGAUGE_ALLOW_NETWORK_STORE", "1")
    insisted = flowgauge("lines", "list", "--store", share)
    assert insisted.code == 1
    assert "not connected" in insisted.err
    monkeypatch.delenv("FLOWGAUGE_ALLOW_NETWORK_STORE")
    (tmp_path / "beside").mkdir()
    assert flowgauge("lines", "list", "--store", tmp_path / "beside").code == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which can be made read-only."""
    root = tmp_path / "disk"
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(root)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield root
    subprocess.run(["umount", "--lazy", str(root)], check=True)


def test_a_read_only_disk_is_said_and_work_goes_on_once_it_takes_writes(
    flowgauge: Shell, disk: Path, tmp_path: Path
) -> None:
    images = tmp_path / "incoming"
    images.mkdir()
    (images / "a.png").write_bytes(png(100))
    run = ("run", images, "--line", "press-3", "--once", "--store")
    assert flowgauge(*run, disk / "plant").code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    (images / "b.png").write_bytes(png(110))
    for store in (disk / "plant", disk / "new"):
        refused = flowgauge(*run, store)
        assert refused.code == 1
        assert "lies on a read-only file system. Mount it for writing" in refused.err
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    done = flowgauge(*run, disk / "plant")
    assert done.code == 0
    assert "1 verdicts" in done.out + done.err
