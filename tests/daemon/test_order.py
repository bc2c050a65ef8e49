from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from costguard.agent.contact import needs_from
from costguard.agent.spec import parse_spec
from costguard.core.spec import InstanceWish, Run
from costguard.daemon.order import agent_spec, contact_needs
from tests.daemon.world import spec_of

if TYPE_CHECKING:
    from costguard.core.spec import JobSpec
    from tests.daemon.world import World

TRAINER = Run(
    argv=("{python}", "-m", "trainer"),
    needs=("torch", "peft"),
    least={"torch": "2.6", "peft": "0.15"},
    requirements=("peft>=0.15",),
    hosts=("huggingface.co",),
    places=("/root/models",),
)


def job(provider: str, run: Run = TRAINER, **wish: object) -> JobSpec:
    """A job for that platform."""
    instance = replace(InstanceWish(provider=provider), **wish)  # type: ignore[arg-type]
    return replace(spec_of(), instance=instance, runs=(run,))


def test_the_order_is_one_that_the_agent_understands(world: World) -> None:
    """Every field of it, with the mirrors where they are needed."""
    run = replace(TRAINER, engine="command", progress_pattern="(?P<step>.)", env={"A": "b"})
    spec = job(
        "compshare",
        run,
        packages=("trl",),
        pip_index="https://mirror.example/simple",
        hf_endpoint="https://hf.example:8443",
        python="/opt/python3",
    )
    facts = world.context.provider("local").facts
    order = parse_spec(agent_spec(spec, 0, 2, facts, "tag"))
    assert order.run_id == "tag/0/2"
    assert order.env == {"A": "b", "HF_ENDPOINT": "https://hf.example:8443"}
    assert (order.engine, order.progress_pattern) == ("command", "(?P<step>.)")
    assert (order.python, order.caches) == ("/opt/python3", "../../caches")
    assert order.least == {"torch": "2.6", "peft": "0.15"}
    assert order.install is not None
    assert order.install.allowed
    assert order.install.requirements == ("peft>=0.15",)
    assert order.install.packages == ("trl",)
    assert order.install.index == "https://mirror.example/simple"
    assert order.install.within_s == 900


@pytest.mark.parametrize(
    ("provider", "wish", "engine", "asks"),
    [
        ("compshare", {}, "trainer", True),
        ("ssh.box1", {"gpu": "RTX 3090"}, "llamafactory", True),
        ("ssh.box1", {}, "trainer", False),
        ("local", {"gpu": "RTX 3090"}, "trainer", False),
        ("compshare", {}, "command", False),
    ],
)
def test_a_card_is_asked_for_where_one_was_rented(
    provider: str, wish: dict[str, str], engine: str, *, asks: bool
) -> None:
    """A command may want none; without a card, torch need not be imported to be looked at."""
    run = replace(TRAINER, engine=engine)
    needs = needs_from(contact_needs(job(provider, run, gpu_count=2, **wish), run))
    assert (needs.cuda, needs.cards) == (asks, 2 if asks else 1)
    assert needs.bf16 is (asks and engine == "trainer")
    assert ("torch" in needs.versions) is asks
    assert needs.data == (".", "/root/models")


def test_the_mirror_is_who_is_asked() -> None:
    """With its port; ModelScope stays who it is."""
    spec = job("local", hf_endpoint="https://hf.example:8443/x")
    assert contact_needs(spec, TRAINER)["hosts"] == ["hf.example:8443"]
    scope = replace(TRAINER, hosts=("www.modelscope.cn",))
    assert contact_needs(spec, scope)["hosts"] == ["www.modelscope.cn"]
