from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from costguard.core.tariff import Tariff
from costguard.daemon import orphans
from costguard.daemon.accounts import account_names, open_named, open_to_ask
from costguard.daemon.asking import price_of, request_for
from costguard.daemon.chores import Chores
from costguard.errors import CostguardError, UserError
from costguard.providers.base import CreateRequest, Quote
from costguard.settings import load_settings
from tests.daemon.world import World, spec_of

if TYPE_CHECKING:
    from pathlib import Path

    from costguard.providers.base import Provider

CONFIG = """
[providers.autodl]
poll_interval_s = 7
[providers.ssh.box1]
ssh = "ssh -p 2200 root@127.0.0.1"
password_file = "box1.password"
price_yuan_per_hour = 15
"""


def test_every_account_of_the_config_is_known_by_its_name(tmp_path: Path) -> None:
    """Each machine with SSH is an account of its own."""
    (tmp_path / "config.toml").write_text(CONFIG)
    assert account_names(load_settings(tmp_path)) == ("autodl", "ssh.box1")


def test_an_account_is_opened_with_the_secrets_that_it_declares(tmp_path: Path) -> None:
    """Its token from the private file of its name; without one, where such a token is made."""
    (tmp_path / "config.toml").write_text(CONFIG)
    settings = load_settings(tmp_path)
    with pytest.raises(UserError) as refused:
        open_named(settings, "autodl")
    assert refused.value.code == "no_credential"
    (tmp_path / "autodl.token").touch(0o600)
    (tmp_path / "autodl.token").write_text("t0ken")
    facts = open_named(settings, "autodl").facts
    assert (facts.name, facts.poll_interval_ms) == ("autodl", 7_000)


def test_the_create_call_has_every_wish_of_the_job_file() -> None:
    """Disks, image and region too."""
    wish = {"image": "i", "region": "r", "system_disk_gb": 50, "data_disk_gb": 100, "gpu_count": 2}
    request = request_for(spec_of(wish=wish), "ssh-ed25519 AAAA", "tag", 5)
    assert (request.image, request.region, request.gpu_count) == ("i", "r", 2)
    assert (request.system_disk_gb, request.data_disk_gb) == (50, 100)
    assert (request.tag, request.stop_at_ms, request.name) == ("tag", 5, "costguard-job")


def test_the_price_is_asked_of_the_whole_request_where_that_is_offered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two cards, say; and the lease is reserved by it."""
    dear = Tariff(72_000_000)

    def price(request: CreateRequest) -> Quote:
        assert request.gpu_count == 2
        return Quote("RTX 3090", dear, in_stock=True)

    monkeypatch.setattr(world.cloud, "price", price, raising=False)
    spec = spec_of(wish={"gpu_count": 2})
    now = world.clock.now()
    assert price_of(world.cloud, spec, "key", now).tariff == dear
    assert world.submit(spec)["price_yuan_per_hour"] == "72.00"


def test_the_embedded_platform_is_asked_as_it_runs_or_not_at_all(tmp_path: Path) -> None:
    """A question starts nothing; where it runs, its own file says where and with which token."""
    settings = load_settings(tmp_path)
    with pytest.raises(UserError) as refused:
        open_to_ask(settings, "local")
    assert refused.value.code == "not_running"
    (tmp_path / "localcloud").mkdir()
    endpoint = {"url": "http://127.0.0.1:1", "token": "t0ken", "pid": 1}
    (tmp_path / "localcloud" / "endpoint.json").write_text(json.dumps(endpoint))
    assert open_to_ask(settings, "local").facts.name == "local"


def test_an_address_of_the_local_platform_needs_its_token(tmp_path: Path) -> None:
    """Said before anything is asked."""
    (tmp_path / "config.toml").write_text("[providers.local]\nbase_url = 'http://127.0.0.1:1'\n")
    with pytest.raises(CostguardError, match="no token"):
        open_named(load_settings(tmp_path), "local")
    (tmp_path / "local.token").touch(0o600)
    (tmp_path / "local.token").write_text("t0ken")
    assert open_named(load_settings(tmp_path), "local").facts.name == "local"


def test_an_account_that_cannot_be_opened_keeps_no_chore_from_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its credential is gone, say: the other accounts are watched all the same."""
    world.start_training()
    context = replace(world.context, accounts=lambda: ("broken",))

    def open_any(name: str) -> Provider:
        if name == "broken":
            raise UserError("no_credential", "its token is gone", "broken.token")
        return world.cloud

    monkeypatch.setattr(orphans, "is_restored", lambda session: True)
    monkeypatch.setattr(orphans, "unlisted", lambda session, accounts: {"broken"})
    world.cloud.add("costguard-test-1-99")
    world.pass_time(20_000)
    found = Chores(replace(context, provider=open_any)).watch_strays()
    assert found == ["m-2"]
