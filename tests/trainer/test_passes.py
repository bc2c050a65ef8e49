"""Samples of a pack do not see one another, and every way to run computes the same."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from trainer import model as models
from trainer.data import read_dataset
from trainer.loss import cross_entropy_sum
from trainer.packing import Packing, plan_packing
from trainer.passes import Passes
from trainer.plan import Plan
from trainer.template import IGNORED, encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer.config import Config

pytestmark = pytest.mark.torch
COMPILES = [
    pytest.mark.skipif(
        not os.environ.get("COSTGUARD_TEST_FULL"), reason="compiling takes a minute: make test-full"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]


def plan(tokens: int, checkpointing: str = "none", attention: str = "sdpa", **how: bool) -> Plan:
    return Plan(tokens, checkpointing, how.get("compiled", False), captured=False,
                attention=attention)  # fmt: skip


class Bench:
    """A model whose adapter already does something, and a step's samples."""

    def __init__(self, config: Config, rows: Path) -> None:
        import torch

        torch.set_num_threads(1)
        self.device = torch.device("cpu")
        self.model = models.load_model(config, self.device, torch.float32)
        for name, parameter in self.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        tokenizer = models.load_tokenizer(config)
        self.samples = encode(read_dataset(rows).samples[:5], tokenizer, "你是客服。")
        self.passes = Passes(self.model, self.device, random=False)

    def packing(self, budget: int) -> Packing:
        """How the samples are packed."""
        return plan_packing([self.samples], budget, 0, shapes_at_most=2)

    def step(self, chosen: Plan) -> tuple[float, Any]:
        """The step's loss and its gradients in one vector."""
        import torch

        self.passes.arrange(chosen, self.packing(chosen.pack_tokens))
        loss = float(self.passes.gradients(self.samples))
        gradients = [p.grad.flatten() for p in models.trainable(self.model)]
        return loss, torch.cat(gradients).clone()


@pytest.fixture(scope="module")
def bench(tiny_model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    from trainer.config import Config

    config = Config(
        model_name_or_path=str(tiny_model), dataset=rows, quantization_bit=4, threads=1,
        output_dir=tmp_path_factory.mktemp("passes"),
    )  # fmt: skip
    return Bench(config, rows)


@pytest.mark.parametrize(
    "chosen",
    [plan(2048), plan(300), plan(2048, "selective"), plan(2048, "full")],
    ids=["one pack", "several", "selective", "full"],
)
def test_every_plan_gives_the_gradients_of_separate_samples(bench: Bench, chosen: Plan) -> None:
    """Packed or alone, kept or computed again: the same loss and gradients."""
    import torch

    alone = bench.step(plan(1))
    loss, gradients = bench.step(chosen)
    assert loss == pytest.approx(alone[0], rel=1e-6)
    difference = torch.linalg.vector_norm(gradients - alone[1])
    assert difference < 1e-5 * torch.linalg.vector_norm(alone[1])


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("flex", marks=COMPILES)])
def test_the_logits_of_packed_samples_are_those_of_separate_ones(
    bench: Bench, attention: str
) -> None:
    """To the last digits of fp32, also beside padding; and other words next door change nothing."""
    import torch

    from trainer.attention import arguments
    from trainer.loss import numbers, views

    chosen = plan(2048, attention=attention)
    packing = bench.packing(2048)
    bench.passes.arrange(chosen, packing)
    (pack,) = packing.packs(bench.samples)
    batch = views(torch.tensor(numbers(pack, packing.segments)), pack.shape)
    causal = bench.model.get_base_model()

    def logits(ids: Any) -> Any:
        with torch.no_grad():
            return causal(
                input_ids=ids, position_ids=batch["position_ids"], use_cache=False,
                **arguments(attention, batch, packing.longest),
            ).logits[0]  # fmt: skip

    packed = logits(batch["input_ids"])
    second = slice(pack.boundaries[1], pack.boundaries[2])
    changed = batch["input_ids"].clone()
    changed[0, : pack.boundaries[1]] = 7
    changed[0, pack.boundaries[2] :] = 9
    bench.passes.arrange(plan(2048), packing)
    with torch.no_grad():
        alone = causal(input_ids=batch["input_ids"][:, second], use_cache=False).logits[0]
    torch.testing.assert_close(packed[second], alone, rtol=1e-4, atol=1e-5)
    bench.passes.arrange(chosen, packing)
    torch.testing.assert_close(logits(changed)[second], packed[second], rtol=0, atol=1e-6)


