from __future__ import annotations

import pytest

from costguard.localcloud.options import parse


def test_usual_options() -> None:
    """Without options: three GPU types, per second, from running on."""
    options = parse(["--home", "/h"])
    assert options.prices == {"RTX 3090": 15_000_000, "A10": 20_000_000, "A100": 40_000_000}
    assert (options.quantum_s, options.bill_from, options.port) == (1, "running", 0)


def test_prices_are_changed_and_added() -> None:
    """--price takes several, and again."""
    options = parse(["--home", "/h", "--price", "A10=21.5", "H800=60", "--price", "A100=41"])
    assert options.prices == {
        "RTX 3090": 15_000_000,
        "A10": 21_500_000,
        "A100": 41_000_000,
        "H800": 60_000_000,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--price", "A10"], "is not GPU=YUAN"),
        (["--price", "A10=-1"], "zero or more"),
        (["--quantum-s", "0"], "from 1 on"),
        (["--start-s", "soon"], "number of seconds"),
        (["--stop-s", "-1"], "zero or more"),
        (["--balance", "much"], "not an amount"),
        (["--port", "70000"], "not a port"),
        (["--bill-from", "stopping"], "invalid choice"),
        (["--nonsense"], "unrecognized"),
    ],
)
def test_wrong_option_is_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong option ends with status 2 and says what is wrong with which."""
    with pytest.raises(SystemExit) as ended:
        parse(["--home", "/h", *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert words[0] in error
