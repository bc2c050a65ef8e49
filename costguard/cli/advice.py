"""Advice and what was saved, in words: the figures are the document's, the limits the article's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costguard.cli.words import clock, decimal, money
from costguard.lang import _

if TYPE_CHECKING:
    from costguard.cli.text import Screen
    from costguard.cli.words import Document


def advice_text(item: Document) -> str:
    """One piece of advice; its code where this version has no words for it."""
    words = {
        "gpu_waits": _(
            "the GPU was busy {gpu} % of the time: it most likely waits for data. Raise"
            " dataloader_num_workers (to 4), and keep the data on the local disk, not on a network"
            " mount"
        ),
        "gpu_below_par": _(
            "the GPU was busy {gpu} % of the time, 60 % and more is usual: try a larger"
            " per_device_train_batch_size, or dataloader_num_workers = 4"
        ),
        "data_on_network": _(
            "the data lies on a network mount ({seen}): copy it to the instance's own disk"
        ),
        "memory_is_tight": _(
            "GPU memory was at {memory} %, close to full: lower per_device_train_batch_size or"
            " cutoff_len before it runs out"
        ),
        "loss_is_flat": _(
            "the loss hardly fell ({first} to {last}): check that instruction and output belong"
            " together, make the prompt template plainer, add similar samples, try a higher"
            " learning_rate (3e-4) or another epoch"
        ),
        "loss_is_low": _(
            "the loss came down to {last}: below 1.5 something was usually learnt. That is a hint,"
            " not a verdict: ask the model your own questions"
        ),
    }.get(str(item["code"]), str(item["code"]))
    return words.format(
        gpu=item.get("gpu_util_percent"),
        memory=item.get("gpu_memory_percent"),
        first=decimal(item.get("loss_first"), 2),
        last=decimal(item.get("loss_last"), 2),
        seen=item.get("seen"),
    )


def saved_text(item: Document) -> str:
    """One checkpoint or adapter, and where it is."""
    if item["home_at"]:
        return _("{name} (step {step}): home since {time}, verified, in {path}").format(
            name=item["name"], step=item["step"], time=clock(item["home_at"]), path=item["path"]
        )
    return _(
        "{name} (step {step}): on the instance's disk only; `costguard pull` fetches it"
    ).format(name=item["name"], step=item["step"])


def cost_parts(cost: Document, screen: Screen) -> list[str]:
    """What it cost, what of that taught nothing, and what the disk goes on costing."""
    parts = [
        _("spent {spent} of {cap}").format(
            spent=money(cost["spent_yuan"], screen), cap=money(cost["cap_yuan"], screen)
        )
    ]
    if money(cost["idle_yuan"], screen) != money("0", screen):
        idle = _("{idle} of it after the last step")
        parts.append(idle.format(idle=money(cost["idle_yuan"], screen)))
    if money(cost["disk_yuan_per_day"], screen) != money("0", screen):
        disk = _("the disk that is kept costs {disk} a day until `release`")
        parts.append(disk.format(disk=money(cost["disk_yuan_per_day"], screen)))
    return parts
