from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from costguard.daemon.host_keys import keys_for, unknown_key_text
from costguard.errors import UserError
from costguard.providers.base import SshDetails
from costguard.store.database import Store
from costguard.store.models import Instance
from tests.daemon.test_adopt import adopting, somebodys
from tests.daemon.test_resume import pause_in_training, resume

if TYPE_CHECKING:
    from tests.daemon.world import World

SHOWN = {"t": "host_key", "line": "ssh-ed25519 first", "fingerprint": "SHA256:first"}
WORD = "pl4nted-passw0rd"


def show_key(world: World) -> None:
    """The link has connected for the first time and tells the key that it was shown."""
    world.link._inbox.append(dict(SHOWN))
    world.tick()


def test_first_use_is_believed_of_what_we_have_just_rented(world: World) -> None:
    """Pinned in the instance's row, shown as an event; a daemon that comes back insists on it."""
    world.cloud.habits.tells_host_keys = False
    world.set_script(steps=500)
    world.start_training()
    assert world.link.plan.target.trusts_first
    show_key(world)
    assert world.instances[0].host_key == SHOWN["line"]
    (event,) = world.events("host_key")
    assert "SHA256:first" in event.text
    world.restart()
    world.tick()
    target = world.link.plan.target
    assert (target.host_keys, target.trusts_first) == ((SHOWN["line"],), False)


def test_a_boot_of_ours_begins_anew(world: World) -> None:
    """The key of the last boot holds no longer: switched on by us, first use is believed again."""
    world.cloud.habits.tells_host_keys = False
    pause_in_training(world)
    show_key(world)
    resume(world)
    world.until_state("training", within_s=30)
    assert world.link.plan.target.trusts_first


def test_of_what_runs_already_nothing_is_believed(world: World) -> None:
    """Refused with what to do, before anything is reserved."""
    world.cloud.habits.tells_host_keys = False
    with pytest.raises(UserError, match="switch it off, and costguard starts it itself"):
        world.submit(adopting(somebodys(world)))


def test_of_a_machine_with_ssh_it_is_said_how_to_compare() -> None:
    """The command that shows the fingerprint, and where the key goes."""
    text = unknown_key_text("ssh.box1", "127.0.0.1:22")
    assert "costguard doctor --provider ssh.box1" in text
    assert "[providers.ssh.box1] as host_key" in text


def test_a_machine_that_was_switched_on_by_another_is_not_believed(world: World) -> None:
    """Off when the job was submitted, on when we came: it is stopped, and told why."""
    machine = somebodys(world, is_on=False)
    world.cloud.habits.tells_host_keys = False
    world.submit(adopting(machine))
    world.cloud.switch_on(machine)
    world.until_final()
    assert world.job().pause_reason == "platform"
    assert "not costguard that switched it on" in str(world.job().verdict_text)
    assert not machine.is_charged
    assert world.line.links == []


def test_first_use_is_believed_for_moments_only(world: World) -> None:
    """An hour after the start call anybody may stand there."""
    world.cloud.habits.tells_host_keys = False
    world.start_training()
    ssh = SshDetails("127.0.0.1", 22, "root", (), "/work")
    with Store.read(world.store) as session:
        row, now = session.get_one(Instance, 1), world.clock.now()
        assert keys_for(session, row, ssh, now) == ((), True)
        assert keys_for(session, row, ssh, now.plus_ms(3_600_000)) == ((), False)


def test_a_password_reaches_the_link_and_nothing_else(world: World) -> None:
    """Not the database, not a notice."""
    world.cloud.habits.password = WORD
    world.start_training()
    password = world.link.plan.target.password
    assert password is not None
    assert password.get_secret_value() == WORD
    world.until_final()
    assert WORD.encode() not in world.database.read_bytes()
    assert WORD not in repr(world.notices) + repr(world.link.plan)
