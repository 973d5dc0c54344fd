"""What a store in a directory needs of the file system below it: that it is this machine's alone, room and rights to
write, and a lock for the one runner. A watched folder asks it which shares are mounted.
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from flowgauge.domain.errors import SettingsError, StoreBusy, StoreFull, Unavailable

ALLOW_NETWORK = "FLOWGAUGE_ALLOW_NETWORK_STORE"
"""The variable that insists, where it is 1."""

_FSTAB = Path("/etc/fstab")
# Types of mounts, without the prefix of FUSE, that others than this machine may write on.
_NETWORK = re.compile(
    "nfs|nfs4|cifs|smb|smb2|smb3|smbfs|smbnetfs|ncpfs|afs|afpfs|coda|9p|virtiofs|ceph|glusterfs|lustre|beegfs|gpfs|panfs|"
    "orangefs|pvfs2|moosefs|juicefs|webdav|davfs|davfs2|sshfs|rclone|s3fs|goofys|gcsfuse|blobfuse|blobfuse2|curlftpfs|"
    r"vboxsf|mount\.s3|mountpoint-s3|vmhgfs|vmhgfs-fuse|prl_fs|drvfs|osxfs|grpcfuse"
)


def file_system(folder: Path) -> str:
    """The type of the mount that `folder`, which need not exist, lies below, such as ext4, nfs4 or fuse.sshfs; "" where
    nothing tells. The last of those mounted at one point hides the others.
    """
    resolved = folder.resolve()
    mounts = [(Path(mount.mountpoint), mount.fstype) for mount in psutil.disk_partitions(all=True)]
    above = [(len(point.parts), kind) for point, kind in mounts if resolved.is_relative_to(point)]
    deepest = max((depth for depth, _ in above), default=None)
    return next((kind.lower() for depth, kind in reversed(above) if depth == deepest), "")


def is_network(kind: str) -> bool:
    """Whether others than this machine may write on a file system of that type."""
    return _NETWORK.fullmatch(kind.removeprefix("fuse.")) is not None


def refuse_network(folder: Path) -> None:
    """Raises `SettingsError` where `folder`, which need not exist, lies on a file system of another machine: SQLite's
    log, our lock and the kernel's reports of changes need one that is this machine's alone.
    """
    kind = file_system(folder)
    if not is_network(kind) or os.environ.get(ALLOW_NETWORK) == "1":
        return
    raise SettingsError(
        f"{folder} lies on a network file system ({kind}), where SQLite's log can be damaged and locks may not hold.",
        "Use a disk of this machine, or a plant at s3:// for several; a folder that is watched may lie on a share."
        f" {ALLOW_NETWORK}=1 insists.",
    )


def missing_mount(folder: Path) -> Path | None:
    """The place at or above `folder` where /etc/fstab wants something mounted and nothing is."""
    if not _FSTAB.exists():
        return None
    rows = [line.split() for line in _FSTAB.read_text(errors="surrogateescape").splitlines()]
    wanted = {Path(row[1].replace("\\040", " ")) for row in rows if len(row) >= 3 and not row[0].startswith("#")}
    resolved = folder.resolve()
    above = (resolved, *resolved.parents)
    return next((each for each in above if each in wanted and not each.is_mount()), None)


def read_only(path: Path) -> bool:
    """Whether the file system of `path`, in a folder that exists, is mounted so: SQLite does not say it."""
    try:
        return bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    except OSError:
        # A folder that is away is another fault, which the caller names.
        return False


def disk_fault(path: Path, reason: object, *, is_full: bool, is_read_only: bool) -> Unavailable:
    if is_full:
        return StoreFull(f"No space is left for {path}.", "Free some, and the work goes on by itself.")
    if is_read_only:
        return Unavailable(
            f"{path} lies on a read-only file system.",
            "Mount it for writing (one with errors becomes read-only by itself), and the work goes on by itself.",
        )
    return Unavailable(f"{path} cannot be used: {reason}.", "Check the disk and its rights.")


@contextmanager
def named_faults(path: Path) -> Iterator[None]:
    """Turns every `OSError` of the block into `StoreFull` or `Unavailable`, naming `path`."""
    try:
        yield
    except OSError as error:
        is_full, is_read_only = error.errno in (errno.ENOSPC, errno.EDQUOT), error.errno == errno.EROFS
        raise disk_fault(path, error.strerror, is_full=is_full, is_read_only=is_read_only) from error


@contextmanager
def only_runner(path: Path) -> Iterator[None]:
    """Hold `path` as long as the block runs; the kernel lets go of it however the process ends.

    Raises `StoreBusy` that names the process which holds it, and `StoreFull` where there is no room for its name.
    """
    with named_faults(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            cause = f"Another runner (process {path.read_text() or 'unknown'}) works on {path.parent}."
            raise StoreBusy(cause, "Stop it first, or use another --store.") from error
        with named_faults(path):
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)
