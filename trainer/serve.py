"""A model that answers: the base, with an adapter if there is one, and its answers as they come.

The prompt is the tokens that training had before an answer, made by the same module, so that
training and serving cannot drift apart.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer import model as models
from trainer.exits import USAGE, Refusal
from trainer.template import END, encode_prompt, require_chatml

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from trainer.adapter import Adapter

HALF_A_CHARACTER = "\ufffd"


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 takes the likeliest: the same answer always."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 50
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512
    seed: int | None = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of transformers' generate."""
        common = {
            "max_new_tokens": self.max_new_tokens,
            "repetition_penalty": self.repetition_penalty,
        }
        if self.temperature == 0:
            unused = {"temperature": None, "top_p": None, "top_k": None}
            return {**common, "do_sample": False, **unused}
        chosen = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return {**common, "do_sample": True, **chosen}


@dataclass
class Answerer:
    """A loaded model in evaluation mode with its tokenizer."""

    model: Any
    tokenizer: Any
    device: Any
    adapted: bool

    def answer(
        self,
        turns: Sequence[tuple[str, str]],
        question: str,
        system: str,
        sampling: Sampling,
        told: Callable[[str], None] | None = None,
    ) -> str:
        """The answer, whole; `told` gets its pieces as they come, never half a character."""
        import torch

        tokens = self._prompt(turns, question, system, sampling.max_new_tokens)
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        streamer = Streamer(self.tokenizer, told)
        with torch.inference_mode(), models.autocast(self.device):
            self.model.generate(
                input_ids=torch.tensor([tokens], device=self.device),
                attention_mask=torch.ones(1, len(tokens), dtype=torch.long, device=self.device),
                streamer=streamer,
                eos_token_id=self.tokenizer.convert_tokens_to_ids([END, "<|endoftext|>"]),
                pad_token_id=self.tokenizer.pad_token_id,
                **sampling.arguments(),
            )
        return streamer.text

    def without_adapter(self) -> AbstractContextManager[Any]:
        """While it is open, the base answers alone."""
        if not self.adapted:
            raise AssertionError("there is no adapter to leave out")
        disabled: AbstractContextManager[Any] = self.model.disable_adapter()
        return disabled

    def _prompt(
        self, turns: Sequence[tuple[str, str]], question: str, system: str, new_tokens: int
    ) -> list[int]:
        """The prompt's tokens; the oldest turns are left out where the model has no room."""
        room = self.model.config.max_position_embeddings - new_tokens
        for first in range(len(turns) + 1):
            tokens = encode_prompt(self.tokenizer, turns[first:], question, system)
            if len(tokens) <= room:
                return tokens
        hint = "ask a shorter question, or lower --max_new_tokens"
        what = f"question and answer do not fit into the model's {room + new_tokens} tokens"
        raise Refusal(USAGE, what, where="--max_new_tokens", hint=hint)


class Streamer:
    """Takes tokens from generate, one by one, and tells their text: transformers' protocol."""

    def __init__(self, tokenizer: Any, told: Callable[[str], None] | None) -> None:
        self.text = ""
        self._tokenizer = tokenizer
        self._told = told
        self._tokens: list[int] = []
        self._prompt_seen = False

    def put(self, value: Any) -> None:
        """The first value is the prompt, each later one the next token."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._tokens += value.flatten().tolist()
        text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        if not text.endswith(HALF_A_CHARACTER):  # a character may be several tokens
            self._tell(text)

    def end(self) -> None:
        """Nothing more comes."""
        self._tell(self._tokenizer.decode(self._tokens, skip_special_tokens=True))

    def _tell(self, text: str) -> None:
        new = text[len(self.text) :]
        self.text = text
        if new and self._told:
            self._told(new)


def load(
    model: Path, adapter: Adapter | None, *, quantised: bool, double_quantization: bool
) -> Answerer:
    """The model in `model` with the adapter, ready to answer. Raises Refusal."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    device, dtype = models.choose_device()
    options: dict[str, Any] = {}
    if quantised and not is_quantised(model):
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double_quantization,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        require_chatml(tokenizer)
        loaded = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, device_map={"": 0} if device.type == "cuda" else None, **options
        )
        if adapter:
            from peft import PeftModel

            with warnings.catch_warnings():
                # peft asks transformers by a name that transformers 5 renamed; both still work.
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
                loaded = PeftModel.from_pretrained(loaded, adapter.path)
    except (OSError, ValueError, RuntimeError) as error:
        what = f"it cannot be loaded: {str(error).strip().splitlines()[0]}"
        hint = "check that the adapter was trained on this model"
        raise Refusal(USAGE, what, where=str(model), hint=hint) from error
    if device.type == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)
        models.forbid_repacking(loaded)
        models.assert_no_repacking(loaded)
    return Answerer(loaded.eval(), tokenizer, device, adapted=adapter is not None)


def prepare_process() -> None:
    """Set what libraries read when they are imported: nothing is fetched from a hub by them."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # At import it asks for an optional kernel package from a hub, and warns where there is none.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def is_quantised(model: Path) -> bool:
    """Whether the model's files are in 4 bits already."""
    return "quantization_config" in json.loads((model / "config.json").read_bytes())
