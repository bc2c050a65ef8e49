"""The rental accounts that a home knows: which there are, and their adapters opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from costguard.errors import CostguardError, UserError
from costguard.providers import DECLARATIONS, open_account, open_provider
from costguard.providers.local import endpoint_settings
from costguard.providers.shared import ssh_line

if TYPE_CHECKING:
    from costguard.providers.base import Account
    from costguard.settings import Settings

LOCAL = "local"


def account_names(settings: Settings) -> tuple[str, ...]:
    """Every account of the config, each machine with SSH as one of its own: `ssh.box1`."""
    boxes = (f"ssh.{name}" for name in settings.ssh_boxes)
    return tuple(sorted((*settings.providers, *boxes)))


def open_named(settings: Settings, name: str) -> Account:
    """The adapter of one account, its secrets read; UserError names what is missing.

    Of `local`, the one that the config gives an address: the embedded one is started elsewhere.
    """
    if name == LOCAL:
        return open_provider(name, local_settings(settings))
    return open_account(name, settings.account_table(name), settings.secret)


def local_settings(settings: Settings) -> dict[str, Any]:
    """The table of the local platform, with the token that goes with an address."""
    found = settings.account_table(LOCAL)
    found.pop("token_file", None)
    token = settings.token(LOCAL)
    if token is not None:
        found["token"] = token.get_secret_value()
    if "base_url" in found and "token" not in found:
        raise CostguardError(f"providers.{LOCAL} has a base_url but no token")
    return found


def open_to_ask(settings: Settings, name: str) -> Account:
    """As `open_named`, for a question outside the daemon: the embedded platform only as it runs."""
    if name == LOCAL and settings.provider(LOCAL).base_url is None:
        endpoint = endpoint_settings(settings.home / "localcloud")
        if endpoint is None:
            what, hint = "the local platform is not running", "costguard daemon start"
            raise UserError("not_running", what, f"[providers.{LOCAL}]", hint)
        return open_provider(LOCAL, {**local_settings(settings), **endpoint})
    return open_named(settings, name)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a person has to tell of a platform before it can be asked anything."""

    name: str
    title: str
    secrets: tuple[tuple[str, str, str], ...]  # its file, what it is called, where it is made
    required: tuple[str, ...]  # fields of its table without a default


def platforms() -> tuple[Needs, ...]:
    """Every platform with an API, in the order in which they are shown."""
    return tuple(
        Needs(
            name=name,
            title=declared.title,
            secrets=tuple(
                (f"{name}.{each.key}", each.label, each.made_at) for each in declared.credentials
            ),
            required=tuple(option.key for option in declared.options if option.required),
        )
        for name, declared in DECLARATIONS.items()
    )


def is_ssh_line(text: str) -> bool:
    """Whether a text is a line such as `ssh -p 12345 root@host`."""
    try:
        ssh_line(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Bounds:
    """What keeps a cap on an account beside the daemon."""

    has_timer: bool  # one that a lease can move, and a drill can prove
    is_enough: bool  # without --best-effort a run is refused where it is not


def bounds_of(settings: Settings, name: str) -> Bounds | None:
    """What is known of that; None while the account cannot be opened."""
    try:
        facts = open_to_ask(settings, name).facts
    except CostguardError:
        return None
    has_timer = facts.timer_kind == "lease"
    return Bounds(has_timer, facts.can_stop and (has_timer or facts.in_guest_stop_proven))
