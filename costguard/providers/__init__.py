"""Rental platforms: one file each behind the Protocols in `base`, registered by one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costguard.errors import UserError
from costguard.providers import autodl, aws, chenyu, compshare, runpod, vast, xiangongyun
from costguard.providers.local import LocalProvider
from costguard.providers.ssh import SshBox, with_password

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import SecretStr

    from costguard.providers.base import Account
    from costguard.providers.declared import Declaration

# What each platform needs from a person, in the order in which they are shown.
DECLARATIONS: Mapping[str, Declaration] = {
    declaration.name: declaration
    for declaration in (
        compshare.DECLARATION,
        autodl.DECLARATION,
        chenyu.DECLARATION,
        xiangongyun.DECLARATION,
        runpod.DECLARATION,
        vast.DECLARATION,
        aws.DECLARATION,
    )
}

REGISTRY: Mapping[str, Callable[[Mapping[str, Any]], Account]] = {
    "local": LocalProvider.from_settings,
    **{name: declaration.open for name, declaration in DECLARATIONS.items()},
}


def open_provider(name: str, settings: Mapping[str, Any]) -> Account:
    """The adapter registered under `name`, set up from its table in the config.

    `ssh.<box>` is the machine of that table: each has commands, a price and facts of its own.
    """
    if name.startswith("ssh."):
        return SshBox(name.removeprefix("ssh."), settings)
    try:
        make = REGISTRY[name]
    except KeyError:
        raise UserError(
            "unknown_provider",
            f"there is no provider {name!r} in this version",
            "[instance] provider",
            f"one of: {', '.join(sorted(REGISTRY))}, ssh.<box>",
        ) from None
    return make(settings)


def open_account(
    name: str, table: Mapping[str, Any], read_secret: Callable[[str, str], SecretStr | None]
) -> Account:
    """The adapter of a config table, with the secrets that it declares; UserError if one lacks.

    `read_secret(file name, variable)` is `costguard.settings.read_secret` for one home.
    """
    if name.startswith("ssh."):
        return open_provider(name, with_password(name, table, read_secret))
    if name in DECLARATIONS:
        return open_provider(name, DECLARATIONS[name].gather(table, read_secret))
    found = dict(table)
    file_name = str(found.pop("token_file", f"{name}.token"))
    token = read_secret(file_name, f"COSTGUARD_{name}_TOKEN".upper())
    if "token" not in found and token is not None:
        found["token"] = token.get_secret_value()
    return open_provider(name, found)
