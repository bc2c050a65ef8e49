from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from trainer.__main__ import main
from trainer.data import read_dataset
from trainer.exits import DATA, FINISHED, USAGE
from trainer.mask import Masker, mask_content
from trainer.personal import find_personal

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PIECES = [
    "13812345678", "138-1234-5678", "+86 13912345678", "１３８１２３４５６７８", "010-88886666",
    "11010519491231002X", "110105491231002", "6222 0212 3456 7890 128", "4111111111111111",
    "li.lei@163.com", "浙江省杭州市西湖区文三路478号3幢502室", "阳光小区3栋2单元501室",
    "收货人：张伟，", "我叫欧阳小明。", "浙A12345", "微信：abc_12345", "QQ：123456789",
]  # fmt: skip


def masked(text: str) -> str:
    return Masker().mask_text(text, 1)


@pytest.mark.parametrize("piece", PIECES)
def test_what_is_masked_is_found_no_more(piece: str) -> None:
    """Each kind has a replacement of its form that belongs to nobody."""
    new = masked(f"好的，{piece} 收到")
    assert new != f"好的，{piece} 收到"
    assert find_personal(new) == []


def test_the_same_piece_gets_the_same_replacement() -> None:
    """However it is written, and in whatever row; another piece gets another."""
    masker = Masker()
    first = masker.mask_text("13812345678", 1)
    assert masker.mask_text("138-1234-5678", 2) == f"{first[:3]}-{first[3:7]}-{first[7:]}"
    assert masker.mask_text("13987654321", 3) != first
    assert masker.mask_text("１３８１２３４５６７８", 4) == first
    assert masker.distinct() == {"phone": 2}


def test_the_form_is_kept() -> None:
    """Length and separators stay, so that the rows still teach how such a piece looks."""
    assert masked("138-1234-5678") == "100-0000-0001"
    assert masked("卡号6222 0212 3456 7890 128").count(" ") == 4
    assert len(masked("11010519491231002X")) == 18
    assert masked("浙江省杭州市西湖区文三路478号3幢502室") == "某省某市某区某路1号1幢1室"


def test_a_hundred_people_stay_a_hundred() -> None:
    """Replacements are counted on, never used twice for two pieces of a kind."""
    masker = Masker()
    phones = {masker.mask_text(f"139{n:08}", 1) for n in range(12_345_678, 12_345_778)}
    names = {
        masker.mask_text(f"收货人：{s}{g}，", 1) for s in "王李张刘陈" for g in "伟芳娜敏静强磊"
    }
    assert (len(phones), len(names)) == (100, 35)


def content_of(*rows: dict[str, Any], ascii_only: bool = False) -> str:
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)


def test_all_but_the_texts_stays_byte_for_byte() -> None:
    """Spaces, line ends, order, keys, escapes, broken rows: only what is personal changes."""
    text = (
        '\ufeff{ "instruction":"电话13812345678",  "output": "\\u597d" }\r\n'
        '{"13812345678": "键不动"}\r\n'
        '{"output": "\\u7535\\u8bdd13812345678", "n": 13812345678, "m": 20240501001}\r\n'
        '{"broken": "13812345678", \r\n'
    )
    assert mask_content(text, ".jsonl", Masker()) == (
        '\ufeff{ "instruction":"电话10000000001",  "output": "\\u597d" }\r\n'
        '{"13812345678": "键不动"}\r\n'
        '{"output": "\\u7535\\u8bdd10000000001", "n": 10000000001, "m": 20240501001}\r\n'
        '{"broken": "10000000001", \r\n'
    )


