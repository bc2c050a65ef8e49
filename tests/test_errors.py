from __future__ import annotations

from costguard.errors import EXIT_REFUSED, CostguardError, UserError


def test_an_error_says_what_where_and_what_to_do() -> None:
    """One line for logs, the four fields for scripts."""
    error = UserError("no_data", "the data set is missing", "job.toml", "check [training] dataset")
    assert str(error) == "the data set is missing job.toml check [training] dataset"
    assert error.to_json() == {
        "code": "no_data",
        "what": "the data set is missing",
        "where": "job.toml",
        "hint": "check [training] dataset",
    }


def test_what_is_not_known_leaves_no_gap_in_the_line() -> None:
    """Empty parts are left out."""
    assert str(UserError("x", "it broke", hint="try again")) == "it broke try again"


def test_the_usual_error_refuses_before_renting() -> None:
    """Exit code 7 unless said otherwise, and one root for all of ours."""
    error = UserError("x", "it broke")
    assert error.exit_code == EXIT_REFUSED == 7
    assert isinstance(error, CostguardError)
