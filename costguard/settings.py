"""`config.toml` as costguard understands it, and where the secrets that it names come from.

A missing file means the defaults. Secrets are files or variables beside it, never values in it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from costguard import paths
from costguard.core.money import parse_yuan, yuan_text
from costguard.errors import UserError
from costguard.lang import _
from costguard.tomlfile import TomlFile, nearest, read_toml, validated

# Every platform that there is an adapter for; `ssh` stands for any machine with SSH.
PROVIDERS = (
    "local",
    "compshare",
    "autodl",
    "chenyu",
    "xiangongyun",
    "runpod",
    "vast",
    "aws",
    "ssh",
)

# Free provider keys that would put a secret into a file that people show to each other.
SECRET_KEYS = ("token", "password", "secret", "api_key", "access_key", "private_key", "public_key")
SECRET_MAX_BYTES = 64 * 1024
SECRET_MARKS = ("*.token", "*.password", "*.key", "client_key")

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def yuan_micros(value: object) -> int:
    """Micro-yuan of a TOML value; MoneyError shows the value as it was written."""
    return parse_yuan(str(value) if isinstance(value, Decimal) else value)


Yuan = Annotated[int, BeforeValidator(yuan_micros)]
"""Micro-yuan, written as a number or text of yuan."""


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            _("{name} is no time zone, such as Asia/Shanghai").format(name=repr(name))
        ) from None
    return name


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Budgets(_Table):
    """Caps beyond single jobs: the calendar month's and those of projects, in micro-yuan."""

    month_micros: Yuan | None = Field(default=None, alias="month_yuan")
    projects: dict[str, Yuan] = {}


def _minute_of_day(text: object) -> int:
    match = _CLOCK.fullmatch(str(text))
    if match is None:
        raise ValueError(_("{value} is no time of day, such as 08:00").format(value=repr(text)))
    return int(match[1]) * 60 + int(match[2])


def _quiet_minutes(value: object) -> tuple[int, int] | None:
    """From and to, in minutes of the day, of `"23:00-07:30"`; None of `"off"`."""
    if value in (None, "off"):
        return None
    start, dash, end = str(value).partition("-")
    if not dash:
        raise ValueError(
            _("{value} is no span of a day, such as 23:00-07:30").format(value=repr(value))
        )
    return _minute_of_day(start.strip()), _minute_of_day(end.strip())


def _morning_minute(value: object) -> int | None:
    return None if value in (None, "off") else _minute_of_day(value)


def check_address(text: str) -> str:
    """`text` if it is an address without a password: it goes to a rented machine as it stands."""
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        fine = False
    if not fine:
        raise ValueError(
            _("{value} is no address, such as https://mirror.example/simple").format(
                value=repr(text)
            )
        )
    if "@" in parts.netloc:
        raise ValueError(_("an address with a password in it does not belong on an instance"))
    return text


class Mirrors(_Table):
    """Where instances fetch packages and models from, unless the job file says otherwise."""

    pip_index: Annotated[str, AfterValidator(check_address)] | None = None
    hf_endpoint: Annotated[str, AfterValidator(check_address)] | None = None


class NotifyChannel(_Table):
    """One way to a person, as `[notify.channels.<name>]` describes it; its secrets are files."""

    kind: Literal["wecom", "dingtalk", "feishu", "serverchan", "apprise"]
    url_file: str | None = None
    secret_file: str | None = None
    lang: Literal["zh", "en"] | None = None


class NotifySettings(_Table):
    """Who is told what happens, and when; see `costguard.notify` for the keys."""

    quiet_minutes: Annotated[tuple[int, int] | None, BeforeValidator(_quiet_minutes)] = Field(
        default=None, alias="quiet"
    )
    coalesce_s: Annotated[int, Field(ge=0, le=3_600)] = 30
    morning_minute: Annotated[int | None, BeforeValidator(_morning_minute)] = Field(
        default=8 * 60, alias="morning"
    )
    channels: dict[str, NotifyChannel] = {}


