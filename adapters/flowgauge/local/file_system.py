"""Which file system a folder lies on: SQLite's log, our lock and the kernel's word of changes need one that is this
machine's alone.
"""

import os
from pathlib import Path

import psutil

from flowgauge.domain.errors import SettingsError

ALLOW_NETWORK = "FLOWGAUGE_ALLOW_NETWORK_STORE"
"""The variable that insists, where it is 1."""

_NETWORK = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "smbnetfs",
        "ncpfs",
        "afs",
        "afpfs",
        "coda",
        "9p",
        "virtiofs",
        "ceph",
        "glusterfs",
        "lustre",
        "beegfs",
        "gpfs",
        "panfs",
        "orangefs",
        "pvfs2",
        "moosefs",
        "juicefs",
        "webdav",
        "davfs",
        "davfs2",
        "sshfs",
        "rclone",
        "s3fs",
        "goofys",
        "gcsfuse",
        "blobfuse",
        "blobfuse2",
        "curlftpfs",
        "vboxsf",
        "mount.s3",
        "mountpoint-s3",
        "vmhgfs",
        "vmhgfs-fuse",
        "prl_fs",
        "drvfs",
        "osxfs",
        "grpcfuse",
    ]
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
    return kind.removeprefix("fuse.") in _NETWORK


def refuse_network(folder: Path) -> None:
    """Raises `SettingsError` where `folder`, which need not exist, lies on a file system of another machine."""
    kind = file_system(folder)
    if not is_network(kind) or os.environ.get(ALLOW_NETWORK) == "1":
        return
    raise SettingsError(
        f"{folder} lies on a network file system ({kind}), where SQLite's log can be damaged and locks may not hold.",
        "Use a disk of this machine, or a plant at s3:// for several; a folder that is watched may lie on a share."
        f" {ALLOW_NETWORK}=1 insists.",
    )
