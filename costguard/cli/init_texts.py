"""The config and the job file that `init` writes, commented so that a person can go on by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from costguard.cli.text import width
from costguard.core.money import yuan_text
from costguard.lang import _

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMENT_COLUMN = 34
MODEL = "Qwen/Qwen2.5-7B-Instruct"


@dataclass
class Answers:
    """What was answered. Money is micro-yuan; `fields` are the platform's own, as TOML values."""

    provider: str = "local"
    box: str = ""  # of ssh: what the machine is called
    fields: dict[str, str] = field(default_factory=dict)
    job: str = "first"
    gpu: str = ""
    image: str = ""
    instance_id: str = ""
    budget_micros: int = 0
    month_micros: int | None = None
    dataset: str = "data/train.jsonl"
    channel: str = ""  # the kind of the notification channel; "" for none
    lang: str = "zh"

    @property
    def account(self) -> str:
        """The account's name: `autodl`, or `ssh.box1`."""
        return f"ssh.{self.box}" if self.provider == "ssh" else self.provider


def quoted(text: str) -> str:
    """`text` as TOML writes it."""
    return json.dumps(text, ensure_ascii=False)


def config_text(answers: Answers) -> str:
    """A whole config.toml."""
    month = answers.month_micros
    lines = [
        "# " + _("costguard's settings. Secrets are never in here: each is a file beside it."),
        _line("timezone", quoted("Asia/Shanghai"), _("whose calendar months the caps are for")),
        _line("lang", quoted(answers.lang), "zh, en"),
        "",
        "[budgets]",
        _line(
            "month_yuan",
            yuan_text(month or 500_000_000),
            _("the cap of all jobs in a calendar month"),
            is_off=month is None,
        ),
    ]
    added = added_text(answers, with_channel=True)
    return "\n".join(lines) + "\n" + (f"\n{added}" if added else "")


def added_text(answers: Answers, *, with_channel: bool) -> str:
    """The tables of the platform and of the channel, as they are added to a config."""
    lines = _platform_lines(answers)
    if answers.channel and with_channel:
        lines += ["", *_channel_lines(answers)] if lines else _channel_lines(answers)
    return "\n".join(lines) + "\n" if lines else ""


def _platform_lines(answers: Answers) -> list[str]:
    if answers.provider == "local":
        return []
    lines = [f"[providers.{answers.account}]"]
    lines += [_line(key, value) for key, value in answers.fields.items()]
    if answers.provider == "ssh":
        offered = _ssh_fields()
    else:
        offered = {
            "in_guest_stop_command": (
                quoted("…"),
                _("what powers the instance off from inside, if you know one"),
            ),
            "poll_interval_s": ("15", _("how often the power state is asked for")),
        }
    lines += [
        _line(key, value, why, is_off=True)
        for key, (value, why) in offered.items()
        if key not in answers.fields
    ]
    return lines


def _ssh_fields() -> Mapping[str, tuple[str, str]]:
    """What a machine with SSH may have beside what was asked, each with a word on it."""
    return {
        "host_key": (quoted("ssh-ed25519 AAAA…"), _("`costguard doctor` shows it")),
        "billing": (quoted("second"), _("what rent is rounded up to: second, minute, hour")),
        "pause_command": (
            quoted("…"),
            _("run here to stop it; without one only you can stop the meter"),
        ),
        "resume_command": (quoted("…"), _("run here to switch it on again")),
        "power_state_command": (
            quoted("…"),
            _("run here; prints exactly `running` or `stopped`"),
        ),
        "in_guest_stop_command": (
            quoted("…"),
            _("run there at a lease's end; never on your own workstation"),
        ),
        "console_url": (quoted("https://…"), _("where you stop it by hand")),
    }


def _channel_lines(answers: Answers) -> list[str]:
    return [
        '# notify: [notify] quiet = "23:00-07:30", morning = "08:00"',
        f"[notify.channels.{answers.channel}]",
        _line("kind", quoted(answers.channel), _("its address is a file beside this one")),
    ]


def job_text(answers: Answers) -> str:
    """A whole job file."""
    parts = [_job_lines(answers), _instance_lines(answers), _training_lines(answers)]
    parts += [_stage_lines(), _guard_lines()]
    head = "# " + _("a job of costguard; paths are relative to this file")
    return "\n\n".join(["\n".join(part) for part in [[head, *parts[0]], *parts[1:]]]) + "\n"


def _job_lines(answers: Answers) -> list[str]:
    return [
        "[job]",
        _line("name", quoted(answers.job)),
        _line("project", quoted("default"), _("caps can be set for a project too")),
        _line(
            "budget_yuan",
            yuan_text(answers.budget_micros),
            _("the cap: it is paused before it would cost more"),
        ),
    ]


def _instance_lines(answers: Answers) -> list[str]:
    provider = answers.provider
    lines = ["[instance]", _line("provider", quoted(provider))]
    own = answers.instance_id or answers.box
    if provider != "local":
        why = _("an instance that you made in the console; left out: a new one is rented")
        lines.append(_line("id", quoted(own or "…"), "" if own else why, is_off=not own))
    if provider != "ssh":
        lines.append(_line("gpu", quoted(answers.gpu or "…"), is_off=not answers.gpu))
    if provider not in ("local", "ssh"):
        why = "" if answers.image else f"costguard images --provider {provider}"
        is_off = not answers.image
        lines.append(_line("image", quoted(answers.image or "…"), why, is_off=is_off))
        why = _("dearer than that is not rented")
        lines.append(_line("max_price_yuan_per_hour", "16", why, is_off=True))
    why = _("how long the paused disk is to be kept; its price is held back")
    return [*lines, _line("keep_for", quoted("7d"), why)]


def _training_lines(answers: Answers) -> list[str]:
    if answers.provider == "local":
        where = "python -m trainer make-model --out model --data " + answers.dataset
        model = [
            _line("model_name_or_path", quoted("model"), where),
            _line("model_source", quoted("path"), _("a folder beside this file")),
        ]
    else:
        model = [
            _line("model_name_or_path", quoted(MODEL)),
            _line("model_source", quoted("modelscope"), "modelscope, huggingface, path"),
        ]
    return [
        "# " + _("LLaMA-Factory's names; what is left out has the trainer's default"),
        "[training]",
        *model,
        _line("dataset", quoted(answers.dataset)),
        _line("quantization_bit", "4"),
        _line("num_train_epochs", "3"),
    ]


def _stage_lines() -> list[str]:
    return [
        "# " + _("a ladder: a little first, and all of it only if the loss falls"),
        "[[stages]]",
        _line("max_samples", "100"),
        _line("gate_loss_drop_percent", "10", _("less than that: it pauses and asks")),
        "[[stages]]",
        _line("max_samples", quoted("all")),
        _line("start", quoted("base"), _('or "previous": from the adapter of the stage before')),
    ]


def _guard_lines() -> list[str]:
    return [
        "[guards]",
        _line("idle_after", quoted("5m"), _("GPU and processes quiet for so long: paused")),
        _line("blind_after", quoted("30m"), _("nothing heard for so long: paused")),
        _line("max_hours", "6", _("an end whatever the budget"), is_off=True),
    ]


def _line(key: str, value: str, why: str = "", *, is_off: bool = False) -> str:
    """`key = value  # why`, itself a comment where it is only offered."""
    text = f"{'# ' if is_off else ''}{key} = {value}"
    if not why:
        return text
    return text + " " * max(COMMENT_COLUMN - width(text), 1) + f"# {why}"
