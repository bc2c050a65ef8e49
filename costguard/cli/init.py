"""`init`: from a few answers to a config, its secrets and a job file, all of them or none.

1. what is there already is looked at; nothing of it is ever overwritten unasked
2. everything is asked, at the terminal or by flags; secrets without an echo
3. what would be written is understood by the same reader that the daemon has
4. the files are put in place, then `doctor` looks at the account, and the next commands are named
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from costguard import paths
from costguard.cli.init_files import SECRET_MODE, NewFile, write_all
from costguard.cli.init_texts import Answers, added_text, config_text, job_text, quoted
from costguard.cli.prompt import Prompt, is_token, tell
from costguard.cli.words import led_by
from costguard.core.money import MoneyError, parse_yuan, yuan_text
from costguard.errors import EXIT_USAGE, UserError
from costguard.jobfile import check_name, load_job
from costguard.lang import _, selected
from costguard.retell import retell
from costguard.settings import load_settings

if TYPE_CHECKING:
    from costguard.daemon.accounts import Needs
    from costguard.settings import Settings

CHANNELS = ("none", "wecom", "dingtalk", "feishu", "serverchan", "apprise")
SIGNED = ("dingtalk", "feishu")  # channels whose messages may be signed with a secret
PRICED = {  # platforms without a price list: the field that a price of the console goes into
    "autodl": "prices_yuan_per_hour",
    "xiangongyun": "prices_yuan_per_hour",
    "aws": "prices_usd_per_hour",
}
CARDS = {"local": "RTX 3090", "aws": "g5.xlarge"}
CARD = "RTX 4090"


@dataclass(frozen=True)
class Flags:
    """What the command line said; None where the person is to be asked."""

    provider: str | None = None
    job: Path | None = None
    name: str | None = None
    gpu: str | None = None
    price: str | None = None
    image: str | None = None
    instance_id: str | None = None
    budget: str | None = None
    month_budget: str | None = None
    data: str | None = None
    notify: str | None = None
    yuan_per_usd: str | None = None
    ssh: str | None = None
    box: str | None = None
    key_file: str | None = None
    secrets_stdin: bool = False
    yes: bool = False
    check: bool = True


def init(flags: Flags) -> int:
    """Ask, write, check; the exit code is `doctor`'s, 0 where it was not run."""
    home = paths.ensure_home()
    settings = load_settings(home)
    job = (flags.job or Path("job.toml")).absolute()
    if job.exists():
        what = _("it is there already, and nothing here is overwritten")
        raise UserError("exists", what, str(job), "costguard init --job …", EXIT_USAGE)
    try:
        answers, files = _Interview(flags, settings, job).hold()
        if files:
            write_all(files)
    except KeyboardInterrupt:
        tell("\n" + _("stopped: nothing was written"))
        raise
    for file in files:
        tell(_("written: {path}").format(path=file.path))
    return _afterwards(answers, job, check=flags.check)


