"""What is set before and around a model, so that a card's memory and its sums are used well."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from trainer import model as models

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of the test's own, whatever it adds to it."""
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k not in NAMES})


def test_a_cards_memory_grows_in_place() -> None:
    """By either of the names that torch has had for it."""
    models.prepare_allocator()
    assert [os.environ[name] for name in NAMES] == ["expandable_segments:True"] * 2


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_set_of_the_memory_stays(name: str) -> None:
    """Under one name, and the other is not set beside it."""
    os.environ[name] = "max_split_size_mb:64"
    models.prepare_allocator()
    found = {other: os.environ.get(other) for other in NAMES}
    assert found == {**dict.fromkeys(NAMES), name: "max_split_size_mb:64"}


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "asked"), [("cuda", [True]), ("cpu", [])])
def test_a_card_is_told_to_add_in_one_order(
    kind: str, asked: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU it does by itself, and nothing is slowed down there."""
    import torch

    told: list[bool] = []
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *, mode: told.append(mode))
    models.be_repeatable(SimpleNamespace(type=kind))
    assert told == asked
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if asked else None)