def test_a_table_is_masked_in_its_cells() -> None:
    """Quotes and commas stay, so the file reads as before."""
    text = 'instruction,output\r\n"我叫张伟，电话13812345678","好,的"\r\n'
    assert mask_content(text, ".csv", Masker()) == (
        'instruction,output\r\n"我叫某甲，电话10000000001","好,的"\r\n'
    )


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["instruction", "output", "13812345678"]),
            st.lists(st.sampled_from([*PIECES, "你好", '"', "\\", "\n", ",", " "]), max_size=4).map(
                " ".join
            ),
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_rows_stay_rows_and_nothing_personal_is_left(
    rows: list[dict[str, str]], ascii_only: bool
) -> None:
    """Masked JSON is JSON with the same keys, whose texts hold nothing that is looked for."""
    text = content_of(*rows, ascii_only=ascii_only)
    new = mask_content(text, ".jsonl", Masker())
    read = [json.loads(line) for line in new.splitlines()]
    assert [row.keys() for row in read] == [row.keys() for row in rows]
    assert not [value for row in read for value in row.values() if find_personal(value)]
    assert mask_content(new, ".jsonl", Masker()) == new


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command on a file with this content."""

    def go(content: bytes, *more: str, name: str = "d.jsonl") -> tuple[int, str, str]:
        (tmp_path / name).write_bytes(content)
        out = str(tmp_path / "new" / name)
        code = main(["mask", str(tmp_path / name), *(more or ("--out", out))])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return go


ROWS = content_of(
    {"instruction": "我叫张伟，电话13812345678", "output": "好的张先生，已登记13812345678"},
    {"instruction": "几点开门", "output": "九点"},
)


def test_the_report_counts_by_kind_and_names_lines(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """What was replaced, how often, where; the old piece with its middle hidden."""
    code, out, _err = run(ROWS.encode())
    assert code == FINISHED
    assert ": 3 pieces replaced\n  1 name (1 different)\n  2 phone (1 different)\n" in out
    assert "line 1: phone: 138****678 -> 10000000001" in out
    assert "13812345678" not in out
    dataset = read_dataset(tmp_path / "new" / "d.jsonl")
    assert (len(dataset.samples), dataset.errors) == (2, [])


def test_the_json_is_the_same_report(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """One document, all replacements in it."""
    code, out, err = run(ROWS.encode(), "--json", "--out", str(tmp_path / "new.jsonl"))
    told = json.loads(out)
    assert (code, err) == (FINISHED, "")
    assert told["schema"] == "costguard.datamask/1"
    assert (told["replaced"], told["distinct"]) == (
        {"name": 1, "phone": 2},
        {"name": 1, "phone": 1},
    )
    assert told["replacements"][0] == {"line": 1, "kind": "name", "old": "张*", "new": "某甲"}


@pytest.mark.parametrize(
    ("content", "out", "code", "what"),
    [
        ("问".encode("gbk"), "new.jsonl", DATA, "line 1 is not UTF-8"),
        (b"{}", "d.jsonl", USAGE, "there already"),
        (b"{}", "new.csv", USAGE, "not to become"),
        (b"{}", "d.jsonl/x.jsonl", USAGE, "File exists"),
    ],
)
def test_what_cannot_be_masked_is_refused(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, content: bytes, out: str, code: int,
    what: str,
) -> None:  # fmt: skip
    """The original is never overwritten, and nothing is left half written."""
    before = sorted(tmp_path.iterdir())
    got, _out, err = run(content, "--out", str(tmp_path / out))
    assert got == code
    assert what in err
    got, told, err = run(content, "--json", "--out", str(tmp_path / out))
    assert (got, err) == (code, "")
    assert what in json.loads(told)["error"]["what"]
    assert [p.name for p in sorted(tmp_path.iterdir()) if p not in before] == ["d.jsonl"]
    assert (tmp_path / "d.jsonl").read_bytes() == content


def test_mask_needs_no_torch(tmp_path: Path) -> None:
    """The command runs where neither torch nor anything else is installed."""
    (tmp_path / "d.jsonl").write_text(ROWS, encoding="utf-8")
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'transformers', 'numpy', 'tokenizers')))\n"
        "from trainer.__main__ import main\n"
        f"sys.exit(main(['mask', {str(tmp_path / 'd.jsonl')!r}, '--out', "
        f"{str(tmp_path / 'n.jsonl')!r}]))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == FINISHED, done.stderr
