from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.check import OVERLONG_PERCENT_MAX
from trainer.exits import DATA, FINISHED, USAGE

ROOT = Path(__file__).parents[2]
ROW = {"instruction": "a", "output": "b"}


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["check", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def write(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_good_file_exits_zero_with_its_counts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The JSON counts samples, characters and duplicates of a file without an error."""
    row = {"instruction": "四个字吗", "output": "两字"}
    code, out, _err = output_of(capsys, str(write(tmp_path / "d.jsonl", row, row)), "--json")
    found = json.loads(out)
    assert code == FINISHED
    assert found["schema"] == "costguard.datacheck/1"
    assert (found["samples"], found["errors"], found["error_count"]) == (2, [], 0)
    assert (found["characters"], found["answer_characters"]) == (12, 4)
    assert found["duplicates"] == 1
    assert found["duplicate_lines"] == [{"line": 2, "same_as": 1}]


def test_a_bad_row_exits_65_and_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The JSON carries line, what and hint of each error, and the exit code is DATA."""
    path = write(tmp_path / "d.jsonl", {"instruction": "a", "output": "b"}, {"output": "b"})
    code, out, _err = output_of(capsys, str(path), "--json")
    found = json.loads(out)
    assert code == DATA
    assert (found["samples"], found["error_count"]) == (1, 1)
    assert found["errors"][0].keys() == {"line", "what", "hint"}
    assert found["errors"][0]["line"] == 2


def test_the_text_names_the_line_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A person without --json sees the same lines."""
    row = {"instruction": "a", "output": "b"}
    code, out, _err = output_of(capsys, str(write(tmp_path / "d.jsonl", row, {}, row)))
    assert code == DATA
    assert "line 2: instruction is missing" in out
    assert "line 3: the same as line 1" in out


def test_at_most_twenty_errors_are_shown_but_all_are_counted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A file full of errors does not flood the screen."""
    path = write(tmp_path / "d.jsonl", *[{}] * 30)
    _code, out, _err = output_of(capsys, str(path), "--json")
    found = json.loads(out)
    assert (len(found["errors"]), found["error_count"]) == (20, 30)
    _code, out, _err = output_of(capsys, str(path))
    assert "and 10 more bad rows" in out


def test_samples_over_the_cutoff_are_estimated(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Without a tokenizer the lengths are told from characters, said so, and only warn."""
    path = write(tmp_path / "d.jsonl", ROW, {"instruction": "问" * 100, "output": "b" * 100})
    options = ["--default_system", "", "--cutoff_len", "104"]
    code, out, _err = output_of(capsys, str(path), "--json", *options)
    found = json.loads(out)
    assert code == FINISHED
    assert found["tokens"]["counted_by"] == "characters"
    assert found["estimated_longest_tokens"] == 105
    assert found["estimated_over_cutoff_lines"] == [2]
    _code, out, _err = output_of(capsys, str(path), *options)
    assert "about 1 rows are longer than 104 tokens" in out
    assert "estimated" in out


@pytest.mark.torch
def test_with_a_tokenizer_lengths_are_counted_and_judged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path
) -> None:
    """More than a tenth over the cutoff is refused, as `train` would refuse it."""
    from trainer.session import OVERLONG_SHARE_MAX

    assert 100 * OVERLONG_SHARE_MAX == OVERLONG_PERCENT_MAX
    rows = [{"instruction": f"问{n}", "output": "答" * (400 if n < 2 else 1)} for n in range(10)]
    path = write(tmp_path / "d.jsonl", *rows)
    options = [str(path), "--tokenizer", str(tiny_model), "--cutoff_len", "200"]
    code, out, _err = output_of(capsys, *options, "--json")
    found = json.loads(out)
    assert (code, found["verdict"], found["estimated_over_cutoff"]) == (DATA, "bad", 2)
    assert found["tokens"]["counted_by"] == "tokenizer"
    path = write(tmp_path / "d.jsonl", *rows[1:], {"instruction": "又问", "output": "答"})
    assert output_of(capsys, *options)[0] == FINISHED


def test_lengths_are_told_as_a_histogram(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """How many samples lie in each range, and which share of the tokens is trained."""
    rows = [{"instruction": "问", "output": "b" * size} for size in (10, 1000, 1010)]
    path = write(tmp_path / "d.jsonl", *rows)
    _code, out, _err = output_of(capsys, str(path), "--json", "--default_system", "")
    found = json.loads(out)["tokens"]
    assert {part["from"]: part["samples"] for part in found["histogram"] if part["samples"]} == {
        0: 1,
        256: 2,
    }
    assert sum(part["samples"] for part in found["histogram"]) == 3
    assert (found["median"], found["total"]) == (316, 654)
    assert found["supervised_percent"] == pytest.approx(100 * 609 / 654, abs=0.1)
    _code, out, _err = output_of(capsys, str(path), "--default_system", "")
    assert "  256 - 511         2 ####" in out


def test_near_duplicates_and_two_answers_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Warnings with both lines; they do not refuse the run."""
    long = "请问这台净水器的滤芯多久需要更换一次，费用是多少"
    path = write(
        tmp_path / "d.jsonl",
        {"instruction": long, "output": "十二个月更换一次，费用是一百元"},
        {"instruction": long + "？", "output": "十二个月更换一次，费用是一百元。"},
        {"instruction": "几点开门", "output": "九点"},
        {"instruction": "几点开门", "output": "十点"},
    )
    code, out, _err = output_of(capsys, str(path))
    assert code == FINISHED
    assert "line 2: nearly the same as line 1" in out
    assert "line 4: line 3's question, another answer" in out


def test_personal_data_are_named_but_not_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Kind and line, the middle hidden, counted by kind, with the command that masks them."""
    path = write(tmp_path / "d.jsonl", ROW, {"instruction": "电话13812345678", "output": "好"})
    code, out, _err = output_of(capsys, str(path))
    assert code == FINISHED
    assert "line 2: phone 138****678" in out
    assert "trainer mask" in out
    assert "13812345678" not in out
    _code, out, _err = output_of(capsys, str(path), "--json")
    assert json.loads(out)["personal"]["by_kind"] == {"phone": 1}


def test_a_mixed_tone_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The article asks for one tone."""
    rows = [{"instruction": f"问{n}", "output": "您好"} for n in range(3)]
    path = write(tmp_path / "d.jsonl", *rows, {"instruction": "问", "output": "你好"})
    _code, out, _err = output_of(capsys, str(path))
    assert "mixed tone: 1 answers have 你 where most answers say 您, the first in lines [4]" in out


@pytest.mark.parametrize(("count", "told"), [(3, "fewer"), (500, "within"), (1001, "more than")])
def test_the_count_is_held_against_the_articles(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, count: int, told: str
) -> None:
    """500 to 1,000 samples are advised for a first data set."""
    rows = [{"instruction": f"问题编号{n}", "output": f"答案{n}"} for n in range(count)]
    _code, out, _err = output_of(capsys, str(write(tmp_path / "d.jsonl", *rows)))
    assert f"{count} samples: {told}" in out
    assert "500 to 1000" in out


def test_a_few_bad_rows_pass_under_a_set_share(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The share decides; the bad rows are named either way."""
    path = write(tmp_path / "d.jsonl", *[ROW] * 9, {"output": "b"})
    code, out, _err = output_of(capsys, str(path), "--max_bad_percent", "10")
    assert code == FINISHED
    assert "line 10: instruction is missing" in out
    code, out, _err = output_of(capsys, str(path), "--max_bad_percent", "9")
    assert code == DATA
    assert "10.0 % of the rows are bad, 9 % may be" in out


def test_time_and_yuan_are_told_for_a_speed_and_a_price(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Tokens x epochs / speed, the price rounded up to the cent, the rest named as on top."""
    path = write(tmp_path / "d.jsonl", {"instruction": "问", "output": "b" * 3000})
    options = [str(path), "--default_system", "", "--num_train_epochs", "2", "--tokens_per_s", "1"]
    _code, out, _err = output_of(capsys, *options, "--json", "--price_yuan_per_hour", "15")
    run = json.loads(out)["run"]
    assert (run["tokens"], run["time_s"]) == (1832, 1832)
    assert run["cost_yuan"] == "7.64"
    _code, out, _err = output_of(capsys, *options, "--price_yuan_per_hour", "15")
    assert "30 min 32 s, ¥7.64 at 1 tokens/s; starting, loading and saving come on top" in out
    code, _out, err = output_of(capsys, str(path), "--price_yuan_per_hour", "15")
    assert code == USAGE
    assert "--tokens_per_s" in err


def test_what_is_held_out_is_not_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The split of `train`, by the same seed; its tokens are not paid for."""
    rows = [{"instruction": f"问题{n}", "output": "b" * 100} for n in range(10)]
    path = write(tmp_path / "d.jsonl", *rows)
    options = [str(path), "--json", "--default_system", "", "--tokens_per_s", "1"]
    whole = json.loads(output_of(capsys, *options)[1])
    found = json.loads(output_of(capsys, *options, "--val_size", "0.2")[1])
    assert found["held_out"]["samples"] == 2
    assert found["run"]["tokens"] * 10 == whole["run"]["tokens"] * 8


def test_a_name_is_found_as_train_finds_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With --dataset and --dataset_dir, by the description where there is one."""
    write(tmp_path / "train.jsonl", {"q": "问", "a": "答"})
    info = {"mine": {"file_name": "train.jsonl", "columns": {"prompt": "q", "response": "a"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    for words in (["--dataset", "mine", "--dataset_dir", str(tmp_path)],
                  [str(tmp_path / "train.jsonl")]):  # fmt: skip
        code, out, _err = output_of(capsys, *words, "--json")
        assert (code, json.loads(out)["samples"]) == (FINISHED, 1)
    assert output_of(capsys)[0] == USAGE


def test_the_example_passes_without_a_warning(
    capsys: pytest.CaptureFixture[str], rows: Path
) -> None:
    """The data that ship with the trainer: no personal data, one tone, nothing twice."""
    _code, out, _err = output_of(capsys, str(rows), "--json")
    found = json.loads(out)
    assert found["error_count"] == found["duplicates"] == found["near_duplicates"] == 0
    assert found["conflicts"] == found["personal"]["count"] == 0
    assert found["tone"]["mixed"] == []


def test_a_missing_file_is_an_error_in_json_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit DATA, one JSON document with the error's parts, nothing on stderr."""
    code, out, err = output_of(capsys, str(tmp_path / "no.jsonl"), "--json")
    assert (code, err) == (DATA, "")
    assert json.loads(out)["error"]["where"] == str(tmp_path / "no.jsonl")
    code, out, err = output_of(capsys, str(tmp_path / "no.jsonl"))
    assert (code, out) == (DATA, "")
    assert "No such file" in err


def test_an_empty_file_is_not_good(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file without a row cannot be trained on."""
    code, out, _err = output_of(capsys, str(write(tmp_path / "d.jsonl")))
    assert code == DATA
    assert "no row" in out


def test_an_unknown_command_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong or absent command exits USAGE and names the ones there are."""
    for argv in (["trian"], []):
        assert main(argv) == USAGE
        assert "make-model" in capsys.readouterr().err


def test_check_imports_no_torch(rows: Path) -> None:
    """The command runs where torch cannot even be imported."""
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'transformers', 'numpy', 'tokenizers')))\n"
        "from trainer.__main__ import main\n"
        f"sys.exit(main(['check', {str(rows)!r}, '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == FINISHED, done.stderr
    assert json.loads(done.stdout)["samples"] >= 300
