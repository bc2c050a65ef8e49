"""Any machine with SSH: made by hand in a console, on a platform without an API, or your own.

Everything known of it is what its table in the config says; costguard makes and deletes none.
What it can do depends on the commands given, and the facts say so:

- `power_state_command`: run here; exits 0 and prints exactly `running` or `stopped`. Anything
  else, and 10 seconds without an end, is unknown. Without one, an SSH port that answers is
  running, and one that does not is unknown: a cut line is no proof that a meter stopped.
- `pause_command`: run here. Without one nobody but a person can stop the meter (`can_stop` is
  False): the console's address goes into the alarm, and charging goes on until they have.
- `resume_command`: run here. Without one a person switches it on.
- `in_guest_stop_command`: run there. There is no default: the host may be your workstation.

Billing is as the config says, per start. What a command prints is never shown: it may hold
secrets of yours. Commands do not get our own secrets in their environment.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.core.power import Power, PowerRead
from costguard.core.tariff import Tariff
from costguard.errors import UserError
from costguard.providers.base import (
    Absent,
    BillLine,
    CreateRequest,
    ImageInfo,
    InstanceView,
    Offer,
    ProviderFacts,
    Quote,
    Refused,
    SshDetails,
    Unclear,
)
from costguard.providers.declared import guest_stop, ms_option, secret_of
from costguard.providers.shared import quantum_option, ssh_line
from costguard.providers.units import price_micros

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import SecretStr

    from costguard.core.moment import Moment

COMMAND_LIMIT_S = 10.0
PORT_LIMIT_S = 5.0
OUTPUT_MAX_BYTES = 4_096
LOOK_S = 0.05  # how soon an end is noticed that closes no pipe
POWER = {b"running": Power.RUNNING, b"stopped": Power.STOPPED}
OUR_SECRETS = "COSTGUARD_"


class SshBox:
    """One machine, by the name that its table has; that name is its instance id."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self._name, self._place = name, f"[providers.ssh.{name}]"
        self._settings = settings
        try:
            self._host, self._port, self._user = ssh_line(str(settings.get("ssh", "")))
        except ValueError as error:
            raise UserError("bad_config", f"ssh: {error}", self._place) from error
        self._tariff = Tariff(
            price_micros_per_hour=self._price("price_yuan_per_hour", None),
            quantum_s=quantum_option(settings, "second"),
            paused_micros_per_hour=self._price("paused_price_yuan_per_hour", "0"),
        )
        self._limit_s = ms_option(settings, "command_limit_s", int(COMMAND_LIMIT_S * 1_000)) / 1_000
        self._console = str(settings.get("console_url") or "")
        days = settings.get("release_after_off_days")
        self.facts = ProviderFacts(
            name=f"ssh.{name}",
            poll_interval_ms=ms_option(settings, "poll_interval_s", 15_000),
            cache_age_ms=0,
            stop_latency_ms=ms_option(settings, "stop_latency_s", 180_000),
            timer_min_lead_ms=None,
            timer_lateness_ms=0,
            arms_timer_at_create=False,
            in_guest_stop=guest_stop(settings),
            in_guest_stop_proven=False,
            in_guest_stop_given="in_guest_stop_command" in settings,
            client_key_source="user",
            can_stop=bool(settings.get("pause_command")),
            can_create=False,
            can_resume=bool(settings.get("resume_command")),
            tells_balance=False,
            tells_bill=False,
            tells_stock=False,
            tells_prices=False,
            release_after_off_days=None if days is None else int(days),
            console_url=self._console,
        )

    # ------------------------------------------------------------------ what a pass needs

    def quote(self, gpu: str | None) -> Quote:
        """The price in the config; the machine is there, so there is stock."""
        named = self._settings.get("gpu")
        return Quote(str(gpu or named or "GPU"), self._tariff, in_stock=True)

    def list_tagged(self, tag_prefix: str, now: Moment) -> Sequence[InstanceView]:
        """None: a machine made by hand bears no tag of ours."""
        del tag_prefix, now
        return ()

    def read(self, instance_id: str, now: Moment) -> InstanceView:
        """The machine as the power state command says it is, or as its SSH port does."""
        self._own(instance_id)
        power, status = self._power()
        gpu = self._settings.get("gpu")
        return InstanceView(
            id=self._name,
            tag="",
            gpu=None if gpu is None else str(gpu),
            read=PowerRead(power, now),
            tariff=self._tariff,
            ssh=self._ssh() if power is not Power.STOPPED else None,
            gpu_count=int(self._settings.get("gpu_count") or 1),
            status=status,
        )

    def create(self, request: CreateRequest, now: Moment) -> InstanceView:
        """Refused: the machine is yours to make."""
        del request, now
        raise Refused(
            f"ssh.{self._name}: costguard makes no machines here; "
            f'adopt it: [instance] provider = "ssh", id = "{self._name}"'
        )

    def start(self, instance_id: str) -> None:
        """Run the resume command."""
        self._own(instance_id)
        self._act("resume_command", "switched on")

    def stop(self, instance_id: str) -> None:
        """Run the pause command."""
        self._own(instance_id)
        self._act("pause_command", "stopped")

    def release(self, instance_id: str) -> None:
        """Refused: only a person gives back what a person made."""
        self._own(instance_id)
        raise Refused(f"ssh.{self._name}: only you can give this machine back{self._at()}")

    def arm_timer(self, instance_id: str, at_ms: int) -> int | None:
        """Nothing: there is no platform to ask."""
        del instance_id, at_ms
        return None

    def bill_micros(self, instance_id: str) -> int | None:
        """Not told."""
        del instance_id
        return None

    def balance_micros(self) -> int | None:
        """Not told."""
        return None

    # ------------------------------------------------------------------ what a person asks

    def price(self, request: CreateRequest) -> Quote:
        """The price in the config."""
        return self.quote(request.gpu)

    def offers(self, gpu_count: int = 1) -> Sequence[Offer]:
        """The machine itself, where it has so many cards."""
        own = int(self._settings.get("gpu_count") or 1)
        if own != gpu_count:
            return ()
        return (Offer(self.quote(None).gpu, own, self._tariff, None, note=self._name),)

    def images(self, words: str) -> Sequence[ImageInfo]:
        """Refused: what is installed on it is up to you."""
        del words
        raise Refused(f"ssh.{self._name}: a machine of your own has no images to choose from")

    def bill_lines(self, instance_id: str, since_ms: int, until_ms: int) -> Sequence[BillLine]:
        """None."""
        del instance_id, since_ms, until_ms
        return ()

    def platform_ms(self) -> int | None:
        """Not told: there is no platform."""
        return None

    # ------------------------------------------------------------------ the commands

    def _own(self, instance_id: str) -> None:
        if instance_id != self._name:
            raise Absent(f"ssh: there is no machine {instance_id!r} in this table")

    def _price(self, key: str, default: str | None) -> int:
        value = self._settings.get(key, default)
        if value is None:
            raise UserError(
                "bad_config",
                "what does this machine cost? There is no price_yuan_per_hour",
                self._place,
                "price_yuan_per_hour = 15; 0 for a machine of your own",
            )
        try:
            return price_micros(value if isinstance(value, int) else str(value))
        except ValueError as error:
            raise UserError("bad_config", f"{key}: {error}", self._place) from error

    def _ssh(self) -> SshDetails:
        key_file, host_key = self._settings.get("key_file"), self._settings.get("host_key")
        has_word = "password" in self._settings
        home = "/root" if self._user == "root" else f"/home/{self._user}"
        return SshDetails(
            host=self._host,
            port=self._port,
            user=self._user,
            host_keys=() if host_key is None else (str(host_key),),
            work_dir=str(self._settings.get("work_dir") or f"{home}/costguard"),
            password=secret_of(self._settings, "password") if has_word else None,
            key_file=None if key_file is None else Path(str(key_file)).expanduser(),
        )

    def _power(self) -> tuple[Power, str]:
        command = self._settings.get("power_state_command")
        if command:
            code, output = self._run(str(command))
            said = output.removesuffix(b"\n")
            if code == 0 and said in POWER:
                return POWER[said], said.decode()
            return Power.UNKNOWN, "no answer in time" if code is None else "not understood"
        try:
            with socket.create_connection((self._host, self._port), PORT_LIMIT_S):
                return Power.RUNNING, "its SSH port answers"
        except OSError:
            return Power.UNKNOWN, "its SSH port does not answer"

    def _act(self, key: str, done: str) -> None:
        command = self._settings.get(key)
        if not command:
            then = "; then say so: costguard confirm-stopped" if key == "pause_command" else ""
            raise Refused(
                f"ssh.{self._name}: there is no {key}, so that it can only be {done} by you"
                f"{self._at()}{then}"
            )
        code, _ = self._run(str(command))
        if code is None:
            raise Unclear(f"ssh.{self._name}: the {key} did not end within {self._limit_s:g} s")
        if code != 0:
            raise Unclear(f"ssh.{self._name}: the {key} ended with exit code {code}")

    def _at(self) -> str:
        return f", at {self._console}" if self._console else ""

    def _run(self, command: str) -> tuple[int | None, bytes]:
        """Exit code and output of a command run here; None if it had to be ended.

        What it leaves running behind itself is its own affair; what it prints without end is not.
        """
        environment = {k: v for k, v in os.environ.items() if not k.startswith(OUR_SECRETS)}
        with subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # so that what it started can be ended with it
        ) as process:
            assert process.stdout is not None
            output = self._listen(process, process.stdout.fileno())
            if output is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                return None, b""
            return process.wait(), output

    def _listen(self, process: subprocess.Popen[bytes], pipe: int) -> bytes | None:
        """What the command said by the time it ended; None if it did not end, or said too much."""
        until_s, output = time.monotonic() + self._limit_s, b""
        while (left_s := until_s - time.monotonic()) > 0:
            ended = process.poll() is not None
            if select.select([pipe], [], [], 0 if ended else min(left_s, LOOK_S))[0]:
                chunk = os.read(pipe, OUTPUT_MAX_BYTES)
                output += chunk
                if len(output) > OUTPUT_MAX_BYTES:
                    return None
                if chunk:
                    continue
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(left_s)
                    return output
            elif ended:
                return output
        return None


def with_password(
    name: str, table: Mapping[str, Any], read_secret: Callable[[str, str], SecretStr | None]
) -> dict[str, Any]:
    """The table with the password that its `password_file` names; UserError if there is none."""
    found = {key: value for key, value in table.items() if value is not None}
    file_name = found.pop("password_file", None)
    if file_name is not None:
        variable = f"COSTGUARD_{name}_PASSWORD".upper().replace(".", "_").replace("-", "_")
        password = read_secret(str(file_name), variable)
        if password is None:
            raise UserError(
                "no_credential",
                f"{name} names a password file, and there is none",
                str(file_name),
                "put the password alone into it, mode 0600; or name a key_file instead",
            )
        found["password"] = password
    return found
