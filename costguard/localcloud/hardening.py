"""What the instance's process gives up before it runs anything of the guest's. Linux only.

The first net against a guest that types `shutdown` is its PATH (guest.py). These are the others:
the reboot system call is taken away, and so is every way to gain rights (setuid, sudo).
"""

from __future__ import annotations

import ctypes
import os
import sys

# linux/prctl.h and linux/capability.h
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
CAP_SYS_BOOT = 22


def confine() -> None:
    """Adopt orphans, give up gaining rights, and, as root, the right to reboot the machine.

    The bounding set only limits what a program gains when it is executed, which is what the guest's
    commands are: the process itself never calls reboot. OSError if the kernel refuses.
    """
    if not sys.platform.startswith("linux"):
        return
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() == 0:
        _prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")