def test_a_judgement_with_a_layer_that_would_repack_is_an_error(bench: Bench) -> None:
    """On AVX512-BF16 the next step would fail, or lose the gradient's path without a word."""
    import bitsandbytes

    bench.passes.arrange(plan(2048), bench.packing(2048))
    assert bench.passes.loss_sum(bench.samples) > 0
    layers = (m for m in bench.model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit))
    layer = next(layers)
    layer.support_avx512bf16_for_cpu = True
    try:
        with pytest.raises(AssertionError, match="repack"):
            bench.passes.loss_sum(bench.samples)
    finally:
        layer.support_avx512bf16_for_cpu = False


def test_the_chunked_cross_entropy_is_the_plain_one() -> None:
    """Sum and gradient, over several chunks, with rows that count for nothing."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    rows = torch.randn(11, 16, requires_grad=True)
    weight = torch.randn(50, 16)
    targets = torch.randint(0, 50, (11,))
    targets[3] = targets[10] = IGNORED
    ours = cross_entropy_sum(rows, weight, targets, chunk_rows=4)
    (gradient,) = torch.autograd.grad(2 * ours, rows)
    logits = rows @ weight.t()
    plain = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    (expected,) = torch.autograd.grad(2 * plain, rows)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradient, expected)


def test_an_output_layer_that_is_trained_is_refused() -> None:
    """Its gradient would be missing in silence."""
    import torch

    weight = torch.randn(5, 4, requires_grad=True)
    with pytest.raises(AssertionError, match="output layer is trained"):
        cross_entropy_sum(torch.randn(2, 4), weight, torch.tensor([1, 2]))


@pytest.mark.parametrize("bits", [4, None])
def test_selective_keeps_the_frozen_products(
    bench: Bench, make_config: Callable[..., Config], rows: Path, bits: int | None
) -> None:
    """They run once a layer; under full checkpointing twice."""
    from torch.utils._python_dispatch import TorchDispatchMode

    chosen = bench if bits else Bench(make_config(quantization_bit=None), rows)
    counted: list[str] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = str(function)
            wide = name == "aten.mm.default" and min(*args[0].shape, *args[1].shape) >= 64
            wide = wide or (name == "aten.addmm.default" and min(args[2].shape) >= 64)
            if wide or name == "bitsandbytes.gemm_4bit.default":
                counted.append(name)
            return function(*args, **(kwargs or {}))

    seen = {}
    for checkpointing in ("none", "selective", "full"):
        chosen.passes.arrange(plan(2048, checkpointing), chosen.packing(2048))
        counted.clear()
        with Count():
            chosen.passes.gradients(chosen.samples)
        seen[checkpointing] = len(counted)
    assert seen["selective"] == seen["none"] > 0
    assert seen["full"] == seen["none"] + 7


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_running_out_of_the_recompile_limit_is_an_error() -> None:
    """Torch would go on in eager code without a word, at the price of compiled code by the hour."""
    import torch

    from trainer import layers

    settings = torch._dynamo.config
    before = (settings.recompile_limit, settings.fail_on_recompile_limit_hit)
    try:
        layers._prepare_compiler()
        assert settings.recompile_limit >= 2 * layers.COMPILED_SHAPES_MAX
        settings.recompile_limit = 2
        compiled = torch.compile(lambda values: values * 2, backend="eager", dynamic=False)
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            for size in range(2, 6):
                compiled(torch.ones(size))
    finally:
        settings.recompile_limit, settings.fail_on_recompile_limit_hit = before
        torch._dynamo.reset()


@pytest.mark.parametrize(
    "checkpointing",
    [pytest.param(kind, marks=COMPILES) for kind in ("none", "selective", "full")],
)
def test_compiled_layers_give_the_same_gradients(bench: Bench, checkpointing: str) -> None:
    """Selective checkpointing around a compiled layer once gave wrong ones, without a word."""
    import torch

    eager = bench.step(plan(2048))
    loss, gradients = bench.step(plan(2048, checkpointing, compiled=True))
    assert loss == pytest.approx(eager[0], rel=1e-6)
    difference = torch.linalg.vector_norm(gradients - eager[1])
    assert difference < 1e-5 * torch.linalg.vector_norm(eager[1])
