"""`doctor`: what can be found out for free before money moves, of this home and of each account."""

from __future__ import annotations

import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from costguard.daemon.accounts import account_names, open_to_ask
from costguard.errors import UserError
from costguard.providers.base import CreateRequest, ProviderError
from costguard.providers.checkup import Finding, examine
from costguard.remote.ssh import HostKeyChangedError, SshError, fingerprint, scan_host_key
from costguard.report.figures import time_text
from costguard.store.database import read_only_session
from costguard.store.drilled import proof_of

if TYPE_CHECKING:
    from costguard.core.moment import Moment
    from costguard.providers.base import Account, SshDetails
    from costguard.settings import Settings

SCHEMA = "costguard.doctor/1"
BY_HAND = "for f in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $f; done"


def doctor_document(
    settings: Settings, now: Moment, names: tuple[str, ...], gpu: str | None
) -> dict[str, Any]:
    """Findings on the home and on these accounts, on all if none is named; nothing is changed."""
    home = _home(settings, now)
    found = {name: _account(settings, now, name, gpu) for name in names or account_names(settings)}
    everything = [*home, *(each for findings in found.values() for each in findings)]
    return {
        "schema": SCHEMA,
        "as_of": time_text(now.utc_ms),
        "is_fine": all(each.is_fine is not False for each in everything),
        "home": [_json(each) for each in home],
        "accounts": [
            {"provider": name, "findings": [_json(each) for each in findings]}
            for name, findings in found.items()
        ],
    }


def _home(settings: Settings, now: Moment) -> list[Finding]:
    mode = stat.S_IMODE(settings.home.stat().st_mode)
    is_private = mode & 0o077 == 0
    text = f"{settings.home}, mode {mode:04o}"
    if not is_private:
        text += f": others may look into it; chmod 700 {settings.home}"
    zone = f"{time_text(now.utc_ms)}; months are counted in {settings.timezone}"
    return [
        Finding("config", True, f"understood; accounts: {', '.join(account_names(settings)) or 0}"),
        Finding("home", is_private, text),
        Finding("clock", None, f"{zone}; compare it with a watch"),
    ]


def _account(settings: Settings, now: Moment, name: str, gpu: str | None) -> list[Finding]:
    try:
        account = open_to_ask(settings, name)
    except UserError as error:
        # The platform on this machine is started by the first job that wants it.
        is_fine = None if error.code == "not_running" else False
        return [Finding("token", is_fine, f"{error.what}: {error.hint}")]
    found = [_drilled(settings, name, each) for each in examine(account, _request(gpu), now)]
    if not name.startswith("ssh."):
        return found
    key = _host_key(account, name.removeprefix("ssh."), now)
    return [key if each.what == "host key" else each for each in found]


def _drilled(settings: Settings, name: str, found: Finding) -> Finding:
    """The finding on a timer that can be armed, with what a drill has shown of it."""
    if found.what != "timer" or found.is_fine is not None:
        return found
    proof = None
    database = settings.home / "costguard.db"
    if database.exists():
        with read_only_session(database) as session:
            proof = proof_of(session, name)
    if proof is None:
        return replace(found, text=f"{found.text}: costguard doctor --provider {name} --drill")
    seen = f"seen to stop an instance on {time_text(proof.at_ms)}, {proof.late_ms} ms late"
    return Finding("timer", True, f"read back, and {seen}")


def _host_key(account: Account, box: str, now: Moment) -> Finding:
    """The key that the machine shows, held against the config's, or to be compared by a person."""
    try:
        ssh: SshDetails | None = account.read(box, now).ssh
        if ssh is None:
            return Finding("host key", None, "it is off: nothing to compare")
        line = scan_host_key(ssh.host, ssh.port)
        if not ssh.host_keys:
            text = (
                f"not in the config; it shows {fingerprint(line)}: compare that with what this "
                f"prints in the platform's own web terminal: {BY_HAND}; if one is the same: "
                f'host_key = "{line}"'
            )
            return Finding("host key", None, text)
        pinned = [fingerprint(each) for each in ssh.host_keys]
    except (ProviderError, SshError) as error:
        is_wrong = isinstance(error, HostKeyChangedError)
        return Finding("host key", False if is_wrong else None, str(error))
    shown = fingerprint(line)
    if shown in pinned or line.split()[0] != ssh.host_keys[0].split()[0]:
        return Finding("host key", True, f"pinned in the config: {pinned[0]}")
    return Finding("host key", False, f"it shows {shown}, the config has {pinned[0]}")


def _request(gpu: str | None) -> CreateRequest:
    """What a price is asked for: one card of the kind, all else as the adapter has it."""
    return CreateRequest(
        name="costguard-doctor",
        tag="costguard-doctor",
        gpu=gpu,
        gpu_count=1,
        image=None,
        region=None,
        ssh_public_key="",
        stop_at_ms=None,
        max_price_micros_per_hour=None,
    )


def _json(finding: Finding) -> dict[str, Any]:
    return {"what": finding.what, "is_fine": finding.is_fine, "text": finding.text}