class _Interview:
    """Every question in its order, and the files that come of it."""

    def __init__(self, flags: Flags, settings: Settings, job: Path) -> None:
        self.flags, self.settings, self.job = flags, settings, job
        self.prompt = Prompt()
        self.answers = Answers(lang=settings.lang or selected())
        self.files: list[NewFile] = []

    def hold(self) -> tuple[Answers, list[NewFile]]:
        """The answers, and what is to be written; nothing has been yet."""
        answers, ask, flags = self.answers, self.prompt, self.flags
        needs = self._platform()
        answers.provider = needs.name
        is_new = True
        if needs.name == "ssh":
            is_new = self._box()
        elif needs.name != "local":
            is_new = needs.name not in self.settings.providers
            self._secrets(needs)
        if needs.name != "ssh":
            card = CARDS.get(needs.name, CARD)
            answers.gpu = ask.text(_("which card (GPU)"), "--gpu", flags.gpu, card)
        if is_new:
            self._fields(needs)
        if needs.name not in ("local", "ssh"):
            question = _("image: `costguard images` finds them; Enter: later")
            answers.image = ask.text(question, "--image", flags.image, "")
            answers.instance_id = flags.instance_id or ""
        self._job()
        self._channel()
        self._config(is_new=is_new)
        self.files.append(NewFile(self.job, job_text(answers)))
        return answers, self.files

    def _platform(self) -> Needs:
        from costguard.daemon.accounts import Needs, platforms

        here = Needs("local", _("this machine: no account, no GPU, to try it all"), (), ())
        anywhere = Needs("ssh", _("any machine with an SSH line, such as CSDN 星图"), (), ())
        known = [*platforms(), anywhere, here]
        if self.prompt.can_ask and self.flags.provider is None:
            for number, each in enumerate(known, 1):
                tell(f"{number:3}  {each.name:12} {each.title}")
        names = [each.name for each in known]
        name = self.prompt.choice(_("platform"), "--provider", self.flags.provider, names)
        return known[names.index(name)]

    def _secrets(self, needs: Needs) -> None:
        """Each secret that is not there yet, into a file of its own that nobody else may read."""
        for file_name, label, made_at in needs.secrets:
            variable = f"COSTGUARD_{file_name.replace('.', '_')}".upper()
            if self.settings.secret(file_name, variable) is not None:
                tell(_("{file} is there already and is kept").format(file=file_name))
                continue
            tell(_("{label}: made at {place}").format(label=label, place=made_at))
            self._secret(label, file_name)

    def _secret(self, label: str, file_name: str, *, required: bool = True) -> None:
        value = ""
        if self.flags.secrets_stdin and not sys.stdin.isatty():  # typed, it would be seen
            value = sys.stdin.readline().strip()
            if value and not is_token(value):
                what = _("a token is one word without blanks: paste it again")
                raise UserError("usage", what, "--secrets-stdin", label, EXIT_USAGE)
        elif self.prompt.can_ask:
            value = self.prompt.secret(_("{label} (not shown; Enter: later)").format(label=label))
        if value:
            place = self.settings.home / file_name
            self.files.append(NewFile(place, value + "\n", SECRET_MODE))
        elif required:
            text = _("later: put it alone into {path}, then chmod 600 it")
            tell("  " + text.format(path=self.settings.home / file_name))

    def _box(self) -> bool:
        """The machine with SSH: its name, its line, how to log in. Whether it is a new one."""
        answers, ask, flags = self.answers, self.prompt, self.flags
        answers.box = ask.text(_("what to call that machine"), "--box", flags.box, "box1", _name)
        if answers.box in self.settings.ssh_boxes:
            return False
        line = ask.text(_("its SSH line, as the console shows it"), "--ssh", flags.ssh, None, _ssh)
        answers.fields["ssh"] = quoted(line)
        question = _("your own SSH key for it; Enter: it has a password")
        key = ask.text(question, "--key-file", flags.key_file, "", _file)
        if key:
            answers.fields["key_file"] = quoted(key)
        else:
            answers.fields["password_file"] = quoted(f"{answers.box}.password")
            self._secret(_("password"), f"{answers.box}.password")
        return True

    def _fields(self, needs: Needs) -> None:
        """The fields of the platform's table that have no default, with what they mean."""
        answers, ask, flags = self.answers, self.prompt, self.flags
        if "yuan_per_usd" in needs.required:
            question = _("it charges in US dollars: what one costs you, in yuan, rounded up")
            rate = ask.text(question, "--yuan-per-usd", flags.yuan_per_usd, None, _money)
            answers.fields["yuan_per_usd"] = rate
            today = datetime.now().astimezone().date().isoformat()
            answers.fields["yuan_per_usd_date"] = quoted(today)
        if needs.name == "ssh":
            question = _("what an hour of it costs, in yuan")
            price = ask.text(question, "--price", flags.price, None, _money)
            answers.fields["price_yuan_per_hour"] = price
        elif needs.name in PRICED:
            key = PRICED[needs.name]
            question = _(
                "it has no price list: what an hour of {gpu} costs in its console, in {unit}"
            )
            unit = _("US dollars") if key == "prices_usd_per_hour" else _("yuan")
            question = question.format(gpu=answers.gpu, unit=unit)
            price = ask.text(question, "--price", flags.price, None, _money)
            answers.fields[key] = f"{{ {quoted(answers.gpu)} = {price} }}"

    def _job(self) -> None:
        answers, ask, flags = self.answers, self.prompt, self.flags
        answers.job = ask.text(_("the job's name"), "--name", flags.name, _default_name(), _name)
        question = _("the job's budget, in yuan")
        budget = ask.text(question, "--budget", flags.budget, None, _money)
        answers.budget_micros = parse_yuan(budget)
        if not (self.settings.home / "config.toml").exists():
            question = _("a cap for all jobs of a calendar month, in yuan; Enter: none")
            month = ask.text(question, "--month-budget", flags.month_budget, "", _money)
            answers.month_micros = parse_yuan(month) if month else None
        elif flags.month_budget is not None:
            tell(_("the config is there already: costguard budget set --month YYYY-MM YUAN"))
        data = ask.text(_("data set"), "--data", flags.data, answers.dataset)
        there = Path(data).expanduser().absolute()
        inside = there.is_relative_to(self.job.parent)
        answers.dataset = str(there.relative_to(self.job.parent) if inside else there)
        if not there.is_file():
            tell("  " + _("{path} is not there yet").format(path=there))

    def _channel(self) -> None:
        known = self.settings.notify.channels
        if known and self.flags.notify is None:
            return
        question = _("who tells you at night ({names})").format(names=", ".join(CHANNELS))
        given = self.flags.notify or (None if self.prompt.can_ask else "none")
        kind = self.prompt.choice(question, "--notify", given, CHANNELS)
        if kind == "none" or kind in known:
            return
        self.answers.channel = kind
        label = {
            "serverchan": _("SendKey or address of ServerChan"),
            "apprise": _("Apprise address"),
        }.get(kind, _("webhook address of the group robot"))
        self._secret(label, f"{kind}.url")
        if kind in SIGNED:
            signing = _("its signing secret; Enter: none")
            self._secret(signing, f"{kind}.secret", required=False)

    def _config(self, *, is_new: bool) -> None:
        """The config as it will be, once it is seen that it is understood."""
        path = self.settings.home / "config.toml"
        if not path.exists():
            text = config_text(self.answers)
            _check(text)
            self.files.append(NewFile(path, text, SECRET_MODE))
            return
        if not is_new:
            where = f"[providers.{self.answers.account}]"
            tell(_("{where} is in the config already and is kept").format(where=where))
            self.answers.fields = {}
        added = self._added(is_new=is_new)
        if not added:
            return
        old = path.read_text(encoding="utf-8")
        text = f"{old.rstrip()}\n\n{added}"
        _check(text)
        print(added, file=sys.stderr)
        question = _("add these lines to {path}?").format(path=path)
        if not self.flags.yes and not self.prompt.yes(question, default=False):
            what = _("not confirmed: nothing was written")
            raise UserError("not_confirmed", what, str(path), "--yes", EXIT_USAGE)
        mode = stat.S_IMODE(path.stat().st_mode)
        self.files.append(NewFile(path, text, mode, replaces=old))

    def _added(self, *, is_new: bool) -> str:
        if is_new:
            return added_text(self.answers, with_channel=True)
        channel_alone = Answers(provider="local", channel=self.answers.channel)
        return added_text(channel_alone, with_channel=True)