class ProviderSettings(BaseModel):
    """One platform's table; what an adapter needs beyond these is in `model_extra`."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    base_url: str | None = None
    token_file: str | None = None
    poll_interval_s: Annotated[Decimal, Field(gt=0, strict=False)] | None = None


class SshBox(_Table):
    """Any machine with SSH, as `[providers.ssh.<box>]` describes it."""

    ssh: str
    password_file: str | None = None
    key_file: str | None = None
    host_key: str | None = None
    price_micros_per_hour: Yuan | None = Field(default=None, alias="price_yuan_per_hour")
    paused_micros_per_hour: Yuan | None = Field(default=None, alias="paused_price_yuan_per_hour")
    billing: Literal["second", "minute", "hour"] = "second"
    power_state_command: str | None = None
    pause_command: str | None = None
    resume_command: str | None = None
    in_guest_stop_command: str | None = None
    console_url: str | None = None
    work_dir: str | None = None
    gpu: str | None = None
    gpu_count: Annotated[int, Field(ge=1)] | None = None
    release_after_off_days: Annotated[int, Field(ge=1)] | None = None
    poll_interval_s: Annotated[Decimal, Field(gt=0, strict=False)] | None = None
    stop_latency_s: Annotated[Decimal, Field(gt=0, strict=False)] | None = None


class _ConfigFile(_Table):
    timezone: Annotated[str, AfterValidator(_timezone)] = "Asia/Shanghai"
    lang: Literal["zh", "en"] | None = None
    stop_orphans: bool = False
    budgets: Budgets = Budgets()
    notify: NotifySettings = NotifySettings()
    mirrors: Mirrors = Mirrors()
    providers: dict[str, ProviderSettings] = {}
    ssh: dict[str, SshBox] = Field(default={}, alias="providers.ssh")


class Settings(BaseModel):
    """Everything that a home's config says; paths in it are relative to that home."""

    model_config = ConfigDict(frozen=True)

    home: Path
    timezone: str
    lang: str | None
    budgets: Budgets
    providers: Mapping[str, ProviderSettings]
    ssh_boxes: Mapping[str, SshBox]
    notify: NotifySettings = NotifySettings()
    mirrors: Mirrors = Mirrors()
    stop_orphans: bool = False  # of this installation, and explained by no job here

    def provider(self, name: str) -> ProviderSettings:
        """The table of one platform; an empty one where the config has none."""
        return self.providers.get(name, ProviderSettings())

    def account_table(self, name: str) -> dict[str, Any]:
        """What the config says of one account, as its adapter takes it: `autodl`, or `ssh.box1`.

        UserError for a box that the config does not have. Secrets are not in it, their files are.
        """
        if not name.startswith("ssh."):
            table = self.provider(name)
            return {**table.model_dump(exclude_none=True), **(table.model_extra or {})}
        box = self.ssh_boxes.get(name.removeprefix("ssh."))
        if box is None:
            raise UserError(
                "unknown_box",
                _("the config has no machine {name}").format(name=repr(name)),
                str(self.home / "config.toml"),
                f"[providers.{name}]",
            )
        found = box.model_dump(by_alias=True, exclude_none=True)
        for key in ("price_yuan_per_hour", "paused_price_yuan_per_hour"):
            if key in found:
                found[key] = yuan_text(found[key])
        if box.key_file is not None:
            found["key_file"] = str(self.home / Path(box.key_file).expanduser())
        return found

    def secret(self, file_name: str, variable: str) -> SecretStr | None:
        """As `read_secret`, for this home."""
        return read_secret(self.home, file_name, variable)

    def token(self, provider: str) -> SecretStr | None:
        """The platform's token, or None where there is none; UserError if it is not kept private.

        Looked for as a systemd credential, then in the table's `token_file` (by default
        `<provider>.token`), then in COSTGUARD_<PROVIDER>_TOKEN.
        """
        file_name = self.provider(provider).token_file or f"{provider}.token"
        return read_secret(self.home, file_name, f"COSTGUARD_{provider.upper()}_TOKEN")

    def channel_secret(self, name: str, what: Literal["url", "secret"]) -> SecretStr | None:
        """The address of a notification channel, or what its messages are signed with.

        Looked for as a systemd credential, then in the table's file (by default `<name>.url` or
        `<name>.secret`), then in COSTGUARD_NOTIFY_<NAME>_URL or _SECRET.
        """
        channel = self.notify.channels[name]
        named = channel.url_file if what == "url" else channel.secret_file
        variable = f"COSTGUARD_NOTIFY_{name.upper()}_{what.upper()}"
        return read_secret(self.home, named or f"{name}.{what}", variable)


