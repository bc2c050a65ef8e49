from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.__main__ import main
from trainer.exits import DATA, FINISHED, USAGE

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]


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
    """0.6 token for a Chinese character, 0.3 for another, 12 for the template of a turn."""
    short = {"instruction": "a", "output": "b"}
    long = {"instruction": "问" * 100, "output": "b" * 100}
    path = write(tmp_path / "d.jsonl", short, long)
    _code, out, _err = output_of(capsys, str(path), "--json", "--cutoff_len", "101")
    found = json.loads(out)
    assert found["estimated_longest_tokens"] == 102
    assert found["estimated_over_cutoff"] == 1
    assert found["estimated_over_cutoff_lines"] == [2]


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
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'numpy')))\n"
        "from trainer.__main__ import main\n"
        f"sys.exit(main(['check', {str(rows)!r}, '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == FINISHED, done.stderr
    assert json.loads(done.stdout)["samples"] >= 300
