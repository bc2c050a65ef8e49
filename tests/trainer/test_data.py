from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.data import Sample, find_dataset, held_out, read_dataset, require_good
from trainer.exits import DATA, Refusal

GOOD = {"instruction": "问", "input": "", "output": "答"}


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def without(key: str) -> dict[str, str]:
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(
    ("row", "what", "hint"),
    [
        ('{"instruction": "a", ', "not JSON", "mend"),
        ("[1, 2]", "an array, not an object", "instruction"),
        ("null", "null, not an object", "instruction"),
        (without("instruction"), "instruction is missing", "the keys are"),
        (without("output"), "output is missing", "the keys are"),
        ({"instruction": "a", "answer": "b"}, "output is missing", "rename 'answer' to 'output'"),
        ({**GOOD, "output": "  \n"}, "output is empty", "take the row out"),
        ({**GOOD, "instruction": ""}, "instruction is empty", "take the row out"),
        ({**GOOD, "output": 7}, "output is a number, not a text", "quotes"),
        ({**GOOD, "input": True}, "input is true or false, not a text", "quotes"),
        ({**GOOD, "system": ["a"]}, "system is an array, not a text", "quotes"),
        ({**GOOD, "history": [["only one"]]}, "history is not", "not empty"),
        ({**GOOD, "history": [["q", ""]]}, "history is not", "not empty"),
        ({**GOOD, "output": "a<|im_end|>b"}, "control token <|im_end|>", "template"),
        ({**GOOD, "output": "\ud800"}, "half a surrogate pair", "character itself"),
        ({**GOOD, "output": "a\0b"}, "a NUL character", "take it out"),
        ("[" * 100_000, "nested too deeply", "nesting"),
    ],
)
def test_a_bad_row_is_named_by_line_with_what_to_do(
    tmp_path: Path, row: object, what: str, hint: str
) -> None:
    """Each kind of bad row is found in its own line, and the rows around it are still read."""
    path = write(tmp_path / "d.jsonl", GOOD, "", row, {**GOOD, "output": "另一个"})
    dataset = read_dataset(path)
    assert [error.line for error in dataset.errors] == [3]
    assert what in dataset.errors[0].what
    assert hint in dataset.errors[0].hint
    assert [sample.line for sample in dataset.samples] == [1, 4]


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    """GBK bytes are an error of their line, not of the file."""
    path = tmp_path / "d.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(good + b"\n" + '{"instruction": "问"}'.encode("gbk") + b"\n" + good)
    dataset = read_dataset(path)
    assert [(error.line, "GBK" in error.hint) for error in dataset.errors] == [(2, True)]
    assert len(dataset.samples) == 2


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    """Files that Windows editors save begin with a mark that JSON does not know."""
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    assert read_dataset(path).samples == [Sample(1, "问", "答")]


def test_an_absent_or_null_input_is_empty(tmp_path: Path) -> None:
    """`input` and `system` may be left out or null."""
    rows = [without("input"), {**GOOD, "input": None, "system": None, "output": "二"}]
    dataset = read_dataset(write(tmp_path / "d.jsonl", *rows))
    assert dataset.errors == []
    assert [sample.question for sample in dataset.samples] == ["问", "问"]


def test_an_array_file_names_the_line_of_each_bad_element(tmp_path: Path) -> None:
    """In a .json array over many lines, an error carries the line where its element begins."""
    path = tmp_path / "d.json"
    bad = {"instruction": "a"}
    path.write_text(json.dumps([GOOD, bad, GOOD], indent=1), encoding="utf-8")
    dataset = read_dataset(path)
    assert [error.line for error in dataset.errors] == [7]
    assert [sample.line for sample in dataset.samples] == [2, 10]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ('{\n"instruction": "a"}', 1, "not an array"),
        ('[\n{"instruction": "a" "b"}]', 2, "not JSON"),
        ('[\n{"a": 1}\n{"b": 2}]', 3, "a comma or the closing ]"),
        ('[\n{"a": 1},\n', 3, "not JSON"),
    ],
)
def test_a_broken_array_file_is_named_by_line(
    tmp_path: Path, text: str, line: int, what: str
) -> None:
    """Reading ends at the first place where the array is broken, and says which line that is."""
    path = tmp_path / "d.json"
    path.write_text(text, encoding="utf-8")
    error = read_dataset(path).errors[-1]
    assert (error.line, what in error.what) == (line, True)


def test_repeated_rows_are_found_with_both_lines(tmp_path: Path) -> None:
    """A duplicate is no error; it carries its line and that of the first."""
    other = {**GOOD, "output": "别的"}
    dataset = read_dataset(write(tmp_path / "d.jsonl", GOOD, other, GOOD, GOOD))
    assert dataset.errors == []
    assert dataset.duplicates == [(3, 1), (4, 1)]


