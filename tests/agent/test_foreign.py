from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from costguard.agent import foreign
from costguard.agent.artifacts import ArtifactWatcher, list_artifacts
from costguard.agent.foreign import TornError
from costguard.agent.publish import publish, source_of
from tests.agent import foreign_trainer
from tests.agent.foreign_trainer import checkpoint, result, safetensors, torch_file
from tests.agent.harness import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.agent.harness import Job


def cut(path: Path) -> None:
    """Takes the second half away, as a full disk does."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def settle(watcher: ArtifactWatcher) -> list[dict[str, Any]]:
    """Everything that is told until nothing more is seen in three looks."""
    told: list[dict[str, Any]] = []
    quiet = 0

    def look() -> bool:
        nonlocal quiet
        fresh = watcher.poll()
        told.extend(fresh)
        quiet = 0 if fresh or not watcher.idle else quiet + 1
        return quiet >= 3

    wait_until(look, "the verification")
    return told


def test_a_whole_checkpoint_of_another_trainer_is_complete(tmp_path: Path) -> None:
    """Every file with its sha256, so that it can be brought home; the step by its state."""
    checkpoint(tmp_path, 40)
    (told,) = settle(ArtifactWatcher(tmp_path, {}, lambda: None))
    assert (told["name"], told["step"], told["complete"]) == ("checkpoint-40", 40, True)
    names = {file["path"] for file in told["files"]}
    assert {"adapter_model.safetensors", "optimizer.pt", "rng_state.pth"} <= names
    assert told["bytes"] == sum(file["size"] for file in told["files"])


@pytest.mark.parametrize(
    ("tear", "says"),
    [
        (lambda d: cut(d / "adapter_model.safetensors"), "its header says"),
        (lambda d: (d / "adapter_model.safetensors").write_bytes(b"abc"), "cut off in its header"),
        (lambda d: (d / "adapter_model.safetensors").unlink(), "no weights"),
        (lambda d: (d / "optimizer.pt").unlink(), "optimizer's state is missing"),
        (lambda d: cut(d / "optimizer.pt"), "optimizer.pt is cut off"),
        (lambda d: (d / "optimizer.pt").write_bytes(b""), "optimizer.pt is empty"),
        (lambda d: (d / "rng_state.pth").unlink(), "random generators' state is missing"),
        (lambda d: cut(d / "rng_state.pth"), "rng_state.pth is cut off"),
        (lambda d: cut(d / "trainer_state.json"), "cannot be read"),
        (lambda d: (d / "trainer_state.json").write_text("{}"), "cannot be read"),
        (lambda d: (d / "trainer_state.json").write_text('{"global_step": 7}'), "is of step 7"),
        (lambda d: (d / "trainer_state.json").write_text('{"global_step": "9"}'), "names no step"),
    ],
)
def test_a_torn_checkpoint_is_incomplete_and_says_why(
    tmp_path: Path, tear: Callable[[Path], None], says: str
) -> None:
    """Each of the files that a resume needs; it will be skipped for the one before."""
    tear(checkpoint(tmp_path, 40))
    (told,) = settle(ArtifactWatcher(tmp_path, {}, lambda: None))
    assert told["complete"] is False
    assert says in told["detail"]


def test_a_damaged_byte_is_found(tmp_path: Path) -> None:
    """The archive's own checksum."""
    torch_file(tmp_path / "optimizer.pt")
    content = bytearray((tmp_path / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "optimizer.pt").write_bytes(content)
    with pytest.raises(TornError, match="damaged in archive/data/0"):
        foreign.check_torch_file(tmp_path / "optimizer.pt")


def test_several_cards_leave_several_random_states(tmp_path: Path) -> None:
    """`rng_state_0.pth` and on; DeepSpeed keeps the optimizer in a directory."""
    directory = checkpoint(tmp_path, 40)
    (directory / "rng_state.pth").rename(directory / "rng_state_0.pth")
    (directory / "optimizer.pt").unlink()
    (directory / "global_step40").mkdir()
    torch_file(directory / "global_step40" / "zero_pp_rank_0_optim_states.pt")
    assert len(foreign.verify(directory, 40)) == 7


def test_a_file_of_torch_itself_is_whole(tmp_path: Path) -> None:
    """As torch.save writes it, and cut."""
    torch = pytest.importorskip("torch")
    torch.save({"state": torch.zeros(1000), "step": 3}, tmp_path / "optimizer.pt")
    foreign.check_torch_file(tmp_path / "optimizer.pt")
    cut(tmp_path / "optimizer.pt")
    with pytest.raises(TornError, match="cut off"):
        foreign.check_torch_file(tmp_path / "optimizer.pt")


def test_one_that_is_still_being_written_is_waited_for(tmp_path: Path) -> None:
    """Without its state it is none yet; while it changes between two looks it is not judged."""
    directory = checkpoint(tmp_path, 40)
    state = (directory / "trainer_state.json").read_text()
    (directory / "trainer_state.json").unlink()
    watcher = ArtifactWatcher(tmp_path, {}, lambda: None)
    assert watcher.poll() == []
    assert list_artifacts(tmp_path) == []
    (directory / "trainer_state.json").write_text(state)
    for size in (10, 20, 30):
        safetensors(directory / "adapter_model.safetensors", size)
        assert watcher.poll() == []
        assert watcher.idle
    (told,) = settle(watcher)
    assert told["complete"] is True


def test_at_the_end_no_second_look_is_needed(tmp_path: Path) -> None:
    """Nobody writes any more."""
    checkpoint(tmp_path, 40)
    watcher = ArtifactWatcher(tmp_path, {}, lambda: None)
    watcher.poll(final=True)
    assert not watcher.idle


def test_llamafactorys_result_becomes_an_adapter_that_can_travel(tmp_path: Path) -> None:
    """What belongs to it, linked into a directory of its own, once, with a manifest."""
    result(tmp_path, 60)
    watcher = ArtifactWatcher(tmp_path, {}, lambda: None, publishes=True)
    (told,) = settle(watcher)
    assert (told["name"], told["kind"], told["complete"]) == ("adapter", "adapter", True)
    assert told["step"] == 60
    assert sorted(file["path"] for file in told["files"]) == [
        *("README.md", "adapter_config.json", "adapter_model.safetensors"),
        *("manifest.json", "tokenizer.json"),
    ]
    assert watcher.adapter == told
    again = ArtifactWatcher(
        tmp_path, {"adapter": told["manifest_id"]}, lambda: None, publishes=True
    )
    assert settle(again) == []


def test_a_readme_that_is_written_after_the_result_tears_nothing(tmp_path: Path) -> None:
    """LLaMA-Factory writes its model card in place when its state is saved already."""
    result(tmp_path, 60)
    source = source_of(tmp_path)
    assert source is not None
    publish(tmp_path, source)
    (tmp_path / "README.md").write_text("a card that is longer than it was")
    (told,) = settle(ArtifactWatcher(tmp_path, {}, lambda: None, publishes=True))
    assert (told["name"], told["complete"]) == ("adapter", True)


def test_a_later_run_publishes_anew(tmp_path: Path) -> None:
    """Another adapter in the same place takes the first one's."""
    result(tmp_path, 60)
    watcher = ArtifactWatcher(tmp_path, {}, lambda: None, publishes=True)
    settle(watcher)
    (tmp_path / "adapter_model.safetensors").unlink()
    result(tmp_path, 90)
    (told,) = settle(watcher)
    assert (told["step"], told["complete"]) == (90, True)


def test_what_is_not_through_is_not_published(tmp_path: Path) -> None:
    """An adapter that is newer than the trainer's state: the state is of the run before."""
    result(tmp_path, 60)
    (tmp_path / "trainer_state.json").unlink()
    watcher = ArtifactWatcher(tmp_path, {}, lambda: None, publishes=True)
    assert settle(watcher) == []
    assert settle(ArtifactWatcher(tmp_path, {}, lambda: None)) == []


def test_a_torn_result_is_said_and_not_published(tmp_path: Path) -> None:
    """A full disk at the very end."""
    result(tmp_path, 60)
    cut(tmp_path / "adapter_model.safetensors")
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 60}))
    (told,) = settle(ArtifactWatcher(tmp_path, {}, lambda: None, publishes=True))
    assert told["complete"] is False
    assert "its header says" in told["detail"]
    assert not (tmp_path / "adapter").exists()


def test_a_llamafactory_run_ends_with_its_adapter(job: Job) -> None:
    """In a real agent: steps, the checkpoint, and the published adapter in the exit."""
    script = job.directory / "train.py"
    script.write_bytes(Path(foreign_trainer.__file__).read_bytes())
    job.order(argv=[sys.executable, "train.py"], engine="llamafactory")
    job.start()
    reader = job.attach()
    reader.lease()
    ended = reader.wait_for("exit", code=0)
    assert ended["artifact"]["name"] == "adapter"
    assert ended["artifact"]["complete"] is True
    assert [one["step"] for one in reader.of("progress")] == [10, 20, 30, 40, 50, 60, 60]
    assert {one["name"]: one["complete"] for one in reader.of("checkpoint")} == {
        "checkpoint-40": True,
        "adapter": True,
    }
