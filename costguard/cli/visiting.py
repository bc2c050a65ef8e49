"""A stay on an ended job's instance: priced, confirmed, held, and off again when it is over."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costguard.cli.acting import note
from costguard.cli.client import ask, ask_daemon
from costguard.cli.follow import EXIT_STOP_NOT_CONFIRMED, stop_is_overdue
from costguard.cli.launch import ensure_daemon
from costguard.cli.running import SUBMIT_TIMEOUT_S
from costguard.cli.text import print_lines, screen_of, wrap
from costguard.cli.words import money, one_after_other, state_word
from costguard.core.decide import FINAL_STATES
from costguard.core.money import parse_yuan, yuan_text
from costguard.errors import EXIT_REFUSED, UserError
from costguard.lang import _
from costguard.retell import retell

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    import paramiko

BEAT_S = 3.0
POLL_S = 0.5
WARN_S = (30, 120)
HOUR_S = 3_600
YES = frozenset({"y", "yes", "是"})
HANGUPS = (signal.SIGTERM, signal.SIGHUP)


class Stay:
    """`with Stay(…) as stay`: the instance is on, or coming on, and goes off when it is left.

    However it is left: by its end, by Ctrl-C, by a closed window. Only a kill -9 leaves it to the
    daemon to notice, which takes a minute and a half, and then to the lease.
    """

    def __init__(self, job: str, purpose: str, length_ms: int, *, yes: bool) -> None:
        self.job = job
        self.stop_confirmed = False
        self._args = {"job": job, "purpose": purpose, "length_ms": length_ms}
        self._yes = yes
        self._visit: dict[str, Any] = {}
        self._answer: dict[str, Any] = {}
        self._spent_before = 0
        self._left = threading.Event()
        self._beat = threading.Thread(target=self._give_signs, name="visit", daemon=True)
        self._handlers: dict[int, Any] = {}
        self._warned: set[int] = set()

    def __enter__(self) -> Stay:  # noqa: PYI034  (Self is newer than the oldest Python here)
        if ensure_daemon():
            note(_("started the daemon in the background; `costguard daemon stop` ends it"))
        quote = ask_daemon("visit", {**self._args, "quote": True}, SUBMIT_TIMEOUT_S)
        tell_price(quote)
        if not self._yes:
            _confirm(self.job)
        self._spent_before = self._spent()
        for number in HANGUPS:
            self._handlers[number] = signal.signal(number, _hang_up)
        answer = ask_daemon("visit", self._args, SUBMIT_TIMEOUT_S)
        self._visit = {"job": self.job, "visit": answer["visit"]}
        self._touch()
        self._beat.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        try:
            with contextlib.suppress(KeyboardInterrupt):
                self._leave()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    @property
    def ended(self) -> bool:
        """Whether the instance is being switched off already, whoever had it so."""
        return self._answer.get("visit") == "over"

    @property
    def exit_code(self) -> int:
        """0, or what says that the stop was not seen."""
        return 0 if self.stop_confirmed else EXIT_STOP_NOT_CONFIRMED

    def door(self) -> dict[str, Any]:
        """How to log in, once the instance is there; UserError where it never came."""
        shown = None
        while self._answer.get("visit") != "ready":
            if self.ended:
                what = _("{job} cannot be visited: {why}")
                what = what.format(job=self.job, why=retell(str(self._answer.get("why"))))
                raise UserError("no_visit", what, self.job, f"costguard explain {self.job}")
            state = self._answer.get("state")
            if state and state != shown:
                note(state_word(str(state)))
                shown = state
            time.sleep(POLL_S)
        return self._answer

    def connect(self, door: dict[str, Any]) -> paramiko.SSHClient:
        """A connection to the instance, its host key the pinned one."""
        from pydantic import SecretStr

        from costguard.remote.ssh import SshError, SshTarget, connect

        ssh = door["ssh"]
        password = ssh.get("password")
        target = SshTarget(
            ssh["host"],
            ssh["port"],
            ssh["user"],
            tuple(ssh["host_keys"]),
            Path(ssh["key_file"]),
            None if password is None else SecretStr(password),
        )
        try:
            return connect(target)
        except SshError as error:
            hint = _("try again: costguard status {job} says whether it is on")
            raise UserError(
                "unreachable", str(error), self.job, hint.format(job=self.job)
            ) from error

    def say_why(self) -> None:
        """Why it was over before the visitor left."""
        if self.ended and self._answer.get("why"):
            why = retell(str(self._answer["why"]))
            note(_("the visit is over: {why}").format(why=why))

    # ------------------------------------------------------------------ signs of life

    def _give_signs(self) -> None:
        while not self._left.wait(BEAT_S) and not self.ended:
            self._touch()
            self._warn()

    def _touch(self) -> None:
        try:
            self._answer = ask_daemon("visit_touch", self._visit)
        except UserError as error:
            if error.code not in self._answer.get("told", ()):
                note(f"\r!!! {retell(error.what)}\r")
            self._answer = {**self._answer, "told": (error.code,)}

    def _warn(self) -> None:
        left_s = self._answer.get("left_s")
        for seconds in WARN_S:
            if isinstance(left_s, int) and left_s <= seconds and seconds not in self._warned:
                self._warned.update(limit for limit in WARN_S if limit >= seconds)
                text = _("{seconds} s are left; then the instance is switched off")
                note(f"\r\n*** {text.format(seconds=left_s)}\r")
                return

    # ------------------------------------------------------------------ leaving

    def _leave(self) -> None:
        """Have it switched off, and wait until the stop was seen."""
        self.say_why()
        paid_left_s = int(self._answer.get("paid_left_s") or 0)
        if self._visit:
            with contextlib.suppress(UserError):
                ask_daemon("visit_end", self._visit)
        note(_("switching it off"))
        if paid_left_s >= 60:
            text = _("{minutes} minutes of the hour begun were paid and are not used")
            note(text.format(minutes=paid_left_s // 60))
        while True:
            row = ask("status", {"job": self.job})
            if not row["daemon"]["running"] or stop_is_overdue(self.job, ask):
                note(_("!!! the stop is NOT confirmed: look at the platform's own console now"))
                return
            if row["jobs"][0]["state"] in FINAL_STATES:
                break
            time.sleep(POLL_S)
        self.stop_confirmed = True
        spent = money(yuan_text(self._spent() - self._spent_before), screen_of(sys.stderr))
        note(
            _("it is off: the meter was seen stopped. The visit has cost {spent}").format(
                spent=spent
            )
        )

    def _spent(self) -> int:
        row = ask("status", {"job": self.job})["jobs"][0]
        return parse_yuan(row["budget"]["spent_yuan"])


def tell_price(quote: dict[str, Any]) -> None:
    """What it costs at most, who stops it, and what the caps allow of it."""
    screen = screen_of(sys.stderr)
    text = _("{job}: {minutes} minutes, booting included, cost at most {most} ({price} an hour)")
    lines = [
        text.format(
            job=quote["job"],
            minutes=_minutes(quote["visit_s"]),
            most=money(quote["visit_most_yuan"], screen),
            price=money(quote["price_yuan_per_hour"], screen),
        )
    ]
    if quote["reach_s"] < quote["visit_s"]:
        reach = _minutes(quote["reach_s"])
        lines.append(_("the budget reaches for {minutes} of them").format(minutes=reach))
    if quote["quantum_s"] >= HOUR_S:
        lines.append(_("an hour begun is charged whole"))
    enforcers = one_after_other(retell(each) for each in quote.get("enforcers") or []) or "-"
    lines.append(_("stopped by: {enforcers}").format(enforcers=enforcers))
    lines += [retell(line) for line in quote.get("lines") or []]
    print_lines([piece for line in lines for piece in wrap(line, screen.columns)], sys.stderr)


def _minutes(seconds: int) -> str:
    return f"{seconds / 60:.1f}".removesuffix(".0")


def _confirm(job: str) -> None:
    hint = _("--yes switches it on without asking")
    if not sys.stdin.isatty():
        what = _("nothing was switched on: there is no terminal to ask on")
        raise UserError("not_confirmed", what, job, hint, EXIT_REFUSED)
    text = _("Switch on the instance of {job}? [y/N] ").format(job=job)
    print(text, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in YES:
        what = _("not confirmed: nothing was switched on")
        raise UserError("not_confirmed", what, job, hint, EXIT_REFUSED)


def _hang_up(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """A closed window or a SIGTERM leaves as Ctrl-C does: by way of the stop."""
    raise KeyboardInterrupt
