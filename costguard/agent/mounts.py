"""On which file system a path lies, and whether that is somewhere else on a network."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

MOUNTINFO = Path("/proc/self/mountinfo")
NETWORK_TYPES = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "glusterfs", "beegfs"),
        *("gpfs", "9p", "afs", "ocfs2", "gfs2", "wekafs", "pvfs2"),
    }
)
# Object stores and clusters as file systems: fuse.s3fs, fuse.ossfs, fuse.juicefs, fuse.sshfs …
FUSE_LOCAL = frozenset({"fuse.lxcfs", "fuse.fuse-overlayfs", "fuse.overlayfs", "fuseblk"})


def mount_of(path: Path, mountinfo: Path = MOUNTINFO) -> dict[str, Any] | None:
    """`type`, `source` and `network` of the mount that holds `path`; None where it is not known.

    Fields as in proc(5), `/proc/pid/mountinfo`; of nested mounts the deepest, the last of equals.
    """
    try:
        text = mountinfo.read_text(encoding="utf-8", errors="surrogateescape")
        real = os.path.realpath(path)
    except OSError:
        return None
    best: tuple[int, str, str] | None = None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) < 5 or len(rest) < 2:
            continue
        point = _plain(fields[4])
        inside = point in ("/", real) or real.startswith(point + "/")
        if inside and (best is None or len(point) >= best[0]):
            best = (len(point), rest[0], _plain(rest[1]))
    if best is None:
        return None
    return {"type": best[1], "source": best[2], "network": is_network(best[1])}


def is_network(kind: str) -> bool:
    """Whether a file system of this type fetches its blocks from elsewhere."""
    return kind in NETWORK_TYPES or (kind.startswith("fuse") and kind not in FUSE_LOCAL)


def _plain(text: str) -> str:
    """Spaces and such are written in octal there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), text)
