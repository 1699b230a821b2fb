"""The translations are whole: every message in every language, and what is generated is fresh."""

from __future__ import annotations

import re
from functools import cache

import pytest
from babel.messages.catalog import Catalog

from locales import compile as locales
from proxy.core.catalogue import LANGUAGES
from proxy.core.messages import MESSAGES, Message

PLURAL_FORMS = {
    "en_US": "nplurals=2; plural=(n != 1);",
    "zh_CN": "nplurals=1; plural=0;",
    "zh_TW": "nplurals=1; plural=0;",
    "ru_RU": (
        "nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 && (n%100<10 || n%100>=20) ? 1 : 2);"
    ),
}
FOREIGN = [language for language in LANGUAGES if language != "en_US"]
TECHNICAL = re.compile(
    r"OpenAI|Authorization: Bearer YOUR_KEY|Authorization|base_url|api_key|JSON|API|\bIP\b"
    r"|\bsystem\b|\buser\b|\bassistant\b|'role'|'content'"
)
# What each language is written in: an encoding that lacks the characters of the other Chinese script.
ENCODING = {"en_US": "ascii", "zh_CN": "gb2312", "zh_TW": "big5", "ru_RU": "cp1251"}
HINT = f"run `{locales.COMMAND}` and commit what it writes"


@cache
def catalog(language: str) -> Catalog:
    return locales.read(language)


def forms(language: str, message: Message) -> tuple[str, ...]:
    """Every translated form of a message; empty if the catalogue lacks it."""
    found = catalog(language).get(message.singular)
    if found is None or not found.string:
        return ()
    return (found.string,) if isinstance(found.string, str) else tuple(found.string)


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"\{[^}]*\}", text))


def test_generated_files_are_fresh() -> None:
    stale = [str(path.relative_to(locales.LOCALES)) for path in locales.stale()]
    assert not stale, f"{', '.join(stale)}: stale or missing; {HINT}"


def test_generated_files_do_not_depend_on_the_run() -> None:
    assert locales.outputs() == locales.outputs()


def test_stale_files_are_noticed_and_rebuilt(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path_factory.mktemp("checkout") / "locales"
    for language in LANGUAGES:
        (copy / language / "LC_MESSAGES").mkdir(parents=True)
        source = locales.po_file(language).read_bytes()
        (copy / language / "LC_MESSAGES" / "sluice.po").write_bytes(source)
    monkeypatch.setattr(locales, "LOCALES", copy)
    locales.main()
    assert not locales.stale()
    assert capsys.readouterr().out.split() == [
        "locales/sluice.pot",
        *(f"locales/{language}/LC_MESSAGES/sluice.mo" for language in LANGUAGES),
    ]
    changed = copy / "ru_RU" / "LC_MESSAGES" / "sluice.po"
    changed.write_text(changed.read_text("utf-8").replace("Слишком много", "Чересчур много"), "utf-8")
    assert list(locales.stale()) == [changed.with_suffix(".mo")]


@pytest.mark.parametrize("language", LANGUAGES)
def test_header(language: str) -> None:
    read = catalog(language)
    assert read.plural_forms == PLURAL_FORMS[language]
    assert read.locale_identifier == language
    source = locales.po_file(language).read_text("utf-8")
    for line in (
        "Project-Id-Version: Sluice",
        f"Language: {language}",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=UTF-8",
        "Content-Transfer-Encoding: 8bit",
    ):
        assert f'"{line}\\n"\n' in source
    assert "-Date:" not in source
    assert "Last-Translator" not in source


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_message_and_no_other(language: str) -> None:
    wanted = {(message.singular, message.plural) if message.plural else message.singular for message in MESSAGES}
    present = [message.id for message in catalog(language) if message.id]
    assert set(present) == wanted, f"add or remove these in {language}/LC_MESSAGES/sluice.po, then {HINT}"
    assert not catalog(language).obsolete


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_message_is_entered_twice(language: str) -> None:
    # The reader merges them silently.
    source = locales.po_file(language).read_text("utf-8")
    assert len(re.findall(r"^msgid ", source, re.MULTILINE)) == len(set(MESSAGES)) + 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_empty_or_fuzzy(language: str) -> None:
    count = catalog(language).num_plurals
    for message in MESSAGES:
        translated = forms(language, message)
        assert len(translated) == (count if message.plural else 1), message.singular
        assert all(form.strip() for form in translated), message.singular
    assert not [message.id for message in catalog(language) if message.id and message.fuzzy]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_form_has_the_placeholders_of_the_message(language: str) -> None:
    for message in MESSAGES:
        for form in forms(language, message):
            assert placeholders(form) == placeholders(message.singular), form


def test_english_is_the_message_itself() -> None:
    for message in MESSAGES:
        assert forms("en_US", message) == tuple(filter(None, message))


@pytest.mark.parametrize("language", FOREIGN)
def test_nothing_was_left_in_english(language: str) -> None:
    for message in MESSAGES:
        assert not {message.singular, message.plural}.intersection(forms(language, message))


@pytest.mark.parametrize("language", FOREIGN)
def test_technical_names_stay(language: str) -> None:
    for message in MESSAGES:
        for form in forms(language, message):
            lost = [name for name in TECHNICAL.findall(message.singular) if name.strip("'") not in form]
            assert not lost, form


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_is_written_in_its_own_script(language: str) -> None:
    for message in MESSAGES:
        for form in forms(language, message):
            assert form.encode(ENCODING[language])


@pytest.mark.parametrize("language", ["zh_CN", "zh_TW"])
def test_chinese_sentences_end_in_chinese(language: str) -> None:
    # They are joined without a space, so a Latin full stop would run into the next sentence.
    for message in MESSAGES:
        if message.singular.endswith("."):
            assert forms(language, message)[0].endswith("。"), message.singular
