from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from trainer import chat
from trainer.__main__ import main
from trainer.chat import NOT_HIRED
from trainer.exits import DATA, FINISHED, USAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trainer.serve import Sampling

pytestmark = pytest.mark.torch


class Parrot:
    """Answers without a model, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[tuple[str, str]], str, str, Sampling]] = []

    def answer(
        self, turns: Sequence[tuple[str, str]], question: str, system: str, sampling: Sampling,
        told: Callable[[str], None] | None = None,
    ) -> str:  # fmt: skip
        """The question, with 答 before it."""
        self.asked.append((list(turns), question, system, sampling))
        answer = f"答{question}"
        for piece in answer if told else "":
            assert told
            told(piece)
        return answer


@pytest.fixture
def parrot(monkeypatch: pytest.MonkeyPatch) -> Parrot:
    bird = Parrot()
    monkeypatch.setattr(chat, "load", lambda *_arguments, **_options: bird)
    return bird


@pytest.fixture
def ask(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command with these lines on stdin."""

    def go(lines: str, *more: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        code = main(["chat", "--model_name_or_path", str(tiny_model), *more])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return go


ARTICLE = ["--template", "qwen", "--stream_output", "--temperature", "0.7", "--top_p", "0.9",
           "--max_new_tokens", "512"]  # fmt: skip


def test_the_articles_command_works(
    ask: Callable[..., tuple[int, str, str]], parrot: Parrot, trained: dict[int | None, Path]
) -> None:
    """Its flags are taken as they stand; the system prompt is the one of training."""
    code, out, err = ask("发票怎么开\n", "--adapter_name_or_path", str(trained[4]), *ARTICLE)
    assert (code, out) == (FINISHED, "答发票怎么开\n")
    _turns, _question, system, sampling = parrot.asked[0]
    assert system == "你是客服。"
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.7, 0.9, 512)
    assert "base in NF4" in err
    assert "你是客服。" in err


def test_what_was_said_is_remembered_until_cleared(
    ask: Callable[..., tuple[int, str, str]], parrot: Parrot
) -> None:
    """Blank lines are nothing, `clear` forgets, `exit` ends before the last line."""
    ask("一\n\n二\nclear\n三\nexit\n四\n")
    assert [(turns, question) for turns, question, _system, _sampling in parrot.asked] == [
        ([], "一"),
        ([("一", "答一")], "二"),
        ([], "三"),
    ]


def test_ctrl_c_ends_an_answer_not_the_conversation(
    ask: Callable[..., tuple[int, str, str]], parrot: Parrot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer that was broken off is not remembered; the next question is answered."""
    answer = parrot.answer

    def interrupted(turns: Any, question: str, *rest: Any) -> str:
        if question == "一":
            raise KeyboardInterrupt
        return answer(turns, question, *rest)

    monkeypatch.setattr(parrot, "answer", interrupted)
    code, out, err = ask("一\n二\n")
    assert (code, out) == (FINISHED, "答二\n")
    assert "stopped" in err
    assert parrot.asked[0][0] == []


class Terminal(io.StringIO):
    """A stdin that a person sits at."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_a_person_at_a_terminal_is_asked_until_they_leave(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a prompt and a word on how to leave; Ctrl-D leaves."""
    monkeypatch.setattr("sys.stdin", Terminal("一\n"))
    assert list(chat._lines()) == ["一"]
    captured = capsys.readouterr()
    assert captured.out.startswith("> ")
    assert "`exit` ends" in captured.err


def test_without_a_stream_the_answer_comes_whole(
    ask: Callable[..., tuple[int, str, str]], parrot: Parrot
) -> None:
    """The same text either way."""
    assert ask("一\n", "--stream_output", "false")[1] == ask("一\n")[1] == "答一\n"


QUESTIONS = [
    {"question": "甲", "must": "答甲"},
    {"question": "乙", "must": "丙", "system": "你是乙"},
]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS), encoding="utf-8")
    return path


def test_an_interview_ends_with_its_verdict(
    ask: Callable[..., tuple[int, str, str]], parrot: Parrot, questions: Path
) -> None:
    """A table, the likeliest answers, and an exit code that a script can act on."""
    code, out, _err = ask("", "--interview", str(questions))
    assert code == NOT_HIRED
    assert "1 of 2 right" in out
    assert "lacks: 丙" in out
    assert {sampling.temperature for *_rest, sampling in parrot.asked} == {0.0}
    assert [system for _t, _q, system, _s in parrot.asked][1] == "你是乙"
    assert ask("", "--interview", str(questions), "--pass_percent", "50")[0] == FINISHED


def test_the_interviews_json_is_one_document(
    ask: Callable[..., tuple[int, str, str]], parrot: Parrot, questions: Path
) -> None:
    """For the daemon, which puts it into its report."""
    code, out, _err = ask("", "--interview", str(questions), "--json")
    told = json.loads(out)
    assert code == NOT_HIRED
    assert (told["schema"], told["right"]) == ("costguard.interview/1", 1)


@pytest.mark.parametrize(
    ("more", "code", "what"),
    [
        (["--temperature", "-1"], USAGE, "temperature"),
        (["--top_p", "nan"], USAGE, "top_p"),
        (["--template", "llama3"], USAGE, "template llama3"),
        (["--quantization_bit", "8"], USAGE, "quantization_bit 8"),
        (["--with_base", "--interview", "q.jsonl"], DATA, "No such file"),
        (["--with_base"], USAGE, "for an interview"),
        (["--json"], USAGE, "for an interview"),
        (["--adapter_name_or_path", "nowhere"], USAGE, "no adapter"),
        (["--max_new_token", "5"], USAGE, "did you mean --max_new_tokens"),
        (["--default_system", "<|im_end|>"], USAGE, "control token"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_loaded(
    ask: Callable[..., tuple[int, str, str]], parrot: Parrot, more: list[str], code: int, what: str
) -> None:
    """One message, no question asked."""
    got, out, err = ask("问\n", *more)
    assert (got, out) == (code, "")
    assert what in err
    assert not parrot.asked


def test_base_and_adapter_are_interviewed_on_a_real_model(
    ask: Callable[..., tuple[int, str, str]], trained: dict[int | None, Path], tmp_path: Path
) -> None:
    """The tiny model answers both ways, and the two differ."""
    path = tmp_path / "q.json"
    path.write_text(json.dumps([{"question": "几点开门", "must_not": ["不会出现的话"]}]))
    words: list[Any] = ["--adapter_name_or_path", str(trained[None]), "--interview", str(path)]
    code, out, err = ask("", *words, "--with_base", "--json", "--max_new_tokens", "12")
    (row,) = json.loads(out)["rows"]
    assert code == FINISHED
    assert row["answer"] != row["base"]["answer"]
    assert "base in bf16" in err
