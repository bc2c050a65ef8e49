from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.trainer.hub_server import HubServer, running
from trainer.download import ATTEMPTS, MARKER, Wanted, is_whole, locate
from trainer.exits import FINISHED, USAGE, Refusal
from trainer.hubs import Hub, HubError, hubs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "Qwen/Qwen2.5-7B-Instruct"
FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    "model-00001-of-00002.safetensors": bytes(range(256)) * 4000,
    "model-00002-of-00002.safetensors": b"\7" * 300_000,
    "model.safetensors.index.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "merges.txt": b"a b\n",
    "README.md": b"# not needed",
    "pytorch_model.bin": b"the same weights again",
    "original/consolidated.safetensors": b"and again",
}
BOTH = ["modelscope", "huggingface"]
NEEDED = {name for name in FILES if "/" not in name and not name.endswith((".md", ".bin"))}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine that the tests run on, and a cache of their own."""
    for name in ("HF_ENDPOINT", "MODELSCOPE_DOMAIN", "USE_MODELSCOPE_HUB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("COSTGUARD_MODELS", str(tmp_path / "models"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that is both, for whoever asks."""
    with running(HubServer(NAME, dict(FILES))) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        monkeypatch.setenv("MODELSCOPE_DOMAIN", server.url)
        yield server


@pytest.fixture
def waits() -> list[float]:
    """How long it would have waited."""
    return []


@pytest.fixture
def fetch(waits: list[float]) -> Callable[..., Path]:
    def go(source: str | None = "huggingface", **more: Any) -> Path:
        return locate(Wanted(NAME, source, **more), waits.append)

    return go


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != MARKER}


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_what_is_needed_is_fetched_and_verified(
    hub: HubServer, fetch: Callable[..., Path], source: str
) -> None:
    """Weights, configs and the tokenizer through the hub's redirect; no second format."""
    directory = fetch(source)
    assert files_of(directory) == {name: FILES[name] for name in NEEDED}
    assert is_whole(directory)
    assert not [h for h in hub.headers if "Authorization" in h or "Cookie" in h]


def test_the_second_start_asks_nobody(hub: HubServer, fetch: Callable[..., Path]) -> None:
    """A whole model is used as it is, without the network."""
    directory = fetch()
    hub.paths.clear()
    assert fetch() == directory
    assert hub.paths == []


def test_a_broken_download_goes_on_where_it_stopped(
    hub: HubServer, fetch: Callable[..., Path], waits: list[float]
) -> None:
    """Each byte is paid for once, however often the connection breaks."""
    name = "model-00001-of-00002.safetensors"
    hub.break_after[name] = [100_000, 50_000]
    fetch()
    assert hub.served[name] == len(FILES[name])
    assert [asked for file, asked in hub.ranges if file == name] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
    ]
    assert waits == [2.0, 4.0]


def test_a_hub_that_ignores_ranges_is_begun_anew(
    hub: HubServer, fetch: Callable[..., Path]
) -> None:
    """Its whole answer must not be put behind what is there."""
    hub.ignore_ranges = True
    hub.break_after["tokenizer.json"] = [5]
    assert files_of(fetch())["tokenizer.json"] == FILES["tokenizer.json"]