def test_bad_rows_refuse_the_run_and_twenty_are_shown(tmp_path: Path) -> None:
    """A run never drops a row in silence: it refuses, names 20 and counts the others."""
    dataset = read_dataset(write(tmp_path / "d.jsonl", *["x"] * 25))
    with pytest.raises(Refusal) as caught:
        require_good(dataset)
    assert caught.value.exit_code == DATA
    assert caught.value.what == "25 bad row(s)"
    assert "line 20:" in caught.value.hint
    assert "line 21:" not in caught.value.hint
    assert "and 5 more" in caught.value.hint


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    """A data set without a row is an error of the data."""
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\n\n")
    with pytest.raises(Refusal, match="no row"):
        require_good(read_dataset(path))


def test_a_name_is_found_in_the_dataset_directory(tmp_path: Path) -> None:
    """`--dataset train --dataset_dir data` needs no dataset_info.json."""
    path = write(tmp_path / "train.jsonl", GOOD)
    assert find_dataset("train", tmp_path) == path
    assert find_dataset(str(path), Path("elsewhere")) == path


def test_a_missing_data_set_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """The refusal names every path that was tried."""
    with pytest.raises(Refusal) as caught:
        find_dataset("train", tmp_path)
    assert caught.value.exit_code == DATA
    assert str(tmp_path / "train.jsonl") in caught.value.hint


@pytest.mark.parametrize("name", ["d.xlsx", "d"])
def test_another_format_is_refused(tmp_path: Path, name: str) -> None:
    """Only .jsonl, .json and .csv are read."""
    with pytest.raises(Refusal, match="not a format"):
        read_dataset(write(tmp_path / name, GOOD))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A directory of that name gives a refusal, not a traceback."""
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(Refusal) as caught:
        read_dataset(tmp_path / "d.jsonl")
    assert caught.value.exit_code == DATA


def test_a_table_is_a_data_set_too(tmp_path: Path) -> None:
    """Columns with the alpaca names; an empty cell counts as absent."""
    path = tmp_path / "d.csv"
    path.write_text("instruction,input,output\n问,,答\n问,细节,\n", encoding="utf-8")
    dataset = read_dataset(path)
    assert dataset.samples == [Sample(2, "问", "答")]
    assert [(e.line, e.what) for e in dataset.errors] == [(3, "output is missing")]


def test_a_few_bad_rows_may_be_left_out_but_not_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to the share that is set they are named; beyond it the run is refused."""
    dataset = read_dataset(write(tmp_path / "d.jsonl", *[GOOD] * 9, "x"))
    require_good(dataset, max_bad_percent=10)
    assert "line 10: not JSON" in capsys.readouterr().err
    with pytest.raises(Refusal, match="bad row"):
        require_good(dataset, max_bad_percent=9.9)


def test_all_bad_is_refused_whatever_the_share(tmp_path: Path) -> None:
    """With nothing left to train on there is no run."""
    with pytest.raises(Refusal, match="bad row"):
        require_good(read_dataset(write(tmp_path / "d.jsonl", "x")), max_bad_percent=100)


def test_more_than_one_data_set_is_refused(tmp_path: Path) -> None:
    """LLaMA-Factory takes a list of names; here it is told what to do instead."""
    with pytest.raises(Refusal, match="more than one"):
        find_dataset("a,b", tmp_path)


def test_a_described_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The refusal says which file the description means."""
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "no.json"}}')
    with pytest.raises(Refusal, match=r"no\.json, which is not there"):
        find_dataset("mine", tmp_path)


SAMPLES = [Sample(line, f"问{line}", "答") for line in range(1, 101)]


def test_the_held_out_split_is_fixed_and_whole() -> None:
    """By seed and rows alone; a share or a number; no sample on both sides, none lost."""
    kept, judged = held_out(SAMPLES, 0.1, seed=1)
    assert (len(kept), len(judged)) == (90, 10)
    assert sorted(sample.line for sample in (*kept, *judged)) == list(range(1, 101))
    assert held_out(SAMPLES, 10, seed=1) == (kept, judged)
    assert held_out(SAMPLES, 0.1, seed=2)[1] != judged
    assert held_out(SAMPLES, 0, seed=1) == (SAMPLES, [])


def test_a_repeated_sample_is_never_on_both_sides() -> None:
    """Else the model would be judged by what it has learnt by heart."""
    doubled = [*SAMPLES, *(Sample(s.line + 100, s.question, s.answer) for s in SAMPLES)]
    kept, judged = held_out(doubled, 0.2, seed=1)
    assert len(judged) == 40
    assert not {s.question for s in kept} & {s.question for s in judged}


@pytest.mark.parametrize("val_size", [1.0, 100, 5000])
def test_to_hold_all_out_is_refused(val_size: float) -> None:
    """Something must be left to train on."""
    with pytest.raises(Refusal, match="leaves nothing"):
        held_out(SAMPLES[:1] if val_size == 1.0 else SAMPLES, val_size, seed=1)
