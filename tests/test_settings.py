from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from costguard.errors import UserError
from costguard.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path


def refusal(home: Path, text: str) -> UserError:
    """The error that a config with this text gives."""
    (home / "config.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_settings(home)
    return caught.value


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    """A home without a config is in Shanghai time and has no caps."""
    settings = load_settings(tmp_path)
    assert settings.timezone == "Asia/Shanghai"
    assert settings.lang is None
    assert settings.budgets.month_micros is None
    assert settings.provider("local").base_url is None


def test_everything_in_the_contract_is_read(tmp_path: Path) -> None:
    """The config of the design is taken as it stands, money as micro-yuan."""
    (tmp_path / "config.toml").write_text(
        """
timezone = "Europe/Berlin"
lang = "zh"
[budgets]
month_yuan = 500
projects = { support-bot = "80.50" }
[providers.autodl]
base_url = "https://api.autodl.com"
token_file = "autodl.token"
poll_interval_s = 0.5
region = "west"
[providers.ssh.box1]
ssh = "ssh -p 12345 root@host"
password_file = "box1.password"
host_key = "ssh-ed25519 AAAA"
price_yuan_per_hour = 15.25
billing = "hour"
power_state_command = "a"
pause_command = "b"
resume_command = "c"
in_guest_stop_command = "/usr/bin/shutdown"
""",
        encoding="utf-8",
    )
    settings = load_settings(tmp_path)
    assert (settings.timezone, settings.lang) == ("Europe/Berlin", "zh")
    assert settings.budgets.month_micros == 500_000_000
    assert settings.budgets.projects == {"support-bot": 80_500_000}
    autodl = settings.provider("autodl")
    assert autodl.poll_interval_s == Decimal("0.5")
    assert autodl.model_extra == {"region": "west"}
    box = settings.ssh_boxes["box1"]
    assert box.price_micros_per_hour == 15_250_000
    assert box.billing == "hour"


@pytest.mark.parametrize(
    ("text", "what", "where", "hint"),
    [
        ("timezon = 'UTC'", "unknown key `timezon`", "line 1, `timezon`", "`timezone`"),
        (
            "[budgets]\nmonth_yan = 5",
            "unknown key `month_yan`",
            "line 2, [budgets] month_yan",
            "`month_yuan`",
        ),
        ("month_yuan = 5", "unknown key `month_yuan`", "line 1", "under [budgets]"),
        (
            "[providers.autodll]",
            "unknown provider `autodll`",
            "line 1, [providers.autodll]",
            "`autodl`",
        ),
        (
            "[providers.ssh.box]\nssh = 'x'\nprice = 3",
            "unknown key `price`",
            "line 3, [providers.ssh.box] price",
            "price_yuan_per_hour",
        ),
        (
            "[providers.ssh.box]\nssh = 'x'\nbilling = 'hours'",
            "'hours' is none of",
            "line 3",
            '"hour"',
        ),
        ("timezone = 'Asia/Shanghia'", "is no time zone", "line 1", ""),
        ("[budgets]\nmonth_yuan = -1", "negative", "line 2", ""),
        ("[budgets]\nmonth_yuan = 0.0000001", "six decimals", "line 2", ""),
        ("lang = 5", "is none of", "line 1", ""),
        ("[providers.local]\npoll_interval_s = 0", "greater than 0", "line 2", ""),
        ("a = 1\nb = = 2", "not TOML", "line 2", "quotes"),
        ("a = 'x", "end of document", "config.toml", "quotes"),
    ],
)
def test_a_mistake_is_one_message_with_its_line(
    tmp_path: Path, text: str, what: str, where: str, hint: str
) -> None:
    """Each mistake says what is wrong, on which line, and what was probably meant."""
    error = refusal(tmp_path, text)
    assert what in error.what
    assert error.where.startswith(str(tmp_path / "config.toml"))
    assert where in error.where
    assert hint in error.hint


def test_a_secret_in_the_config_is_refused_and_not_repeated(tmp_path: Path) -> None:
    """People show this file to each other: a token in it is refused without being printed."""
    error = refusal(tmp_path, '[providers.autodl]\ntoken = "sk-12345"')
    assert error.code == "secret_in_config"
    assert "sk-12345" not in str(error)


def test_a_bom_is_no_mistake(tmp_path: Path) -> None:
    """Some editors on Windows begin the file with a byte-order mark."""
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbflang = 'en'\n")
    assert load_settings(tmp_path).lang == "en"


def test_a_file_in_another_encoding_is_one_message(tmp_path: Path) -> None:
    """GBK bytes are not UTF-8, and the message says what to do about it."""
    (tmp_path / "config.toml").write_bytes("lang = '中文'".encode("gbk"))
    with pytest.raises(UserError, match="UTF-8"):
        load_settings(tmp_path)


def test_the_token_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A systemd credential comes before the file, the file before the environment."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("COSTGUARD_AUTODL_TOKEN", raising=False)
    settings = load_settings(tmp_path)
    assert settings.token("autodl") is None

    def token() -> str:
        found = settings.token("autodl")
        assert found is not None
        return found.get_secret_value()

    monkeypatch.setenv("COSTGUARD_AUTODL_TOKEN", "from-env")
    assert token() == "from-env"
    (tmp_path / "autodl.token").write_text("from-file\n")
    (tmp_path / "autodl.token").chmod(0o600)
    assert token() == "from-file"
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "autodl.token").write_text("from-systemd")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert token() == "from-systemd"
    assert "from-systemd" not in repr(settings.token("autodl"))