def _check(config: str) -> None:
    """UserError where the daemon would not understand this config."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.toml").write_text(config, encoding="utf-8")
        load_settings(Path(place))


def _afterwards(answers: Answers, job: Path, *, check: bool) -> int:
    """Look at what was written and at the account; then say what to type next."""
    from costguard.daemon.accounts import bounds_of

    code = 0
    if check:
        from costguard.cli.market import show_doctor

        try:
            load_job(job, check_data=False)
        except UserError as error:
            tell(_("the job file is not ready yet: {why}").format(why=retell(str(error))))
        own = None if answers.provider == "local" else answers.account
        code = show_doctor(own, answers.gpu or None, as_json=False)
    shown = os.path.relpath(job)
    steps = [(_("what it will cost"), f"costguard estimate {shown}")]
    if not answers.image and answers.provider not in ("local", "ssh"):
        find = f"costguard images --provider {answers.provider}"
        steps.insert(0, (_("find an image"), find))
    bounds = bounds_of(load_settings(), answers.account)
    if bounds is not None and bounds.has_timer:
        drill = f"costguard doctor --provider {answers.account} --drill"
        steps.append((_("prove its stop timer, for money"), drill))
    own_risk = "" if bounds is None or bounds.is_enough else " --best-effort"
    steps.append((_("go"), f"costguard run {shown}{own_risk}"))
    for text, command in steps:
        tell("  " + led_by(text, command))
    return code


def _default_name() -> str:
    try:
        return check_name(Path.cwd().name)
    except ValueError:
        return "first"


def _name(text: str) -> str:
    return check_name(text)


def _money(text: str) -> str:
    """A sum of money as TOML takes it; ValueError for what is none, and for 0."""
    try:
        micros = parse_yuan(text)
    except MoneyError:
        micros = 0
    if micros == 0:
        raise ValueError(_("{value} is no sum, such as 80 or 0.35").format(value=repr(text)))
    return yuan_text(micros)


def _ssh(line: str) -> str:
    from costguard.daemon.accounts import is_ssh_line

    if is_ssh_line(line):
        return line
    raise ValueError(_("not a line such as ssh -p 12345 root@host"))


def _file(name: str) -> str:
    path = Path(name).expanduser()
    if path.is_file():
        return str(path.absolute())
    raise ValueError(_("{path} is not there yet").format(path=path))
