"""What a guest finds on its disk and in its environment.

The environment is built from nothing, so that no secret of the host's leaks in. Every command by
which a guest would turn its machine off, found first on its PATH, asks the platform to turn off
this instance, and can do nothing else.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from costguard.localcloud.processes import MARKER

if TYPE_CHECKING:
    from costguard.localcloud.state import Instance

POWER_OFF_PATH = "/guest/power_off"
POWER_OFF_PROGRAM = "localcloud-power-off"
# Also those that are not for turning off alone: here they cannot do anything else.
SHADOWED = ("shutdown", "poweroff", "halt", "reboot", "init", "telinit", "systemctl", "loginctl")

POWER_OFF_SOURCE = '''\
"""Asks the platform to turn this instance off, under whatever name it is called."""

import http.client
import os
import sys
import urllib.parse

OFF_WORDS = {"poweroff", "halt", "reboot", "0", "6"}
NOT_OFF = {"-c", "-k", "--help", "--show", "--version"}


def main(name, words):
    if name in ("init", "telinit", "systemctl", "loginctl"):
        turns_off = bool(OFF_WORDS & set(words))
    else:
        turns_off = not NOT_OFF & set(words)
    if not turns_off:
        print(f"{name}: on this instance it only turns the instance off, at once", file=sys.stderr)
        return 1
    url = urllib.parse.urlsplit(os.environ["LOCALCLOUD_POWER_OFF_URL"])
    with open(os.environ["LOCALCLOUD_TOKEN_FILE"], encoding="ascii") as file:
        token = file.read().strip()
    try:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
        connection.request("POST", url.path, headers={"X-Instance-Token": token})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"{name}: the platform did not answer: {error!r}", file=sys.stderr)
        return 1
    if answer.status != 202:
        print(f"{name}: the platform answered {answer.status}: {text}", file=sys.stderr)
        return 1
    return 0


sys.exit(main(os.path.basename(sys.argv[1]), sys.argv[2:]))
'''

# A login shell resets PATH from /etc before it reads these; put ours in front again.
PROFILE = 'PATH="$HOME/bin:$PATH"\nexport PATH\n'


def furnish(instance: Instance) -> None:
    """Lay out the instance's disk; what the guest has put there since stays."""
    disk = instance.disk
    for folder in (disk, disk / "bin", disk / ".localcloud", Path(instance.work_dir)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    token_file = disk / ".localcloud" / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(instance.guest_token, encoding="ascii")
    program = disk / ".localcloud" / "power_off.py"
    program.write_text(POWER_OFF_SOURCE, encoding="utf-8")
    interpreter, source = shlex.quote(sys.executable), shlex.quote(str(program))
    for name in (*SHADOWED, POWER_OFF_PROGRAM):
        script = disk / "bin" / name
        script.unlink(missing_ok=True)
        script.write_text(
            f'#!/bin/sh\nexec {interpreter} -I -S {source} "$0" "$@"\n', encoding="utf-8"
        )
        script.chmod(0o755)
    for name in (".profile", ".zprofile"):
        if not (disk / name).exists():
            (disk / name).write_text(PROFILE, encoding="utf-8")


def environment(instance: Instance, platform_url: str) -> dict[str, str]:
    """The whole environment of the guest's commands."""
    disk = str(instance.disk)
    path = (
        f"{disk}/bin",
        os.path.dirname(sys.executable),  # noqa: PTH120 - unresolved: a venv's links matter
        "/usr/local/bin",
        "/usr/bin",
        "/bin",
    )
    return {
        "HOME": disk,
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "PATH": ":".join(path),
        MARKER: instance.id,
        "LOCALCLOUD_POWER_OFF_URL": platform_url + POWER_OFF_PATH,
        "LOCALCLOUD_TOKEN_FILE": f"{disk}/.localcloud/token",
    }
