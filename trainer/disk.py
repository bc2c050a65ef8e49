"""The file operations of a save, one system call each: the seam at which tests record and kill."""

from __future__ import annotations

import fcntl
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WRITE_BYTES = 16 * 2**20


class Disk:
    """The real thing. Every step that a crash can fall between is a method of its own."""

    def make_directory(self, path: Path) -> None:
        """Make `path`, which must not be there yet."""
        path.mkdir()

    def write_file(self, path: Path, data: bytes) -> None:
        """Create `path` with `data` and see it safely on the disk; raises OSError if that fails."""
        descriptor = self.create(path)
        try:
            view = memoryview(data)
            while view:
                view = view[self.write(descriptor, view[:WRITE_BYTES]) :]
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def create(self, path: Path) -> int:
        """A descriptor of the new file `path`, which must not be there yet."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, descriptor: int, data: memoryview) -> int:
        """How many bytes of `data` the system took."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Return when the file's bytes would survive a power cut."""
        if sys.platform == "darwin":  # there, fsync stops at the drive's cache
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fsync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """Return when the names in `path` would survive a power cut."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Give `old` the name `new`, at once or not at all. The caller sees that `new` is free."""
        old.rename(new)

    def remove_file(self, path: Path) -> None:
        """Remove the file `path`."""
        path.unlink()

    def remove_directory(self, path: Path) -> None:
        """Remove the empty directory `path`."""
        path.rmdir()

    def remove_tree(self, path: Path) -> None:
        """Remove the directory `path` with its files, one operation each, if it is there."""
        if not path.is_dir():
            return
        for entry in sorted(path.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                self.remove_tree(entry)
            else:
                self.remove_file(entry)
        self.remove_directory(path)
