from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from trainer.adapter import find_adapter
from trainer.exits import Refusal
from trainer.serve import Answerer, Sampling, Streamer, load
from trainer.template import encode_prompt

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch
GREEDY = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def answerer(tiny_model: Path, trained: dict[int | None, Path]) -> Answerer:
    """The tiny model in NF4 with its adapter."""
    adapter = find_adapter(str(trained[4]))
    return load(tiny_model, adapter, quantised=True, double_quantization=True)


def test_the_answer_is_transformers_own(answerer: Answerer) -> None:
    """Greedy, it is what generate gives for the tokens of the prompt; its pieces make it up."""
    import torch

    pieces: list[str] = []
    answer = answerer.answer((), "几点开门", "你是客服。", GREEDY, pieces.append)
    tokens = encode_prompt(answerer.tokenizer, (), "几点开门", "你是客服。")
    out = answerer.model.generate(
        input_ids=torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens)),
        do_sample=False, max_new_tokens=12, pad_token_id=answerer.tokenizer.pad_token_id,
        eos_token_id=answerer.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]),
    )  # fmt: skip
    wanted = answerer.tokenizer.decode(out[0, len(tokens) :], skip_special_tokens=True)
    assert answer == wanted == "".join(pieces)


def test_without_the_adapter_the_base_answers(answerer: Answerer) -> None:
    """And with it again afterwards: an interview compares the two."""
    tuned = answerer.answer((), "几点开门", "你是客服。", GREEDY)
    with answerer.without_adapter():
        base = answerer.answer((), "几点开门", "你是客服。", GREEDY)
    assert base != tuned
    assert answerer.answer((), "几点开门", "你是客服。", GREEDY) == tuned


def test_no_nf4_layer_may_repack_its_weights(answerer: Answerer) -> None:
    """On CPUs with AVX512-BF16 an evaluation would; the flag is off after answers too."""
    from trainer.model import assert_no_repacking

    answerer.answer((), "问", "", GREEDY)
    assert assert_no_repacking(answerer.model) == 7


def test_a_seed_gives_the_same_answer_again(answerer: Answerer) -> None:
    """Sampled answers differ from seed to seed, not from run to run."""
    said = [
        answerer.answer((), "问", "", Sampling(2.0, max_new_tokens=16, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert said[0] == said[1] != said[2]


def test_the_oldest_turns_make_room(answerer: Answerer) -> None:
    """A long conversation goes on; one question that cannot fit is refused."""
    turns = [(f"问{n}" * 20, "答" * 20) for n in range(20)]
    room = answerer.model.config.max_position_embeddings - 16
    kept = answerer._prompt(turns, "问", "", 16)
    lengths = [len(encode_prompt(answerer.tokenizer, turns[n:], "问", "")) for n in range(21)]
    assert len(kept) == max(length for length in lengths if length <= room)
    assert lengths[0] > room
    with pytest.raises(Refusal, match="do not fit"):
        answerer._prompt((), "问" * 2000, "", 16)


def test_half_a_character_is_never_told() -> None:
    """Bytes of one character come in several tokens; the terminal gets it whole."""
    import torch

    class Bytes:
        def decode(self, tokens: list[int], **_options: Any) -> str:
            return bytes(tokens).decode("utf-8", errors="replace")

    pieces: list[str] = []
    streamer = Streamer(Bytes(), pieces.append)
    streamer.put(torch.tensor([[1, 2, 3]]))
    for byte in "您a好".encode():
        streamer.put(torch.tensor([byte]))
    streamer.end()
    assert pieces == ["您", "a", "好"]
    assert streamer.text == "您a好"


def test_temperature_zero_is_greedy() -> None:
    """And leaves no sampling argument for transformers to warn about."""
    told = Sampling(temperature=0).arguments()
    assert (told["do_sample"], told["temperature"], told["top_p"]) == (False, None, None)
    assert Sampling(0.7, 0.9).arguments()["top_p"] == 0.9


def test_an_adapter_of_another_model_is_refused(
    tmp_path: Path, tiny_model: Path, trained: dict[int | None, Path]
) -> None:
    """One line that says what does not fit, no traceback."""
    from trainer.data import read_dataset
    from trainer.disk import Disk
    from trainer.make_model import build
    from trainer.publish import publish_directory

    recipe = {"hidden": 128, "layers": 1, "intermediate": 64, "vocab_size": 300,
              "max_positions": 64, "seed": 0}  # fmt: skip
    rows = tiny_model / "none"
    assert not rows.exists()
    from tests.trainer.conftest import ROWS

    other = tmp_path / "other"
    publish_directory(Disk(), other, build(recipe, read_dataset(ROWS).samples), {"kind": "model"})
    with pytest.raises(Refusal, match="cannot be loaded") as caught:
        load(other, find_adapter(str(trained[4])), quantised=False, double_quantization=True)
    assert "trained on this model" in caught.value.hint
