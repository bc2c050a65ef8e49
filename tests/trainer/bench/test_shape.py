"""The model that the bench runs on, made small: it loads as a quantised one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from trainer import model as models
from trainer.bench import shape, whole_export
from trainer.config import Config
from trainer.data import read_dataset

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.torch
def test_it_loads_in_4_bits(tmp_path: Path, rows: Path) -> None:
    """As its files are, in NF4 with double quantisation: nothing is quantised again."""
    import bitsandbytes
    import torch

    cpu = torch.device("cpu")
    samples = read_dataset(rows).samples
    shape.make(tmp_path / "m", samples, {**shape.QWEN_7B, **shape.TINY}, cpu)
    config = Config(
        model_name_or_path=str(tmp_path / "m"), dataset=rows, output_dir=tmp_path,
        quantization_bit=4,
    )  # fmt: skip
    assert models.is_quantised(config)
    model = models.load_model(config, cpu, torch.float32)
    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == models.assert_no_repacking(model) == 7
    assert {layer.weight.quant_state.quant_type for layer in layers} == {"nf4"}
    assert all(layer.weight.quant_state.nested for layer in layers)
    weight = bitsandbytes.functional.dequantize_4bit(
        layers[0].weight.data, layers[0].weight.quant_state
    )
    assert float(weight.float().std()) == pytest.approx(shape.DEVIATION, rel=0.1)


@pytest.mark.torch
@pytest.mark.skipif(not os.environ.get("COSTGUARD_TEST_FULL"), reason="make test-full")
def test_a_whole_export_is_measured_in_stages(tmp_path: Path) -> None:
    """Time, largest memory and size of each; what was measured is not measured again."""
    config = {**shape.QWEN_7B, **shape.TINY}
    found = whole_export.measure(tmp_path, config, ["dequantized"])["dequantized"]
    assert found["wall_s"] > 0
    assert 0.05 < found["peak_rss_gib"] < 8
    assert found["kl"]["written"]["mean_kl"] == pytest.approx(
        found["kl"]["dequantized"]["mean_kl"], abs=1e-6
    )
    assert not (tmp_path / "dequantized").exists()
    assert whole_export.measure(tmp_path, config, ["dequantized"])["dequantized"] == found
