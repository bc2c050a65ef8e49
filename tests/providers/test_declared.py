from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from costguard.errors import UserError
from costguard.providers import DECLARATIONS, open_account
from costguard.providers.declared import ms_option, proxies_of, secret_of

if TYPE_CHECKING:
    from collections.abc import Callable

FIELDS: dict[str, dict[str, Any]] = {
    "runpod": {"yuan_per_usd": 7},
    "vast": {"yuan_per_usd": 7},
    "aws": {"yuan_per_usd": 7, "prices_usd_per_hour": {"g5.xlarge": 1}},
}


def reader(**secrets: str) -> Callable[[str, str], SecretStr | None]:
    """A home with these secret files."""
    return lambda file_name, _: SecretStr(secrets[file_name]) if file_name in secrets else None


def everything(file_name: str, variable: str) -> SecretStr:
    """A home with every secret there could be."""
    return SecretStr(f"{file_name} {variable}")


@pytest.mark.parametrize("name", DECLARATIONS)
def test_an_account_is_opened_with_what_it_declares_and_nothing_else(name: str) -> None:
    """Its secrets, by their names; the facts bear its own."""
    account = open_account(name, FIELDS.get(name, {}), everything)
    assert account.facts.name == name
    assert account.facts.console_url.startswith("https://")


@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_secret_that_lacks_is_named_with_the_way_to_it(name: str) -> None:
    """What, which file, and where it is made."""
    with pytest.raises(UserError) as refused:
        open_account(name, FIELDS.get(name, {}), reader())
    first = DECLARATIONS[name].credentials[0]
    assert refused.value.code == "no_credential"
    assert refused.value.where == f"{name}.{first.key}"
    assert first.made_at in refused.value.hint


def test_secrets_are_looked_for_under_their_own_names_or_those_of_the_config() -> None:
    """File and variable; the file's name can be another."""
    asked: list[tuple[str, str]] = []

    def read(file_name: str, variable: str) -> SecretStr:
        asked.append((file_name, variable))
        return SecretStr("x")

    open_account("compshare", {"private_key_file": "my.key"}, read)
    assert asked == [
        ("compshare.public_key", "COSTGUARD_COMPSHARE_PUBLIC_KEY"),
        ("my.key", "COSTGUARD_COMPSHARE_PRIVATE_KEY"),
    ]


def test_a_field_that_nobody_knows_is_refused_with_those_there_are() -> None:
    """A typing mistake must not pass for a setting."""
    with pytest.raises(UserError, match=r"knows no field 'zonne'.*zone"):
        open_account("compshare", {"zonne": "x"}, everything)


def test_a_field_that_must_be_there_is_asked_for() -> None:
    """With what it is about."""
    with pytest.raises(UserError, match="yuan_per_usd: what one US dollar costs you"):
        open_account("runpod", {}, everything)


def test_the_password_of_a_machine_with_ssh_is_read_from_its_file() -> None:
    """Or said to be missing."""
    table = {"ssh": "ssh root@host", "price_yuan_per_hour": 1, "password_file": "box1.password"}
    box = open_account(
        "ssh.box1", {**table, "gpu": None}, reader(**{"box1.password": "planted-secret"})
    )
    assert box.facts.name == "ssh.box1"
    assert "planted-secret" not in str(vars(box))
    with pytest.raises(UserError, match="password file"):
        open_account("ssh.box1", table, reader())


def test_the_embedded_default_needs_none_of_it() -> None:
    """Its address and token come from the platform itself; elsewhere, its token from a file."""
    table = {"base_url": "http://127.0.0.1:9", "token": "t"}
    assert open_account("local", table, reader()).facts.name == "local"
    del table["token"]
    account: Any = open_account("local", table, reader(**{"local.token": "planted"}))
    assert account._session.headers["Authorization"] == "Bearer planted"


def test_a_proxy_is_the_configs_and_holds_no_password() -> None:
    """Platforms abroad may need one; the surroundings' is not asked."""
    assert proxies_of({}) == {}
    assert proxies_of({"proxy": "http://127.0.0.1:7890"})["https"] == "http://127.0.0.1:7890"
    with pytest.raises(UserError, match="password") as refused:
        proxies_of({"proxy": "http://me:planted@127.0.0.1:7890"})
    assert "planted" not in str(refused.value)


def test_seconds_become_milliseconds_or_a_mistake_in_the_config() -> None:
    """However they are written."""
    assert ms_option({"a": "1.5"}, "a", 7) == 1_500
    assert ms_option({}, "a", 7) == 7
    for wrong in ("soon", 0, -1, "inf"):
        with pytest.raises(UserError, match="no number of seconds"):
            ms_option({"a": wrong}, "a", 7)


def test_a_secret_is_wrapped_however_it_comes() -> None:
    """So that showing it shows nothing."""
    assert "planted" not in repr(secret_of({"token": "planted"}, "token"))
