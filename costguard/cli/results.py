"""`shell`, `chat` and `export`: what an ended job has left, looked at, talked to, merged."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard import paths
from costguard.cli.acting import note
from costguard.cli.client import ask
from costguard.cli.trained import at_home, chat_flags, export_flags, trained_by
from costguard.cli.visiting import POLL_S, Stay
from costguard.cli.words import duration
from costguard.core.money import ceil_div
from costguard.errors import EXIT_REFUSED, EXIT_USAGE, UserError
from costguard.lang import _, environment
from costguard.retell import retell

if TYPE_CHECKING:
    from collections.abc import Sequence

    import paramiko

MANIFEST = "manifest.json"  # the trainer writes it last: what it names is whole
LOGIN = 'exec "${SHELL:-/bin/sh}" -l'
EXIT_CUT = 1


def shell(job: str, for_text: str, *, hold: bool, yes: bool) -> int:
    """A shell on the instance of an ended job; with `hold` only its ssh command, while it is on."""
    with Stay(job, "shell", _length_ms(for_text), yes=yes) as stay:
        door = stay.door()
        note(
            _("log in from elsewhere on this machine: {command}").format(command=ssh_command(door))
        )
        status: int | None = 0
        if hold:
            note(_("held on; Ctrl-C, or the end of its time, switches it off"))
            while not stay.ended:
                time.sleep(POLL_S)
        else:
            folder = shlex.quote(door["job_dir"])
            status = _talk(stay, door, f"cd {folder} 2>/dev/null; {LOGIN}")
    return stay.exit_code or (EXIT_CUT if status is None else status)


def chat(job: str, for_text: str, *, interview: Path | None, here: bool, yes: bool) -> int:
    """Talk to what a job has trained, on its instance or, `here`, at home for nothing."""
    if interview is not None and not interview.is_file():
        raise UserError("no_file", _("there is no such file"), str(interview), "", EXIT_USAGE)
    result = ask("result", {"job": job})
    trained = trained_by(result)
    if here:
        asked = None if interview is None else str(interview.absolute())
        return _at_home("chat", chat_flags(at_home(trained, result), asked))
    with Stay(job, "chat", _length_ms(for_text), yes=yes) as stay:
        door = stay.door()
        there = None if interview is None else f"{door['visit_dir']}/interview.json"
        if interview is not None:
            _put(stay, door, interview, str(there))
        status = _talk(stay, door, _trainer(door, result, "chat", chat_flags(trained, there)))
    return stay.exit_code or (EXIT_CUT if status is None else status)


def export(
    job: str, for_text: str, *, bits: int | None, to: Path | None, here: bool, yes: bool
) -> int:
    """Merge the adapter into its base, on the instance or, `here`, at home; checked before kept."""
    if bits not in (None, 4):
        what = _("{bits} bits are not offered").format(bits=bits)
        raise UserError("usage", what, "--bits", _("4, or leave it out for bf16"), EXIT_USAGE)
    result = ask("result", {"job": job})
    trained = trained_by(result)
    if result["adapter"] is None:
        what = _("{job} has no finished adapter that could be exported").format(job=job)
        raise UserError("no_adapter", what, job, f"costguard resume {job}", EXIT_REFUSED)
    name = f"export-{'bf16' if bits is None else f'nf{bits}'}"
    target = (to or Path(result["pull_to"]) / job / name).absolute()
    if target.exists():
        what = _("something is there already")
        hint = _("give another --to, or remove that one yourself")
        raise UserError("exists", what, str(target), hint, EXIT_REFUSED)
    if here:
        return _at_home("export", export_flags(at_home(trained, result), bits, str(target)))
    note(_("`--here` does it on this machine's CPU and costs nothing, where torch is installed"))
    there = f"{name}-{result['adapter']['digest']}"
    with Stay(job, "export", _length_ms(for_text), yes=yes) as stay:
        status = _export_there(stay, result, export_flags(trained, bits, there), there, target)
    return stay.exit_code or status


def ssh_command(door: dict[str, Any]) -> str:
    """The command that logs in with OpenSSH: with our key, and no host key but the pinned one."""
    ssh = door["ssh"]
    known = paths.home() / f"known_hosts-{door['job']}"
    where = ssh["host"] if ssh["port"] == 22 else f"[{ssh['host']}]:{ssh['port']}"
    known.write_text("".join(f"{where} {line}\n" for line in ssh["host_keys"]), encoding="utf-8")
    words = ["ssh", "-p", str(ssh["port"]), "-o", "StrictHostKeyChecking=yes"]
    words += ["-o", f"UserKnownHostsFile={known}"]
    if ssh.get("password") is None:
        words += ["-o", "IdentitiesOnly=yes", "-i", str(ssh["key_file"])]
    return shlex.join([*words, f"{ssh['user']}@{ssh['host']}"])


def _length_ms(text: str) -> int:
    from costguard.jobfile import parse_duration_ms

    try:
        return parse_duration_ms(text)
    except ValueError as error:
        hint = _("such as --for 30m")
        raise UserError("usage", str(error), "--for", hint, EXIT_USAGE) from None


def _trainer(
    door: dict[str, Any], result: dict[str, Any], command: str, flags: Sequence[str]
) -> str:
    """The trainer's command on the instance, in the folder of the job's last stage."""
    python = result["python"] or "python3"
    speaking = [f"{name}={value}" for name, value in environment().items()]
    argv = ["env", *speaking, python, "-m", "trainer", command, *flags]
    return f"cd {shlex.quote(door['job_dir'])} && exec {shlex.join(argv)}"


def _talk(stay: Stay, door: dict[str, Any], command: str, *, stdin: int | None = 0) -> int | None:
    """Run it there with our own streams; None where it was cut off."""
    from costguard.remote.ssh import SshError
    from costguard.remote.terminal import talk

    client = stay.connect(door)
    try:
        return talk(client, command, lambda: stay.ended, stdin=stdin)
    except SshError as error:
        note(f"!!! {retell(str(error))}")
        return None
    finally:
        client.close()


def _put(stay: Stay, door: dict[str, Any], source: Path, target: str) -> None:
    from costguard.remote.upload import send_bytes

    client = stay.connect(door)
    try:
        send_bytes(client, source.read_bytes(), target)
    finally:
        client.close()


def _export_there(
    stay: Stay, result: dict[str, Any], flags: Sequence[str], there: str, target: Path
) -> int:
    """Export on the instance, unless it was done there before; then bring it home, verified."""
    from costguard.remote.ssh import SshError

    door = stay.door()
    client = stay.connect(door)
    folder = f"{door['job_dir']}/{there}"
    try:
        manifest = _manifest(client, folder)
        if manifest is None:
            status = _talk(stay, door, _trainer(door, result, "export", flags), stdin=None)
            if status != 0:
                return EXIT_CUT if status is None else status
            manifest = _manifest(client, folder)
        if manifest is None:
            note(f"!!! {folder}: " + _("the export left no manifest"))
            return EXIT_CUT
        limit = result.get("pull_bytes_per_s")
        _bring_home(client, door, folder, manifest, target, limit)
    except SshError as error:
        note(f"!!! {retell(str(error))}")
        note(_("what was exported stays on the disk: the same command goes on from there"))
        return EXIT_CUT
    finally:
        client.close()
    note(_("{path} is home, each file's sha256 verified").format(path=target))
    return 0


def _manifest(client: paramiko.SSHClient, folder: str) -> bytes | None:
    from costguard.remote.ssh import run

    done = run(client, ["cat", "--", f"{folder}/{MANIFEST}"])
    return done.stdout if done.status == 0 else None


def _bring_home(
    client: paramiko.SSHClient,
    door: dict[str, Any],
    folder: str,
    manifest: bytes,
    target: Path,
    bytes_per_s: int | None,
) -> None:
    import hashlib

    from costguard.remote.download import DownloadError, download, wanted_files
    from costguard.remote.prepare import agent_at

    own = {"path": MANIFEST, "size": len(manifest), "sha256": hashlib.sha256(manifest).hexdigest()}
    try:
        entries = json.loads(manifest)["files"]
        named = [{**entry, "path": entry["name"]} for entry in entries]
        files = wanted_files([*named, own])
        size = sum(file.size for file in files)
        note(_("bringing home {megabytes} MB").format(megabytes=f"{size / 1e6:.1f}"))
        if bytes_per_s is not None:
            pace = _("held to {mbit} Mbit/s ([artifacts] max_mbit_per_s): {time} at least")
            mbit, time_s = f"{bytes_per_s * 8 / 1e6:g}", ceil_div(size, bytes_per_s)
            note(pace.format(mbit=mbit, time=duration(time_s)))
        target.parent.mkdir(parents=True, exist_ok=True)
        download(client, agent_at(client, door["visit_dir"]), folder, files, target, bytes_per_s)
    except (DownloadError, ValueError, KeyError, TypeError) as error:
        what = _("the export did not come home: {error}").format(error=retell(str(error)))
        raise UserError("not_home", what, folder, _("try again")) from error


def _at_home(command: str, flags: Sequence[str]) -> int:
    """The trainer on this machine: no instance, no rent."""
    from costguard.preflight import trainer_command

    if importlib.util.find_spec("torch") is None:
        what = _("torch is not installed here")
        hint = _("leave --here out: it is done on the instance, for its rent")
        raise UserError("no_torch", what, "--here", hint, EXIT_REFUSED)
    note(_("on this machine: nothing is switched on, and nothing is charged"))
    argv, root = trainer_command(command, *flags)
    search = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    speaking = {**os.environ, **environment(), "PYTHONPATH": search}
    done = subprocess.run(argv, env=speaking, check=False)
    return done.returncode
