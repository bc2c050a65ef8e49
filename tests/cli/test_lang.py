from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest

from costguard import lang
from tests.catalogues import messages, read

if TYPE_CHECKING:
    from pathlib import Path


def test_every_message_has_its_chinese_and_none_is_left_over() -> None:
    """`make locale` adds what is new, and takes out what nobody says any more."""
    assert lang.catalogue("zh").keys() == messages().keys()


def test_translations_keep_the_blanks_to_fill_in() -> None:
    """A {name} that is lost or misspelt would hide a figure or crash."""
    import string

    def fields(text: str) -> set[tuple[str, str | None]]:
        parts = string.Formatter().parse(text)
        return {(field, spec) for _literal, field, spec, _conv in parts if field is not None}

    assert all(fields(english) == fields(zh) for english, zh in lang.catalogue("zh").items())


@pytest.mark.parametrize("domain", ["costguard", "daemon"])
def test_what_runs_is_what_the_translators_file_says(domain: str) -> None:
    """The `.mo` is compiled and kept: `make locale` after any change of the `.po`."""
    written = {message.id: message.string for message in read(domain) if message.id}
    assert lang.catalogue("zh", domain) == written


@pytest.mark.parametrize("domain", ["costguard", "daemon"])
def test_the_translators_file_is_whole(domain: str) -> None:
    """Nothing waits for its Chinese or is marked as doubtful."""
    for message in read(domain):
        assert not message.fuzzy, message.id
        assert message.string or not message.id, message.id


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({"LC_ALL": "zh_CN.UTF-8"}, "zh"),
        ({"LC_ALL": "", "LC_MESSAGES": "zh_CN.UTF-8", "LANG": "en_US"}, "zh"),
        ({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_ALL": "", "LC_MESSAGES": "", "LANG": ""}, "en"),
    ],
)
def test_the_locale_chooses(
    environment: dict[str, str], language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first locale variable that is set decides."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert lang.select() == language


def test_the_config_goes_before_the_locale_and_the_option_before_both(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--lang, then the config, then the locale."""
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    (home / "config.toml").write_text('lang = "zh"')
    assert lang.select() == "zh"
    assert lang._("paused") == "已暂停"
    assert lang.select("en") == "en"
    assert lang._("paused") == "paused"


def test_the_trainers_catalogue_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever needs the trainer says so; the words of others are there."""
    monkeypatch.setattr(lang, "LOCALES", {"trainer": tmp_path})
    lang.translations.cache_clear()
    assert lang.catalogue("zh", "trainer") == {}
    lang.translations.cache_clear()


def test_a_program_of_ours_is_told_the_language() -> None:
    """By the variable that gettext reads first."""
    assert lang.environment() == {"LANGUAGE": "en"}
    lang.select("zh")
    assert lang.environment() == {"LANGUAGE": "zh_CN"}
    lang.select("en")


def test_a_broken_config_does_not_hide_the_message_about_it(home: Path) -> None:
    """The language falls back; what is wrong is said by whoever needs the config."""
    (home / "config.toml").write_text("lang = ")
    assert lang.select() == "en"


def test_a_terminal_without_chinese_gets_english(monkeypatch: pytest.MonkeyPatch) -> None:
    """Question marks help nobody."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert lang.select("zh") == "en"
