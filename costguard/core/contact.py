"""First contact: what an instance was seen to have, judged against what a job needs of it.

The checks are those that a careful person makes after logging in (article, 2.3): driver and CUDA,
cards and their free memory, Python, whether torch sees the cards, the packages' versions, bf16,
the disk, the way to the model's source, the clock, and whether the data lies on a network. Each
gets one verdict; what could not be found out is `unknown`, and never taken for good or for bad.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OK, WARN, FAIL, UNKNOWN = "ok", "warn", "fail", "unknown"
CLOCK_WARN_MS = 5_000
CLOCK_FAR_MS = 300_000  # from here on signed requests are refused
AMPERE = (8, 0)  # the first compute capability whose cards multiply in bf16
# From here on a model counts as fetched: its size is known by its name, a few percent too large.
WHOLE_PARTS = (7, 8)
IN_USE_MIB = 1024  # what an empty card's driver and display never take


@dataclass(frozen=True, slots=True)
class Needs:
    """What the job asks of the instance. None and empty: nothing in particular.

    `versions` holds the least version of each package; "" where any will do. `model` is what is
    fetched from a hub, kept where `model_cache` (a variable's name) or `model_dir` says;
    `model_mib` is 0 where nobody knows its size. Checkpoints go to `saves`.
    """

    cuda: bool = True
    bf16: bool = False
    vram_mib: int | None = None
    cards: int = 1
    model: str | None = None
    model_mib: int | None = None
    model_cache: str | None = None
    model_dir: str | None = None
    checkpoints_mib: int | None = None
    saves: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: `check`, its verdict, what was seen, what was wanted, what to do."""

    check: str
    verdict: str
    seen: str
    wanted: str = ""
    hint: str = ""


def judge_contact(facts: Mapping[str, Any], needs: Needs) -> tuple[Row, ...]:
    """The whole table, in the order in which one depends on the other."""
    return (
        _driver(facts, needs),
        _cards(facts, needs),
        _python(facts),
        _torch(facts, needs),
        *(_package(facts, name, least) for name, least in needs.versions.items()),
        _bf16(facts, needs),
        *_disks(facts, needs),
        *(_host(facts, host) for host in needs.hosts),
        _clock(facts),
        *(_mount(facts, path) for path in needs.data),
    )


def worst(rows: Sequence[Row]) -> str:
    """The worst verdict of a table: fail before unknown, unknown before warn."""
    verdicts = {row.verdict for row in rows}
    return next((one for one in (FAIL, UNKNOWN, WARN) if one in verdicts), OK)


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as lines for a terminal, in columns; a hint on a line of its own."""
    width = max((len(row.check) for row in rows), default=0)
    lines = []
    for row in rows:
        wanted = f"   (wanted: {row.wanted})" if row.wanted else ""
        lines.append(f"{row.verdict:<7}  {row.check:<{width}}  {row.seen}{wanted}")
        if row.hint and row.verdict in (FAIL, WARN):
            lines.append(f"{'':<7}  {'':<{width}}  -> {row.hint}")
    return lines


def _driver(facts: Mapping[str, Any], needs: Needs) -> Row:
    nvml = facts.get("nvml") or {}
    state, driver, cuda = nvml.get("state"), nvml.get("driver"), nvml.get("cuda")
    if state == "absent":
        verdict = FAIL if needs.cuda else OK
        return Row("driver", verdict, "no NVIDIA driver", "", "take an image with a driver")
    if not driver:
        return Row("driver", UNKNOWN, str(nvml.get("detail") or "NVML does not say"))
    seen = f"{driver}, up to CUDA {cuda}"
    built = (facts.get("torch") or {}).get("cuda")
    if not built:
        return Row("driver", OK, seen)
    # Minor-version compatibility (CUDA 11 and later): a driver of the same major runs it, without
    # what is compiled on the spot; an older major does not.
    have, want = version_of(cuda), version_of(built)
    sees = (facts.get("torch") or {}).get("sees_cuda") is True  # NVIDIA's compatibility package
    if have[:1] < want[:1] and not sees:
        hint = "take a newer driver's image, or a torch for the driver's CUDA"
        return Row("driver", FAIL, seen, f"CUDA {built}, as torch was built", hint)
    if have < want:
        hint = "it runs; kernels that are compiled on the spot may not"
        return Row("driver", WARN, seen, f"CUDA {built}, as torch was built", hint)
    return Row("driver", OK, seen, f"CUDA {built}, as torch was built")


def _cards(facts: Mapping[str, Any], needs: Needs) -> Row:
    cards = [card for card in facts.get("cards") or [] if isinstance(card, Mapping)]
    state = (facts.get("nvml") or {}).get("state")
    wanted = f"{needs.cards} with {needs.vram_mib} MiB free" if needs.vram_mib else ""
    if state == "absent":
        return Row("cards", FAIL if needs.cuda else OK, "none", wanted)
    if state != "ok" or not cards:
        detail = str((facts.get("nvml") or {}).get("detail") or "NVML does not say")
        return Row("cards", FAIL if state in ("lost", "reset") else UNKNOWN, detail, wanted)
    free = [_free_mib(card) for card in cards]
    seen = ", ".join(
        f"{card.get('name') or 'a card'}: {'unknown' if mib is None else mib} MiB free"
        for card, mib in zip(cards, free, strict=True)
    )
    if len(cards) < needs.cards:
        return Row("cards", FAIL, seen, wanted or f"{needs.cards} cards", "rent more cards")
    if needs.vram_mib is not None:
        known = [mib for mib in free if mib is not None]
        if sum(mib >= needs.vram_mib for mib in known) < needs.cards:
            verdict = FAIL if len(known) == len(free) else UNKNOWN
            return Row("cards", verdict, seen, wanted, "take a card with more memory")
    taken = [card for card in cards if (card.get("mem_used_mib") or 0) > IN_USE_MIB]
    if taken:
        pids = [card.get("pids") for card in taken]
        who = "processes that are hidden from us" if None in pids else f"processes {pids}"
        return Row("cards", WARN, f"{seen}; in use by {who}", wanted, "somebody else is on it")
    return Row("cards", OK, seen, wanted)


def _free_mib(card: Mapping[str, Any]) -> int | None:
    total, used = card.get("mem_total_mib"), card.get("mem_used_mib")
    return total - used if isinstance(total, int) and isinstance(used, int) else None


def _python(facts: Mapping[str, Any]) -> Row:
    python = facts.get("python")
    if not python:
        return Row("python", FAIL, "none that runs", "3.10 or newer", "take an image with Python")
    seen = f"{python.get('version')} ({python.get('path')})"
    if version_of(python.get("version")) < (3, 10):
        return Row("python", FAIL, seen, "3.10 or newer", "take an image with a newer Python")
    return Row("python", OK, seen, "3.10 or newer")


def _torch(facts: Mapping[str, Any], needs: Needs) -> Row:
    torch = facts.get("torch")
    if not isinstance(torch, Mapping) and not needs.cuda and "torch" not in needs.versions:
        return Row("torch sees CUDA", OK, "not imported: no card is asked for")
    if not isinstance(torch, Mapping):
        verdict = FAIL if "torch" in needs.versions else UNKNOWN
        return Row("torch sees CUDA", verdict, "torch was not looked at: there is none here")
    if torch.get("error"):
        return Row("torch sees CUDA", FAIL, str(torch["error"]), "", "import torch there by hand")
    seen = f"torch {torch.get('version')} for CUDA {torch.get('cuda') or 'none'}"
    sees = torch.get("sees_cuda")
    if not isinstance(sees, bool):
        return Row("torch sees CUDA", UNKNOWN, seen)
    if sees or not needs.cuda:
        return Row("torch sees CUDA", OK, f"{seen}: {'yes' if sees else 'no'}")
    hint = "a torch for CPUs only, or a driver that it cannot use"
    return Row("torch sees CUDA", FAIL, f"{seen}: no", "yes", hint)


def _package(facts: Mapping[str, Any], name: str, least: str) -> Row:
    found = (facts.get("versions") or {}).get(name)
    wanted = f"{least} or newer" if least else "any"
    if found is None:
        return Row(name, FAIL, "not there", wanted, f"install {name} on the instance")
    if not found:
        return Row(name, UNKNOWN, "there, without a version", wanted)
    if least and version_of(found) < version_of(least):
        return Row(name, FAIL, found, wanted, f"install a newer {name}")
    return Row(name, OK, found, wanted)


def _bf16(facts: Mapping[str, Any], needs: Needs) -> Row:
    known = [
        tuple(card["capability"])
        for card in facts.get("cards") or []
        if isinstance(card, Mapping) and card.get("capability")
    ]
    if not known:
        return Row("bf16", UNKNOWN if needs.bf16 or needs.cuda else OK, "no card to ask")
    least = min(known)
    seen = f"compute capability {'.'.join(map(str, least))}"
    if least >= AMPERE:
        return Row("bf16", OK, seen, "8.0 or newer")
    hint = "fp16 gives NaN with Qwen2: take an Ampere card or newer (3090, A10, A100)"
    return Row("bf16", FAIL if needs.bf16 else WARN, seen, "8.0 or newer", hint)


def _disks(facts: Mapping[str, Any], needs: Needs) -> tuple[Row, ...]:
    """Whether what is still to come has room, by sums that a person can check.

    One row, or two where models are kept on another disk than the job.
    """
    room = facts.get("room") or {}
    model = ("model", needs.model_mib or 0, _mib(room.get("model_mib")))
    saves = ("checkpoints", needs.checkpoints_mib or 0, _mib(room.get("saves_mib")))
    unknown = needs.model is not None and not needs.model_mib and not model[2]
    free, models_free = facts.get("disk_free_mib"), room.get("models_free_mib")
    if not isinstance(models_free, int) or needs.model is None:
        return (_disk("disk", free, (model, saves), unknown=unknown),)
    return (
        _disk("disk", free, (saves,), unknown=False),
        _disk("disk for models", models_free, (model,), unknown=unknown),
    )


def _disk(check: str, free: object, parts: Sequence[tuple[str, int, int]], *, unknown: bool) -> Row:
    """`parts`: what for, MiB in all, MiB of it there already."""
    if not isinstance(free, int):
        return Row(check, UNKNOWN, "not known")
    said, wanted_mib = [], 0
    for what, whole_mib, found_mib in parts:
        if not whole_mib:
            continue
        fetched = found_mib * WHOLE_PARTS[1] >= whole_mib * WHOLE_PARTS[0]
        there_mib = whole_mib if fetched else found_mib
        wanted_mib += whole_mib - there_mib
        said.append(_part(what, whole_mib, there_mib))
    seen, wanted = f"{free} MiB free", " + ".join(said)
    if len(said) == 2:
        wanted = f"{said[0]} + {said[1]}, {wanted_mib} MiB to come"
    elif wanted.endswith(")"):
        wanted = f"{said[0]}, {wanted_mib} MiB to come"
    if free < wanted_mib:
        return Row(check, FAIL, seen, wanted, "take a larger data disk, or free this one")
    if unknown:
        return Row(check, UNKNOWN, f"{seen}; the model's size is not known", wanted)
    if wanted_mib and free < wanted_mib * 5 // 4:
        return Row(check, WARN, seen, wanted, "that is close: less than a quarter to spare")
    return Row(check, OK, seen, wanted)


def _part(what: str, whole_mib: int, there_mib: int) -> str:
    for_it = f"{whole_mib} MiB for the {what}"
    return f"{for_it} ({there_mib} MiB of it there already)" if there_mib else for_it


def _mib(value: object) -> int:
    return value if isinstance(value, int) else 0


def _host(facts: Mapping[str, Any], host: str) -> Row:
    found, check = (facts.get("hosts") or {}).get(host), f"network to {host}"
    if not isinstance(found, Mapping):
        return Row(check, UNKNOWN, "not tried")
    if found.get("ok") is True:
        return Row(check, OK, f"answers in {found.get('ms')} ms")
    # No refusal: the model may be there already, or a proxy may lead to it.
    hint = "unless the model is there already: another model_source, a mirror, or upload it"
    return Row(check, WARN, str(found.get("error") or "no answer"), "an answer", hint)


def _clock(facts: Mapping[str, Any]) -> Row:
    offset = facts.get("clock_offset_ms")
    if not isinstance(offset, int):
        return Row("clock", UNKNOWN, "not compared")
    seen = f"{abs(offset) / 1000:.1f} s {'ahead' if offset > 0 else 'behind'}"
    if abs(offset) >= CLOCK_FAR_MS:
        # No refusal: nothing of ours is counted on it, and most downloads work all the same.
        hint = "signed requests, and TLS far off, will fail; leases are counted on another clock"
        return Row("clock", WARN, seen, "within 5 s", hint)
    if abs(offset) >= CLOCK_WARN_MS:
        return Row("clock", WARN, seen, "within 5 s", "times in its logs are off by that")
    return Row("clock", OK, seen, "within 5 s")


def _mount(facts: Mapping[str, Any], path: str) -> Row:
    found = (facts.get("mounts") or {}).get(path)
    check = "the job's folder" if path == "." else f"data in {path}"
    if not isinstance(found, Mapping):
        return Row(check, UNKNOWN, "its file system is not known")
    if found.get("exists") is False:
        hint = "name the path as it is on the instance, or take another model_source"
        return Row(check, FAIL, "it is not there", "a folder", hint)
    seen = f"{found.get('type')} from {found.get('source')}"
    if found.get("network") is True:
        hint = "each sample waits for the network: copy the data to the local disk first"
        return Row(check, WARN, seen, "a local disk", hint)
    return Row(check, OK, seen)


def version_of(text: object) -> tuple[int, ...]:
    """The leading numbers of a version, `2.6.0+cu124` as (2, 6, 0); () where there are none."""
    found = re.match(r"\d+(?:\.\d+)*", str(text or ""))
    return tuple(int(part) for part in found.group(0).split(".")) if found else ()
