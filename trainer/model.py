"""The model: loaded in NF4 (or bf16), frozen, with LoRA adapters in fp32.

Lean preparation: the base is frozen by peft and nothing is cast. peft's
prepare_model_for_kbit_training would turn embeddings, norms and lm_head to fp32: 2 GiB more weights
and half as many activations again on a 7B model, for no better loss (TRL #4335, Unsloth #1186).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import attention, prequantised
from trainer.exits import USAGE, Refusal
from trainer.plan import Card

if TYPE_CHECKING:
    from trainer.config import Config

_BF16_CAPABILITY = (8, 0)  # Ampere. torch.cuda.is_bf16_supported() counts emulation as support.


def prepare_environment(config: Config) -> None:
    """Set what libraries read when they are imported: threads, no network for a local model.

    Threads that wait must sleep: by default they spin, and when another process wants one of
    2 cores, each step takes 4 to 6 times as long (measured: 0.57 s became 2.3 to 3.8 s).
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(thread_count(config)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if Path(config.model_name_or_path).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    prepare_allocator()
    # At import it asks for an optional kernel package from a hub, and warns where there is none.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def prepare_allocator() -> None:
    """Let a card's memory grow in place, unless the user has set how; before torch is imported.

    Under a cap of 8 GiB the same passes went from 6,255 to 8,228 tokens/s, since more of the
    memory could be used for them (bench/results/2026-12-01-h200.md).
    """
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the latter until torch 2.9
    if not any(name in os.environ for name in names):
        os.environ.update(dict.fromkeys(names, "expandable_segments:True"))


def thread_count(config: Config) -> int:
    """How many threads compute: what was asked for, else the cores, 2 at most."""
    return config.threads or min(2, os.cpu_count() or 1)


def choose_device() -> tuple[Any, Any]:
    """(torch.device, dtype to compute in): a GPU in bf16, else the CPU in fp32.

    On a CPU fp32 is kept: bf16 autocast was measured 7 % faster per step of the small demo model
    on a CPU with AVX512-BF16, and it is emulated, slowly, on those without.
    Raises Refusal for a card without bf16.
    """
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu"), torch.float32
    capability = torch.cuda.get_device_capability()
    if capability < _BF16_CAPABILITY:
        raise Refusal(
            USAGE,
            f"{torch.cuda.get_device_name()} has compute capability "
            f"{capability[0]}.{capability[1]}, bf16 needs 8.0",
            hint="rent an Ampere card or newer (RTX 3090, A10, 4090): fp16 gives NaN on Qwen2.5",
        )
    return torch.device("cuda", torch.cuda.current_device()), torch.bfloat16


def be_repeatable(device: Any) -> None:
    """Have a card add up in the same order each time, so that a resume is the run without a break.

    By default flash attention's backward pass adds in whatever order its blocks end
    (Dao-AILab/flash-attention #414): seen on an H200 with samples of 256 tokens and more. A step
    takes 0.5 to 0.7 % longer for it (bench/results/2026-12-01-h200.md).
    """
    if device.type != "cuda":
        return
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else torch refuses products
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(mode=True)


def require_one_card() -> None:
    """Return if no card would idle beside the one that trains; raises Refusal."""
    import torch

    count = torch.cuda.device_count()
    if count > 1:
        raise Refusal(
            USAGE,
            f"{count} cards are here, but one trains: {count - 1} would idle",
            hint="rent one card; where the others cost nothing, CUDA_VISIBLE_DEVICES=0 hides them",
        )


def card_name(device: Any) -> str:
    """The card's name and memory, or `cpu`: whether a plan made for one holds for another."""
    if device.type != "cuda":
        return str(device.type)
    import torch

    facts = torch.cuda.get_device_properties(device)
    return f"{facts.name} {facts.total_memory // 2**20} MiB"


def driver_version() -> str:
    """The NVIDIA driver's version, or nothing."""
    try:
        first = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return ""
    return first


def measure_card(device: Any) -> Card:
    """The card as plans see it: its memory that is free for us, and its rate, measured."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    usable = min(free + torch.cuda.memory_reserved(device), int(total * share))
    size = 4096
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        left @ right
    begin.record()
    for _ in range(10):
        left @ right
    end.record()
    end.synchronize()
    flop_per_s = 10 * 2 * size**3 / (begin.elapsed_time(end) / 1000)
    del left, right
    torch.cuda.empty_cache()
    return Card(card_name(device), usable, flop_per_s, attention.best_for(device))


def autocast(device: Any) -> AbstractContextManager[Any]:
    """bf16 autocast on a GPU, where fp32 LoRA weights would otherwise pull all to fp32."""
    import torch

    if device.type != "cuda":
        return nullcontext()
    # Each weight is cast once a pass anyway, and a cache must not outlive a captured program.
    return torch.autocast("cuda", torch.bfloat16, cache_enabled=False)


def load_tokenizer(config: Config) -> Any:
    """The model's tokenizer; raises Refusal if it is not to be had."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(config.model_name_or_path)
    except (OSError, ValueError) as error:
        raise _unloadable(config, "tokenizer", error) from error


def load_model(config: Config, device: Any, dtype: Any) -> Any:
    """The peft model in training mode: base frozen, LoRA weights fp32 and seeded by config.seed.

    On a CPU its NF4 layers never repack their weights (see forbid_repacking).
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    copy = prequantised.find(config, dtype, identity(config))
    quantization = None if copy else _quantization(config, dtype)
    # Given as None, it would hide the one in the files of a model that is quantised already.
    how = {} if quantization is None else {"quantization_config": quantization}
    try:
        base = AutoModelForCausalLM.from_pretrained(
            copy or config.model_name_or_path,
            dtype=dtype,
            device_map={"": 0} if device.type == "cuda" else None,
            **how,
        )
    except (OSError, ValueError) as error:
        raise _unloadable(config, "model", error) from error
    if copy is None:
        prequantised.keep(base, config, dtype, identity(config))
    base.config.use_cache = False
    if device.type == "cpu":
        forbid_repacking(base)
    torch.manual_seed(config.seed)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=_targets(config, base),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks transformers by a name that transformers 5 renamed; both still work.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        model = get_peft_model(base, lora)
    return model.train()


def forbid_repacking(model: Any) -> None:
    """Keep bitsandbytes from repacking NF4 weights in an evaluation on AVX512-BF16 CPUs.

    It never unpacks them, and the next training step then fails, or loses the gradient's path.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def assert_no_repacking(model: Any) -> int:
    """How many NF4 layers the model has; raises AssertionError if one may repack its weights."""
    import bitsandbytes

    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    if any(layer.support_avx512bf16_for_cpu for layer in layers):
        raise AssertionError("an NF4 layer may repack its weights in an evaluation")
    return len(layers)


def peak_memory_gib(device: Any) -> float:
    """The most memory so far: of the card as torch reserved it, or of this process on a CPU."""
    if device.type == "cuda":
        import torch

        reserved: int = torch.cuda.max_memory_reserved(device)
        return reserved / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def forget_peak(device: Any) -> None:
    """Let `peak_memory_gib` count from now on; on a CPU the system keeps it for good."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def is_out_of_memory(error: Exception) -> bool:
    """Whether the card had no memory left for what was asked of it."""
    import torch

    return isinstance(error, torch.cuda.OutOfMemoryError)


def trainable(model: Any) -> list[Any]:
    """The parameters that are trained, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def identity(config: Config) -> str:
    """What tells this base model from another, without reading its 15 GB.

    Of a directory: a hash of config.json and of the weight files' names and sizes. Else the name.
    """
    directory = Path(config.model_name_or_path)
    if not directory.is_dir():
        return config.model_name_or_path
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for path in sorted(directory.glob("*.safetensors")):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def is_quantised(config: Config) -> bool:
    """Whether the model's own files are in 4 bits already."""
    path = Path(config.model_name_or_path) / "config.json"
    return path.is_file() and "quantization_config" in json.loads(path.read_bytes())


def _quantization(config: Config, dtype: Any) -> Any:
    if config.quantization_bit is None or is_quantised(config):
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=config.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )


def _targets(config: Config, base: Any) -> str | list[str]:
    """The target_modules for peft; raises Refusal with the model's own if one is not there."""
    if config.lora_target == "all":
        return "all-linear"
    import torch

    linear = {
        name.rsplit(".", 1)[-1]
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    wanted = config.lora_target.split(",")
    for name in wanted:
        if name not in linear:
            hint = f"the model has {', '.join(sorted(linear))}; or use all"
            raise Refusal(USAGE, f"the model has no {name!r}", where="--lora_target", hint=hint)
    return wanted


def _unloadable(config: Config, what: str, error: Exception) -> Refusal:
    return Refusal(
        USAGE,
        f"its {what} cannot be loaded: {str(error).strip().splitlines()[0]}",
        where=config.model_name_or_path,
        hint="check the directory, or the name and the network (HF_ENDPOINT sets a mirror)",
    )
