from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from costguard.core.tariff import Tariff
from costguard.daemon.accounts import account_names, open_named
from costguard.daemon.asking import price_of, request_for
from costguard.errors import UserError
from costguard.providers.base import CreateRequest, Quote
from costguard.settings import load_settings
from tests.daemon.world import World, spec_of

if TYPE_CHECKING:
    from pathlib import Path

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
    spec = replace(spec_of(wish={"gpu_count": 2}))
    now = world.clock.now()
    assert price_of(world.cloud, spec, "key", now).tariff == dear
    assert world.submit(spec)["price_yuan_per_hour"] == "72.00"
