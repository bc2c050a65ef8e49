"""What each adapter needs from a person: secrets with the way to where they are made, and fields.

A secret is never in the config itself. It is looked for under the name `<platform>.<key>`: as a
systemd credential, as a private file in the home, in `COSTGUARD_<PLATFORM>_<KEY>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from costguard.core.money import MICROS_PER_YUAN as MICROS
from costguard.core.tariff import ForeignPrice, Tariff, foreign_tariff
from costguard.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from costguard.providers.base import Account


@dataclass(frozen=True, slots=True)
class Credential:
    """One secret: what it is called there, and the clicks to where it is made."""

    key: str
    label: str
    made_at: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Option:
    """One field of the config table; `default` None: there is none, and it may be left out."""

    key: str
    about: str
    default: str | None = None
    required: bool = False


# What the adapters of platforms abroad take.
DOLLARS = (
    Option("yuan_per_usd", "what one US dollar costs you", required=True),
    Option("yuan_per_usd_date", "the day that this rate is of, for the books"),
)
# What every adapter over HTTP takes beside its own fields.
COMMON = (
    Option("base_url", "another address of the same API"),
    Option("proxy", "an HTTP proxy to go through, such as http://127.0.0.1:7890"),
    Option("poll_interval_s", "how often the power state is asked for"),
    Option("read_timeout_s", "how long one answer may take"),
    Option("stop_latency_s", "the longest you have seen from stop to the end of the meter"),
    Option("in_guest_stop_command", "what powers the instance off from inside, if you know one"),
)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One platform: what it is called, what it needs, and how its adapter is opened."""

    name: str
    title: str
    credentials: tuple[Credential, ...]
    options: tuple[Option, ...]
    open: Callable[[Mapping[str, Any]], Account]

    def gather(
        self, table: Mapping[str, Any], read_secret: Callable[[str, str], SecretStr | None]
    ) -> dict[str, Any]:
        """The adapter's settings: the table's fields, and the secrets that `read_secret` finds.

        `read_secret(file name, variable)` is as `costguard.settings.read_secret` for one home.
        UserError names what is missing and where it is made, and any field nobody knows.
        """
        known = {option.key for option in self.options + COMMON}
        known |= {f"{credential.key}_file" for credential in self.credentials}
        place = f"[providers.{self.name}]"
        for key in table:
            if key not in known:
                raise UserError(
                    "bad_config",
                    f"{self.name} knows no field {key!r}",
                    place,
                    f"its fields: {', '.join(sorted(known))}",
                )
        found = {key: value for key, value in table.items() if value is not None}
        for option in self.options:
            if option.required and option.key not in found:
                raise UserError(
                    "bad_config", f"{self.name} needs {option.key}: {option.about}", place
                )
        for credential in self.credentials:
            file_name = str(found.pop(f"{credential.key}_file", f"{self.name}.{credential.key}"))
            variable = f"COSTGUARD_{self.name}_{credential.key}".upper()
            secret = read_secret(file_name, variable)
            if secret is not None:
                found[credential.key] = secret
            elif credential.required:
                raise UserError(
                    "no_credential",
                    f"{self.name} needs its {credential.label}, and there is none",
                    file_name,
                    f"make it at: {credential.made_at}; put it alone into that file, mode 0600",
                )
        return found


def secret_of(settings: Mapping[str, Any], key: str) -> SecretStr:
    """The secret under `key`, wrapped so that showing it shows nothing."""
    value = settings[key]
    return value if isinstance(value, SecretStr) else SecretStr(str(value))


def ms_option(settings: Mapping[str, Any], key: str, default_ms: int) -> int:
    """A field in seconds as milliseconds."""
    if key not in settings:
        return default_ms
    try:
        value = Decimal(str(settings[key]))
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value <= 0:
        raise UserError("bad_config", f"{key} = {settings[key]!r} is no number of seconds", key)
    return int(value * 1_000)


@dataclass(frozen=True, slots=True)
class Dollar:
    """What a US dollar costs the user, in micro-yuan, and the day that they looked."""

    yuan_micros: int
    date: str

    def tariff(self, usd_micros_per_hour: int, **terms: Any) -> Tariff:
        """The tariff in yuan of a price in millionths of a dollar; the rate goes into the books."""
        price = ForeignPrice("USD", usd_micros_per_hour, self.yuan_micros, MICROS, self.date)
        return foreign_tariff(price, **terms)


def dollar_option(settings: Mapping[str, Any], platform: str) -> Dollar:
    """`yuan_per_usd`, of the day `yuan_per_usd_date`.

    There is no default: a guessed rate would be a wrong cap.
    """
    try:
        rate = Decimal(str(settings["yuan_per_usd"]))
    except (KeyError, InvalidOperation):
        rate = Decimal(0)
    if not rate.is_finite() or not 1 <= rate <= 100:
        raise UserError(
            "bad_config",
            f"{platform} charges in US dollars: yuan_per_usd says what one costs you",
            f"[providers.{platform}]",
            "for example yuan_per_usd = 7.3; take your card's rate, and round up",
        )
    return Dollar(int(rate * MICROS), str(settings.get("yuan_per_usd_date", "undated")))


def proxies_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """The proxy for both schemes; none unless the config names one: surroundings are not asked.

    UserError where it holds a password: that is a secret, and the config is no place for one.
    """
    proxy = settings.get("proxy")
    if proxy is None:
        return {}
    if "@" in str(proxy):
        raise UserError(
            "secret_in_config",
            "a proxy with a password does not belong into this file",
            "proxy",
            "let a local proxy hold it, and name that: proxy = 'http://127.0.0.1:7890'",
        )
    return {"http": str(proxy), "https": str(proxy)}


def guest_stop(settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The user's own command that powers the instance off from inside, as a command line."""
    command = settings.get("in_guest_stop_command")
    return None if not command else ("sh", "-c", str(command))
