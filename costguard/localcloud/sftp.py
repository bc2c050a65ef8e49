"""The SFTP subsystem of an instance, confined to its disk by real paths."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import paramiko
from paramiko import SFTPAttributes, SFTPServer
from paramiko.sftp import SFTP_FAILURE, SFTP_OK

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import ReadableBuffer

Function = TypeVar("Function", bound=Callable[..., Any])
DEFAULT_FILE_MODE = 0o666
DEFAULT_FOLDER_MODE = 0o777


def _coded(function: Function) -> Function:
    """The function, with an OSError turned into the SFTP status that stands for it."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            return SFTPServer.convert_errno(error.errno or 0)

    return wrapper  # type: ignore[return-value]


class DiskHandle(paramiko.SFTPHandle):
    """An open file, read and written at offsets."""

    def __init__(self, descriptor: int, flags: int) -> None:
        super().__init__(flags)
        self._descriptor = descriptor
        self._appends = bool(flags & os.O_APPEND)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @_coded
    def read(self, offset: int, length: int) -> bytes | int:
        """Up to `length` bytes from `offset` on; empty at the end of the file."""
        return os.pread(self._descriptor, length, offset)

    @_coded
    def write(self, offset: int, data: ReadableBuffer) -> int:
        """Write all of `data`: at `offset`, or at the end where the file was opened to append."""
        view = memoryview(data)
        while view:
            if self._appends:  # Linux ignores pwrite's offset then; other systems do not
                written = os.write(self._descriptor, view)
            else:
                written = os.pwrite(self._descriptor, view, offset)
            offset += written
            view = view[written:]
        return SFTP_OK

    @_coded
    def stat(self) -> SFTPAttributes | int:
        """The open file's attributes."""
        return SFTPAttributes.from_stat(os.fstat(self._descriptor))

    @_coded
    def chattr(self, attr: SFTPAttributes) -> int:
        """Set size, mode and times of the open file."""
        _set_attributes(self._descriptor, attr)
        return SFTP_OK


class ConfinedSftp(paramiko.SFTPServerInterface):
    """The files below one folder, under their real absolute paths, and no others."""

    def __init__(self, server: paramiko.ServerInterface, root: Path) -> None:
        super().__init__(server)
        self._root = os.path.realpath(root)

    def canonicalize(self, path: str) -> str:
        """The absolute path of a name; a relative one counts from the disk's top folder."""
        return os.path.normpath(os.path.join(self._root, path))  # noqa: PTH118

    @_coded
    def open(self, path: str, flags: int, attr: SFTPAttributes) -> paramiko.SFTPHandle | int:
        """Open or make a file with the mode asked for."""
        mode = DEFAULT_FILE_MODE if attr.st_mode is None else attr.st_mode & 0o777
        target = self._resolve(path)
        return DiskHandle(os.open(target, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode), flags)

    @_coded
    def list_folder(self, path: str) -> list[SFTPAttributes] | int:
        """What is in the folder; links are shown as links."""
        found = []
        with os.scandir(self._resolve(path)) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                found.append(SFTPAttributes.from_stat(status, entry.name))
        return found

    @_coded
    def stat(self, path: str) -> SFTPAttributes | int:
        """Attributes, of what a link points to."""
        return SFTPAttributes.from_stat(os.stat(self._resolve(path)))  # noqa: PTH116

    @_coded
    def lstat(self, path: str) -> SFTPAttributes | int:
        """Attributes, of a link itself."""
        return SFTPAttributes.from_stat(os.lstat(self._name(path)))

    @_coded
    def remove(self, path: str) -> int:
        """Remove a file or a link."""
        os.unlink(self._name(path))  # noqa: PTH108
        return SFTP_OK

    @_coded
    def rename(self, oldpath: str, newpath: str) -> int:
        """Rename; refused where the new name is taken, as SFTP version 3 has it."""
        old, new = self._name(oldpath), self._name(newpath)
        if os.path.lexists(new):
            return SFTP_FAILURE
        os.rename(old, new)  # noqa: PTH104
        return SFTP_OK

    @_coded
    def posix_rename(self, oldpath: str, newpath: str) -> int:
        """Rename, replacing what has the new name in one step."""
        os.replace(self._name(oldpath), self._name(newpath))  # noqa: PTH105
        return SFTP_OK

    @_coded
    def mkdir(self, path: str, attr: SFTPAttributes) -> int:
        """Make a folder."""
        mode = DEFAULT_FOLDER_MODE if attr.st_mode is None else attr.st_mode & 0o777
        os.mkdir(self._name(path), mode)  # noqa: PTH102
        return SFTP_OK

    @_coded
    def rmdir(self, path: str) -> int:
        """Remove an empty folder."""
        os.rmdir(self._name(path))  # noqa: PTH106
        return SFTP_OK

    @_coded
    def chattr(self, path: str, attr: SFTPAttributes) -> int:
        """Set size, mode and times of what the path names."""
        _set_attributes(self._resolve(path), attr)
        return SFTP_OK

    def _resolve(self, path: str) -> str:
        """The real path with every link followed; OSError if it lies outside the disk."""
        return self._inside(os.path.realpath(self.canonicalize(path)))

    def _name(self, path: str) -> str:
        """The path with every link followed but the last part's; OSError if it lies outside."""
        folder, name = os.path.split(self.canonicalize(path))
        return self._inside(os.path.join(os.path.realpath(folder), name))  # noqa: PTH118

    def _inside(self, path: str) -> str:
        if path != self._root and not path.startswith(self._root + os.sep):
            raise PermissionError(errno.EACCES, "outside of the instance's disk", path)
        return path


def _set_attributes(target: int | str, attr: SFTPAttributes) -> None:
    if attr.st_size is not None:
        os.truncate(target, attr.st_size)
    if attr.st_mode is not None:
        os.chmod(target, attr.st_mode & 0o7777)  # noqa: PTH101
    if attr.st_atime is not None and attr.st_mtime is not None:
        os.utime(target, (attr.st_atime, attr.st_mtime))
