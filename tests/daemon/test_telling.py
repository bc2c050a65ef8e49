from __future__ import annotations

from typing import TYPE_CHECKING

from costguard.daemon.chores import Chores
from costguard.notify.base import Undelivered
from costguard.notify.channels import Channel
from costguard.notify.outbox import Outbox
from costguard.settings import NotifySettings
from tests.daemon.world import ZONE, spec_of

if TYPE_CHECKING:
    from costguard.notify.base import Message
    from tests.daemon.world import World


class Phone:
    """A channel that takes messages, or does not."""

    max_bytes = 2_000

    def __init__(self) -> None:
        self.is_off = False
        self.texts: list[str] = []

    def send(self, message: Message, now_ms: int) -> None:
        """Keep it."""
        if self.is_off:
            raise Undelivered("it is off")
        self.texts += message.text.splitlines()


def told(world: World) -> Phone:
    """A phone that hears of this world, through the daemon's own chore."""
    phone = Phone()
    channel = Channel("phone", "en", phone)
    settings = NotifySettings.model_validate({"coalesce_s": 0, "morning": "off"})
    outbox = Outbox(world.store, lambda: [channel], lambda: settings, ZONE)
    world.chores = Chores(world.context, outbox)
    world.chores.tell()
    return phone


def test_a_whole_life_is_told_in_order(world: World) -> None:
    """It began, used shares of its cap, and ended: each once, and nothing else."""
    phone = told(world)
    world.set_script(steps=26)
    world.submit(spec_of(yuan=0.55))
    while world.job().state != "finished":
        world.tick()
        world.chores.tell()
    world.run(3)
    world.chores.tell()
    assert [text.split(";")[0] for text in phone.texts] == [
        "job has begun to train",
        "job has used half of its cap",
        "job has finished, and its instance is seen stopped",
    ]


def test_a_stop_that_is_not_confirmed_is_told_while_it_lasts(world: World) -> None:
    """A phone that was off hears of it as soon as it is on."""
    phone = told(world)
    phone.is_off = True
    world.set_script(steps=500)
    world.start_training()
    world.cloud.fail("stop")
    world.cloud.habits.timer_ignored = world.cloud.habits.guest_stop_ignored = True
    world.commands.pause({"job": "job"})
    for _ in range(15):
        world.tick()
        world.chores.tell()
    assert phone.texts == []
    phone.is_off = False
    world.until(lambda: world.chores.tell() > 0, within_s=60)
    assert [text for text in phone.texts if "STOP NOT CONFIRMED" in text]
    world.cloud.heal()
    world.until_final()


def test_without_an_outbox_nobody_is_told(world: World) -> None:
    """As in tests, and in homes without a daemon's wiring."""
    assert world.chores.tell() == 0
