from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from costguard.providers import DECLARATIONS, open_provider
from costguard.providers.base import ProviderFacts, Quote
from costguard.providers.shared import wish

README = Path(__file__).resolve().parents[2] / "costguard" / "providers" / "README.md"
SETTINGS: dict[str, Any] = {
    "token": "t",
    "public_key": "p",
    "private_key": "p",
    "access_key_id": "a",
    "secret_access_key": "s",
    "yuan_per_usd": 7,
    "prices_yuan_per_hour": {"h800": 9, "NVIDIA GeForce RTX 4090": 2},
    "prices_usd_per_hour": {"g5.xlarge": 1},
}


def word(is_so: bool, yes: str = "yes", no: str = "no") -> str:
    """One cell."""
    return yes if is_so else no


def row(facts: ProviderFacts) -> str:
    """The line of the table that these facts make."""
    days = facts.release_after_off_days
    timer = {"lease": "moved and read back", "fixed": "at create", "none": "none"}
    inside = "not proven" if facts.in_guest_stop else "yours alone"
    cells = [
        facts.name,
        timer[facts.timer_kind],
        inside,
        word(facts.tells_prices, "price list", "copied into the config"),
        word(facts.tells_stock),
        word(facts.tells_balance),
        word(facts.tells_bill, "per instance"),
        facts.currency,
        facts.client_key_source,
        word(facts.keeps_tags),
        "not said" if days is None else f"{days} days",
        f"{facts.stop_latency_ms // 1_000} s",
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("name", DECLARATIONS)
def test_the_table_of_platforms_says_what_the_facts_say(name: str) -> None:
    """It is what a person decides by."""
    assert row(open_provider(name, SETTINGS).facts) in README.read_text(encoding="utf-8")


OPTIONAL_TIMERS = ("runpod", "aws")  # a deadline, a role: only where the config names one


def tried(name: str, facts: ProviderFacts) -> str:
    """The line of the table of what was tried: nothing of a real platform, but on fakes."""
    has = "\u25cb"
    timer = f"({has})" if name in OPTIONAL_TIMERS else word(facts.timer_kind == "lease", has, "—")
    cells = [
        name,
        has,
        word(facts.tells_prices, has, "—"),
        word(facts.tells_balance, has, "—"),
        word(facts.can_create, has, f"({has})"),
        has,
        timer,
        word(facts.in_guest_stop is not None, has, f"({has})"),
        word(facts.tells_bill, has, "—"),
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("language", ["README.md", "README.zh-CN.md"])
@pytest.mark.parametrize("name", [*DECLARATIONS, "ssh.box"])
def test_what_was_never_tried_live_is_marked_so(name: str, language: str) -> None:
    """Capability by capability, with the command that would prove it."""
    text = (README.parents[2] / language).read_text(encoding="utf-8")
    box = {"ssh": "ssh root@127.0.0.1", "price_yuan_per_hour": 15}
    facts = open_provider(name, box if name == "ssh.box" else SETTINGS).facts
    assert tried(name, facts) in text
    assert "--drill`" in text


@pytest.mark.parametrize("name", DECLARATIONS)
def test_every_field_of_a_platform_is_told_of(name: str) -> None:
    """With the place where its secrets are made."""
    text = README.read_text(encoding="utf-8")
    for option in DECLARATIONS[name].options:
        assert f"`{option.key}`" in text, option.key
    for credential in DECLARATIONS[name].credentials:
        assert credential.made_at.partition(" (")[0] in text, credential.made_at


@pytest.mark.parametrize("name", ["autodl", "xiangongyun", "aws"])
def test_prices_that_are_copied_into_the_config_are_quoted(name: str) -> None:
    """Without a call to the platform."""
    gpu = {"autodl": "h800", "xiangongyun": "RTX 4090", "aws": "g5.xlarge"}[name]
    quote = open_provider(name, SETTINGS).price(wish(gpu))
    assert isinstance(quote, Quote)
    assert quote.tariff.price_micros_per_hour >= 2_000_000
