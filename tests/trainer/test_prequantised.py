from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from trainer import model as models, prequantised

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer.config import Config

pytestmark = pytest.mark.torch


@pytest.fixture
def config(make_config: Callable[..., Config], tiny_model: Path, tmp_path: Path) -> Config:
    """A run on a copy of the tiny model, whose folder is its own."""
    shutil.copytree(tiny_model, tmp_path / "models" / "tiny")
    return make_config(model_name_or_path=str(tmp_path / "models" / "tiny"))


def load(config: Config) -> Any:
    import torch

    return models.load_model(config, torch.device("cpu"), torch.float32)


def keep(config: Config, **more: Any) -> Path | None:
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        config.model_name_or_path,
        dtype=torch.float32,
        quantization_config=models._quantization(config, torch.float32),
    )
    identity = models.identity(config)
    return prequantised.keep(base, config, torch.float32, identity, **{"worth_bytes": 0, **more})


def find(config: Config) -> Path | None:
    import torch

    return prequantised.find(config, torch.float32, models.identity(config))


def test_the_next_start_loads_the_copy_and_computes_the_same(config: Config) -> None:
    """In a third of the bytes; weights, states and answers are those of the original."""
    import torch

    before = load(config)
    copy = keep(config)
    assert copy
    assert copy == find(config)
    shutil.copy(f"{config.model_name_or_path}/config.json", copy.parent / "kept.json")
    for path in (copy.parent / "tiny").glob("*.safetensors"):
        path.write_bytes(b"\0" * path.stat().st_size)  # whoever read the original would see it
    after = load(config)
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.equal(before(input_ids=tokens).logits, after(input_ids=tokens).logits)
    assert models.assert_no_repacking(after) == 7
    state, wanted = after.state_dict(), before.state_dict()
    assert state.keys() == wanted.keys()


def test_a_copy_of_another_original_is_not_used(config: Config) -> None:
    """A model that was fetched anew in another revision makes a new copy."""
    keep(config)
    path = f"{config.model_name_or_path}/config.json"
    with open(path, encoding="utf-8") as stream:  # noqa: PTH123 - the name is a text
        document = json.load(stream)
    with open(path, "w", encoding="utf-8") as stream:  # noqa: PTH123 - the name is a text
        json.dump({**document, "rms_norm_eps": 1e-5}, stream)
    assert find(config) is None
    keep(config)
    assert find(config)


def test_a_torn_copy_is_not_used(config: Config) -> None:
    """Sizes and times of its files are compared; the original is read instead."""
    copy = keep(config)
    assert copy
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert find(config) is None
    assert load(config)


def test_constants_and_dtype_have_copies_of_their_own(
    config: Config, make_config: Callable[..., Config]
) -> None:
    """Another quantisation is another base."""
    keep(config)
    single = make_config(model_name_or_path=config.model_name_or_path, double_quantization=False)
    plain = make_config(model_name_or_path=config.model_name_or_path, quantization_bit=None)
    assert find(single) is None
    assert find(plain) is None
    assert keep(plain) is None


def test_a_small_model_is_not_worth_a_copy(config: Config) -> None:
    """The original is read as fast; tests and demos leave nothing beside it."""
    load(config)
    assert find(config) is None


def test_of_a_quantised_model_there_is_no_copy(
    config: Config, make_config: Callable[..., Config]
) -> None:
    """What is in 4 bits already would only be written once more."""
    copy = keep(config)
    again = make_config(model_name_or_path=str(copy))
    assert find(again) is None


def test_a_full_disk_costs_the_copy_only(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said, and nothing is left half written."""
    usage = shutil.disk_usage("/")._replace(free=10**6)
    monkeypatch.setattr("trainer.prequantised.shutil.disk_usage", lambda _path: usage)
    assert keep(config) is None
    monkeypatch.undo()

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.prequantised.ShardWriter.add", full)
    assert keep(config) is None
    assert capsys.readouterr().err.count("no copy in NF4 is kept") == 2
    assert [path.name for path in (find_root(config)).iterdir()] == ["tiny"]


def find_root(config: Config) -> Path:
    from pathlib import Path

    return Path(config.model_name_or_path).parent
