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


WORDS = ("{python}", "-m", "trainer", "train", "--model_name_or_path", "Qwen/Qwen2.5-7B-Instruct")


def test_room_is_asked_for_the_model_and_the_checkpoints() -> None:
    """By the model's name, the rank and how many are kept; where the trainer keeps models."""
    run = replace(TRAINER, argv=(*WORDS, "--lora_rank=16", "--save_total_limit=2"))
    needs = needs_from(contact_needs(job("compshare", run), run))
    assert (needs.model, needs.model_mib) == ("Qwen/Qwen2.5-7B-Instruct", 14_700)
    assert (needs.model_cache, needs.model_dir) == ("COSTGUARD_MODELS", None)
    assert (needs.checkpoints_mib, needs.saves) == (1_604, "output")


def test_room_for_llamafactory_is_asked_where_it_keeps_models() -> None:
    """ModelScope's cache or Hugging Face's, or as the job says; quantised sizes are not guessed."""
    config = {"model_name_or_path": "Qwen/Qwen2.5-7B-Instruct-AWQ", "cache_dir": "/data/models"}
    run = replace(TRAINER, engine="llamafactory", config=config)
    needs = needs_from(contact_needs(job("compshare", run), run))
    assert (needs.model_cache, needs.model_dir) == ("HF_HOME", "/data/models")
    assert (needs.model_mib, needs.checkpoints_mib) == (0, 1_069)
    scope = replace(run, hosts=("www.modelscope.cn",), config={"finetuning_type": "full"})
    needs = needs_from(contact_needs(job("compshare", scope), scope))
    assert (needs.model_cache, needs.checkpoints_mib) == ("MODELSCOPE_CACHE", None)


def test_no_room_is_asked_for_a_model_that_is_uploaded_or_for_a_command() -> None:
    """What is uploaded is weighed by its files; what a command writes, nobody knows."""
    uploaded = replace(TRAINER, argv=WORDS, hosts=())
    needs = needs_from(contact_needs(job("compshare", uploaded), uploaded))
    assert (needs.model, needs.model_mib, needs.saves) == (None, None, "output")
    command = replace(TRAINER, engine="command")
    needs = needs_from(contact_needs(job("compshare", command), command))
    assert (needs.model, needs.saves) == (None, None)