@pytest.mark.parametrize(
    ("source", "name", "what"),
    [
        ("huggingface", "model-00002-of-00002.safetensors", "sha256"),
        ("huggingface", "tokenizer.json", "git hash"),
        ("modelscope", "tokenizer.json", "sha256"),
    ],
)
def test_wrong_bytes_are_never_used(
    hub: HubServer, fetch: Callable[..., Path], source: str, name: str, what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Fetched again from the start once they are found; refused if they stay wrong."""
    hub.spoil[name] = 1
    assert files_of(fetch(source))[name] == FILES[name]
    assert what in capsys.readouterr().err
    hub.spoil[name] = ATTEMPTS
    shutil.rmtree(fetch(source))
    hub.spoil[name] = ATTEMPTS
    with pytest.raises(Refusal, match="is not the hub's") as caught:
        fetch(source)
    assert caught.value.exit_code == USAGE
    assert "to go on" in caught.value.hint


def test_after_giving_up_the_next_run_goes_on(hub: HubServer, fetch: Callable[..., Path]) -> None:
    """What came is kept, whole files and half ones."""
    name = "model-00001-of-00002.safetensors"
    hub.break_after[name] = [1000] * ATTEMPTS
    with pytest.raises(Refusal, match="bytes came"):
        fetch()
    before = hub.served.copy()
    directory = fetch()
    assert is_whole(directory)
    assert hub.served[name] == len(FILES[name])
    assert hub.served["tokenizer.json"] == before["tokenizer.json"]


def test_a_file_that_was_changed_is_fetched_again(
    hub: HubServer, fetch: Callable[..., Path]
) -> None:
    """Sizes and times are compared at each start; the others are not fetched twice."""
    directory = fetch()
    (directory / "config.json").write_bytes(b"x" * len(FILES["config.json"]))
    assert not is_whole(directory)
    before = hub.served.copy()
    assert files_of(fetch())["config.json"] == FILES["config.json"]
    assert hub.served - before == {"config.json": len(FILES["config.json"])}


def test_the_other_hub_is_asked_where_one_does_not_answer(
    hub: HubServer, fetch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """And said so. With --model_source it is that one or none."""
    with running(HubServer("other/model", {})) as empty:
        monkeypatch.setenv("HF_ENDPOINT", empty.url)
        assert is_whole(fetch(None))
        assert "huggingface" in capsys.readouterr().err
        with pytest.raises(Refusal, match="answered 404"):
            fetch("huggingface", revision="v2")


def test_a_disk_without_room_is_told_before_the_first_byte(
    hub: HubServer, fetch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up after ten minutes has cost ten minutes."""
    usage = shutil.disk_usage("/")._replace(free=10**6)
    monkeypatch.setattr("trainer.download.shutil.disk_usage", lambda _path: usage)
    with pytest.raises(Refusal, match="are free"):
        fetch()
    assert not hub.served


def test_a_directory_is_used_as_it_is(tmp_path: Path) -> None:
    """Nobody is asked about a model that is there."""
    assert locate(Wanted(str(tmp_path))) == tmp_path
    with pytest.raises(Refusal, match="no such directory"):
        locate(Wanted("a/b", "path"))


def test_the_marker_says_where_it_came_from(hub: HubServer, fetch: Callable[..., Path]) -> None:
    """Hub, name and commit, and each file's hash."""
    marker = json.loads((fetch() / MARKER).read_bytes())
    assert (marker["hub"], marker["name"]) == (hub.url, NAME)
    assert len(marker["revision"]) == 40
    assert {entry["path"] for entry in marker["files"]} == NEEDED


@pytest.mark.parametrize(
    ("settings", "source", "order"),
    [
        ({}, None, BOTH),
        ({"HF_ENDPOINT": "http://m"}, None, ["huggingface", "modelscope"]),
        (
            {"HF_ENDPOINT": "http://m", "USE_MODELSCOPE_HUB": "1"},
            None,
            ["modelscope", "huggingface"],
        ),
        ({}, "huggingface", ["huggingface"]),
        ({"HF_ENDPOINT": "http://m"}, "modelscope", ["modelscope"]),
    ],
)
def test_which_hub_has_the_first_word(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], source: str | None, order: list[str]
) -> None:
    """A flag alone decides; then the settings that LLaMA-Factory's users know."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert [hub.name for hub in hubs(source)] == order


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"model.safetensors": b"x"}, "no config.json"),
        ({"config.json": b"{}"}, "no .safetensors"),
    ],
)
def test_a_repository_that_is_no_model_is_told(files: dict[str, bytes], what: str) -> None:
    """Before anything of it is fetched."""
    with running(HubServer(NAME, files)) as server, pytest.raises(HubError, match=what):
        Hub("modelscope", server.url).list_files(NAME, None)


def test_an_answer_that_is_no_listing_is_told() -> None:
    """A portal's login page, an error in JSON, an address that is none."""
    broken = HubServer(NAME, dict(FILES), listing_status=503)
    with running(broken) as server, pytest.raises(HubError, match="answered 503"):
        Hub("huggingface", server.url).list_files(NAME, None)
    with pytest.raises(HubError, match="not an address"):
        Hub("huggingface", "file:///etc").list_files(NAME, None)


@pytest.mark.torch
@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_a_run_fetches_its_model_and_the_next_needs_no_network(
    tiny_model: Path, few_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """A hub's name in the article's command: phase `download`, then as with a directory."""
    from trainer.__main__ import main
    from trainer.progress import Status

    phases: list[object] = []
    update = Status.update

    def recorded(self: Status, **fields: Any) -> None:
        phases.append(fields.get("phase"))
        update(self, **fields)

    monkeypatch.setattr(Status, "update", recorded)
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    words = ["train", "--model_name_or_path", "qwen/Tiny", "--model_source", source, "--dataset",
             str(few_rows), "--max_steps", "1", "--threads", "1", "--output_dir"]  # fmt: skip
    with running(HubServer("qwen/Tiny", files)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_DOMAIN", server.url)
        assert main([*words, str(tmp_path / "a")]) == FINISHED
    assert "download" in phases
    phases.clear()
    assert main([*words, str(tmp_path / "b")]) == FINISHED
    assert "download" in phases
    one, other = (tmp_path / n / "adapter" / "adapter_model.safetensors" for n in "ab")
    assert one.read_bytes() == other.read_bytes()


def test_a_name_that_no_hub_has_ends_the_run(
    tmp_path: Path, few_rows: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit USAGE with what each hub said, told in status.json too."""
    from trainer.__main__ import main

    words = ["train", "--model_name_or_path", "qwen/Nothing", "--dataset", str(few_rows),
             "--output_dir", str(tmp_path / "out")]  # fmt: skip
    assert main(words) == USAGE
    err = capsys.readouterr().err
    assert "huggingface: " in err
    assert "modelscope: " in err
    status = json.loads((tmp_path / "out" / "status.json").read_bytes())
    assert (status["phase"], status["exit_code"]) == ("failed", USAGE)