def load_settings(home: Path | None = None) -> Settings:
    """The settings of `home`, by default the current one; UserError says what is wrong in them."""
    place = home or paths.home()
    path = place / "config.toml"
    file = read_toml(path, "bad_config") if path.exists() else TomlFile(path, "", {})
    data = dict(file.data)
    tables = data.get("providers", {})
    if isinstance(tables, dict):
        _check_providers(file, tables)
        data["providers"] = {name: table for name, table in tables.items() if name != "ssh"}
        data["providers.ssh"] = tables.get("ssh", {})
    config = validated(_ConfigFile, file, data, "bad_config")
    return Settings(
        home=place,
        timezone=config.timezone,
        lang=config.lang,
        budgets=config.budgets,
        providers=config.providers,
        ssh_boxes=config.ssh,
        notify=config.notify,
        mirrors=config.mirrors,
        stop_orphans=config.stop_orphans,
    )


def secret_files(settings: Settings) -> list[Path]:
    """The files of this home that hold a secret: those that the config names, and the usual ones.

    They are what must never lie on a rented machine, whatever folder is uploaded.
    """
    named = [
        settings.home / Path(name).expanduser() for name in _named_files(settings.model_dump())
    ]
    usual = [path for mark in SECRET_MARKS for path in settings.home.glob(mark)]
    return [path for path in dict.fromkeys([*named, *usual]) if path.is_file()]


def _named_files(table: object) -> Iterator[str]:
    """Every `…_file` of the config, in whatever table it stands."""
    if isinstance(table, Mapping):
        for key, value in table.items():
            if str(key).endswith("_file") and isinstance(value, str):
                yield value
            yield from _named_files(value)


def read_secret(home: Path, file_name: str, variable: str) -> SecretStr | None:
    """The first secret found: systemd credential, private file, environment; None if nowhere.

    Raises UserError for a file that other accounts may read, and for an empty one.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials:
        credential = Path(credentials) / Path(file_name).name
        if credential.is_file():
            return _secret_in(credential)  # systemd keeps these private by itself
    path = home / Path(file_name).expanduser()
    if path.exists():
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & paths.OTHERS_MASK:
            raise UserError(
                "secret_not_private",
                _("other accounts may read this secret (mode {mode})").format(mode=f"{mode:04o}"),
                str(path),
                f"chmod 600 {path}",
            )
        return _secret_in(path)
    value = os.environ.get(variable, "").strip()
    return SecretStr(value) if value else None


def _secret_in(path: Path) -> SecretStr:
    try:
        with path.open("rb") as stream:
            text = stream.read(SECRET_MAX_BYTES).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "secret_unreadable",
            _("this secret cannot be read: {why}").format(why=type(error).__name__),
            str(path),
            _("put the token alone into it, as text"),
        ) from error
    if not text:
        raise UserError(
            "secret_empty",
            _("this secret file is empty"),
            str(path),
            _("put the token alone into it, as text"),
        )
    return SecretStr(text)


def _check_providers(file: TomlFile, tables: Mapping[str, Any]) -> None:
    """UserError for a platform nobody knows, and for a secret written into the config itself."""
    for name, table in tables.items():
        if name not in PROVIDERS:
            near = nearest(name, PROVIDERS)
            raise file.error(
                "bad_config",
                _("unknown provider `{name}`").format(name=name),
                ("providers", name),
                _("did you mean {key}?").format(key=f"`{near}`")
                if near
                else _("known: {names}").format(names=", ".join(PROVIDERS)),
            )
        for key in table if isinstance(table, dict) and name != "ssh" else ():
            if key in SECRET_KEYS:
                raise file.error(
                    "secret_in_config",
                    _("a secret does not belong into this file"),
                    ("providers", name, key),
                    _('put it alone into a file with mode 0600 and name that: token_file = "…"'),
                )