@pytest.mark.parametrize(
    ("content", "mode", "code"),
    [
        ("x", 0o640, "secret_not_private"),
        ("x", 0o604, "secret_not_private"),
        (" \n", 0o600, "secret_empty"),
    ],
)
def test_a_secret_that_is_no_secret_is_refused(
    tmp_path: Path, content: str, mode: int, code: str
) -> None:
    """A token file that others may read, or that is empty, is not used in silence."""
    (tmp_path / "autodl.token").write_text(content)
    (tmp_path / "autodl.token").chmod(mode)
    with pytest.raises(UserError) as caught:
        load_settings(tmp_path).token("autodl")
    assert caught.value.code == code
    assert caught.value.where == str(tmp_path / "autodl.token")


def test_an_accounts_table_is_as_its_adapter_takes_it(tmp_path: Path) -> None:
    """Own fields and common ones; of a machine with SSH, its price as it was written."""
    (tmp_path / "config.toml").write_text(
        """
[providers.compshare]
zone = "cn-wlcb-01"
private_key_file = "compshare.key"
poll_interval_s = 15
[providers.ssh.box1]
ssh = "ssh root@host"
key_file = "keys/box1"
price_yuan_per_hour = 15.25
paused_price_yuan_per_hour = 0
console_url = "https://console.example"
gpu_count = 2
""",
        encoding="utf-8",
    )
    settings = load_settings(tmp_path)
    assert settings.account_table("compshare") == {
        "zone": "cn-wlcb-01",
        "private_key_file": "compshare.key",
        "poll_interval_s": Decimal(15),
    }
    assert settings.account_table("autodl") == {}
    box = settings.account_table("ssh.box1")
    assert box["price_yuan_per_hour"] == "15.25"
    assert box["paused_price_yuan_per_hour"] == "0.00"
    assert box["key_file"] == str(tmp_path / "keys" / "box1")
    assert box["gpu_count"] == 2
    with pytest.raises(UserError, match="box2"):
        settings.account_table("ssh.box2")


def test_a_secret_is_read_from_its_home(tmp_path: Path) -> None:
    """Only where nobody else may read it."""
    settings = load_settings(tmp_path)
    assert settings.secret("some.key", "COSTGUARD_NO_SUCH_KEY") is None
    (tmp_path / "some.key").write_text("planted", encoding="utf-8")
    (tmp_path / "some.key").chmod(0o600)
    found = settings.secret("some.key", "COSTGUARD_NO_SUCH_KEY")
    assert found is not None
    assert found.get_secret_value() == "planted"
    (tmp_path / "some.key").chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        settings.secret("some.key", "COSTGUARD_NO_SUCH_KEY")


def test_who_is_told_and_when_is_read(tmp_path: Path) -> None:
    """Clock times become minutes of the day; a channel's secrets lie beside the config."""
    (tmp_path / "config.toml").write_text(
        """
[notify]
quiet = "23:00-07:30"
coalesce_s = 60
morning = "off"
[notify.channels.phone]
kind = "dingtalk"
secret_file = "other.secret"
lang = "en"
""",
        encoding="utf-8",
    )
    for name in ("phone.url", "other.secret"):
        (tmp_path / name).write_text(f"the {name}\n")
        (tmp_path / name).chmod(0o600)
    settings = load_settings(tmp_path)
    assert settings.notify.quiet_minutes == (23 * 60, 7 * 60 + 30)
    assert (settings.notify.coalesce_s, settings.notify.morning_minute) == (60, None)
    url, secret = (settings.channel_secret("phone", what) for what in ("url", "secret"))
    assert url is not None
    assert secret is not None
    assert url.get_secret_value() == "the phone.url"
    assert secret.get_secret_value() == "the other.secret"
    assert "the phone" not in repr(settings) + repr(url)


def test_nobody_is_told_anything_by_default(tmp_path: Path) -> None:
    """No channel, no quiet hours, and a morning at eight should there be one."""
    notify = load_settings(tmp_path).notify
    assert (notify.channels, notify.quiet_minutes, notify.morning_minute) == ({}, None, 480)


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ('quiet = "23-7"', "no time of day", "[notify] quiet"),
        ('quiet = "late"', "no span of a day", "[notify] quiet"),
        ('morning = "25:00"', "no time of day", "[notify] morning"),
        ("coalesce_s = -1", "greater than or equal", "[notify] coalesce_s"),
        ('[notify.channels.a]\nkind = "fax"', "is none of", "[notify.channels.a] kind"),
        ('[notify.channels.a]\nkind = "wecom"\nurl = "x"', "unknown key", "url"),
    ],
)
def test_what_is_wrong_about_notices_is_named(
    tmp_path: Path, text: str, what: str, where: str
) -> None:
    """The key, and where it stands; an address does not belong into this file."""
    error = refusal(tmp_path, f"[notify]\n{text}\n")
    assert what in error.what
    assert where in error.where
