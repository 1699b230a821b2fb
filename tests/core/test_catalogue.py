"""The catalogue: sentences in four languages, and the choice between them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import messages
from proxy.core.catalogue import (
    DEFAULT,
    LANGUAGES,
    MAX_HEADER_BYTES,
    Catalogue,
    CatalogueError,
    find_locales,
    negotiate,
    parse_language,
)
from proxy.core.messages import Message, Sentence

# fmt: off
MALFORMED = [
    "ru;q=2", "ru;q=1.5", "ru;q=-1", "ru;q=0.1234", "ru;q=1.001", "ru;q=", "ru;q=nan", "ru;q=٠.٥",
    "ru;level=1", "ru;q=1;q=0", "ru zh", "ru-", "-ru", "ru--RU", "ru-*", "toolonglanguage, ru",
    "ru, {0.__class__}", "ru\x00", "ru\n", "рус, ru",
]
LOCALE_NAMES = [
    (("zh_CN.UTF-8", "zh_CN", "zh", "zh_SG.GB2312"), "zh_CN"),
    (("zh_TW.Big5", "zh_HK.UTF-8", "zh-Hant"), "zh_TW"),
    (("ru", "ru_RU@x", "ru_UA.KOI8-U@x", "RU_ru"), "ru_RU"),
    (("en_GB", "en_US.UTF-8", " en ", "en_US_POSIX"), "en_US"),
    (("C", "C.UTF-8", "POSIX", ""), None),
    (("de_DE.UTF-8", "english", "*", "_", "ru_", "zh_CN:en", ".UTF-8", "ruß"), None),
]
# fmt: on
JOINED = {
    "en_US": "Too many requests. At most 3 requests per minute are allowed. Try again in 21 seconds.",
    "zh_CN": "请求过于频繁。每分钟最多允许 3 次请求。请在 21 秒后重试。",
    "zh_TW": "請求過於頻繁。每分鐘最多允許 3 次請求。請在 21 秒後再試一次。",
    "ru_RU": "Слишком много запросов. Разрешено не более 3 запросов в минуту. Повторите попытку через 21 секунду.",
}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.load(find_locales())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the catalogues that a test may damage."""
    copy = tmp_path / "locales"
    shutil.copytree(find_locales(), copy)
    return copy


def say(catalogue: Catalogue, language: str, message: Message, **params: object) -> str:
    return catalogue.text([Sentence(message, params)], language)


class TestText:
    @pytest.mark.parametrize("message", messages.MESSAGES)
    def test_english_is_the_message_itself(self, catalogue: Catalogue, message: Message) -> None:
        for count, english in ((1, message.singular), (2, message.plural or message.singular)):
            shown = say(catalogue, "en_US", message, count=count)
            assert shown == english.replace("{count}", str(count))

    @pytest.mark.parametrize(
        ("language", "expected"),
        [
            ("en_US", "Too many requests."),
            ("zh_CN", "请求过于频繁。"),
            ("zh_TW", "請求過於頻繁。"),
            ("ru_RU", "Слишком много запросов."),
        ],
    )
    def test_each_language(self, catalogue: Catalogue, language: str, expected: str) -> None:
        assert say(catalogue, language, messages.TOO_MANY_REQUESTS) == expected

    def test_unknown_language_is_answered_in_the_default(self, catalogue: Catalogue) -> None:
        assert say(catalogue, "de_DE", messages.TOO_MANY_REQUESTS) == "Too many requests."

    @pytest.mark.parametrize(
        ("counts", "seconds", "bytes_"),
        [
            ((1, 21, 101, 1001), "секунду", "байта"),
            ((2, 4, 22, 104, 122), "секунды", "байт"),
            ((0, 5, 10, 11, 12, 14, 20, 25, 100, 111, 112, 1011), "секунд", "байт"),
        ],
    )
    def test_russian_plurals(self, catalogue: Catalogue, counts: tuple[int, ...], seconds: str, bytes_: str) -> None:
        # "Через" takes the accusative, "не более" the genitive: hence two patterns.
        for count in counts:
            shown = say(catalogue, "ru_RU", messages.TRY_AGAIN, count=count)
            assert shown == f"Повторите попытку через {count} {seconds}."
            shown = say(catalogue, "ru_RU", messages.BODY_TOO_LARGE, count=count)
            assert shown.endswith(f"не более {count} {bytes_}.")

    @pytest.mark.parametrize("count", [0, 1, 2, 21])
    def test_chinese_has_one_form(self, catalogue: Catalogue, count: int) -> None:
        assert say(catalogue, "zh_CN", messages.TRY_AGAIN, count=count) == f"请在 {count} 秒后重试。"
        assert say(catalogue, "zh_TW", messages.TRY_AGAIN, count=count) == f"請在 {count} 秒後再試一次。"

    @pytest.mark.parametrize(
        ("count", "expected"),
        [
            (-1, "Try again in -1 second."),
            (True, "Try again in True second."),
            (1.5, "Try again in 1.5 seconds."),
            ("many", "Try again in many seconds."),
            (None, "Try again in None seconds."),
        ],
    )
    def test_odd_counts_do_not_raise(self, catalogue: Catalogue, count: object, expected: str) -> None:
        assert say(catalogue, "en_US", messages.TRY_AGAIN, count=count) == expected

    def test_fractions_in_russian_take_the_form_of_two(self, catalogue: Catalogue) -> None:
        assert say(catalogue, "ru_RU", messages.TRY_AGAIN, count=1.5) == "Повторите попытку через 1.5 секунды."

    def test_sentences_join_as_the_language_joins_them(self, catalogue: Catalogue) -> None:
        sentences = [
            Sentence(messages.TOO_MANY_REQUESTS),
            Sentence(messages.LIMIT_PER_MINUTE, {"count": 3}),
            Sentence(messages.TRY_AGAIN, {"count": 21}),
        ]
        for language, expected in JOINED.items():
            assert catalogue.text(iter(sentences), language) == expected

    def test_no_sentence_is_no_text(self, catalogue: Catalogue) -> None:
        assert catalogue.text([], "ru_RU") == ""

    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize(
        "value", ["{0.__class__}", "{path}", "{method[0]}", "{", "}}", "{{x}}", "%s %(path)s", r"\1 \g<1>"]
    )
    def test_values_come_out_verbatim(self, catalogue: Catalogue, language: str, value: str) -> None:
        shown = say(catalogue, language, messages.NOT_FOUND, method=value, path="/p")
        assert shown.replace(value, "GET") == say(catalogue, language, messages.NOT_FOUND, method="GET", path="/p")

    def test_missing_value_leaves_its_placeholder(self, catalogue: Catalogue) -> None:
        assert say(catalogue, "en_US", messages.NOT_FOUND, method="GET") == "There is nothing at GET {path}."
        assert catalogue.text([Sentence(messages.TRY_AGAIN)], "en_US") == "Try again in {count} seconds."

    def test_value_that_cannot_be_shown_is_named_by_its_type(self, catalogue: Catalogue) -> None:
        class Mute:
            def __str__(self) -> str:
                raise RuntimeError

        shown = say(catalogue, "en_US", messages.UNKNOWN_MODEL, model=Mute())
        assert shown == "The model '<Mute>' does not exist or is not available to this key."

    def test_number_too_long_to_print_does_not_raise(self, catalogue: Catalogue) -> None:
        assert say(catalogue, "en_US", messages.TRY_AGAIN, count=10**5000) == "Try again in <int> seconds."

    def test_half_a_surrogate_pair_becomes_a_question_mark(self, catalogue: Catalogue) -> None:
        shown = say(catalogue, "en_US", messages.DIALOGUE_ROLE, role="я\ud800", field="continuous")
        assert shown == "The role 'я?' in 'continuous' is unknown. Use system, user or assistant."

    def test_message_without_translation_is_english(self, catalogue: Catalogue) -> None:
        strange = Message("A {thing} nobody translated.")
        assert say(catalogue, "ru_RU", strange, thing="word") == "A word nobody translated."

    @given(
        language=st.sampled_from(LANGUAGES),
        message=st.sampled_from(messages.MESSAGES),
        value=st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.binary(), st.lists(st.text())),
    )
    def test_any_value_gives_text_that_can_be_sent(
        self, catalogue: Catalogue, language: str, message: Message, value: object
    ) -> None:
        names = ("count", "field", "reason", "path", "method", "model", "role")
        assert catalogue.text([Sentence(message, dict.fromkeys(names, value))], language).encode()


class TestLoad:
    def test_missing_catalogue_names_the_file(self, directory: Path) -> None:
        path = directory / "ru_RU" / "LC_MESSAGES" / "sluice.mo"
        path.unlink()
        with pytest.raises(CatalogueError) as caught:
            Catalogue.load(directory)
        assert str(caught.value).startswith(f"{path}: cannot be read")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: b"",
            lambda data: b"not a catalogue",
            lambda data: data[: len(data) // 2],
            lambda data: data.replace(b"nplurals=1; plural=0", b"nplurals=1; plural=?"),
            lambda data: data.replace("请求过于频繁。".encode(), b"\xff" * len("请求过于频繁。".encode())),
        ],
        ids=["empty", "text", "truncated", "plural rule", "not utf-8"],
    )
    def test_broken_catalogue_names_the_file(self, directory: Path, damage: object) -> None:
        path = directory / "zh_CN" / "LC_MESSAGES" / "sluice.mo"
        whole = path.read_bytes()
        assert callable(damage)
        path.write_bytes(damage(whole))
        assert path.read_bytes() != whole
        with pytest.raises(CatalogueError) as caught:
            Catalogue.load(directory)
        assert str(path) in str(caught.value)

    def test_catalogue_of_another_language_is_refused(self, directory: Path) -> None:
        target = directory / "zh_TW" / "LC_MESSAGES" / "sluice.mo"
        shutil.copyfile(directory / "zh_CN" / "LC_MESSAGES" / "sluice.mo", target)
        with pytest.raises(CatalogueError, match="holds zh_CN, not zh_TW") as caught:
            Catalogue.load(directory)
        assert str(target) in str(caught.value)

    def test_locales_inside_the_package_come_first(self, tmp_path: Path) -> None:
        package = tmp_path / "proxy"
        shutil.copytree(find_locales(), tmp_path / "locales")
        assert find_locales(package) == tmp_path / "locales"
        shutil.copytree(find_locales(), package / "locales")
        assert find_locales(package) == package / "locales"

    def test_no_locales_names_both_places(self, tmp_path: Path) -> None:
        with pytest.raises(CatalogueError) as caught:
            find_locales(tmp_path / "proxy")
        assert str(tmp_path / "proxy" / "locales") in str(caught.value)
        assert str(tmp_path / "locales") in str(caught.value)


class TestNegotiate:
    @pytest.mark.parametrize(
        ("ranges", "expected"),
        [
            ("zh zh-CN ZH_cn zh-SG zh-Hans zh-Hans-CN zh-Hans-HK zh-MY", "zh_CN"),
            ("zh-TW zh-HK zh-MO zh-Hant Zh_hAnT_tw zh-Hant-CN zh-HK-x-private", "zh_TW"),
            ("ru ru-UA RU-ru", "ru_RU"),
            ("en en-GB EN_us", "en_US"),
        ],
    )
    def test_aliases(self, ranges: str, expected: str) -> None:
        for wanted in ranges.split():
            for default in LANGUAGES:
                assert negotiate(wanted, default) == expected, wanted

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            ("ru;q=0.5, zh-TW;q=0.8", "zh_TW"),
            ("ru ; q=0.5 , zh-TW\t;\tQ=0.8", "zh_TW"),
            ("de, fr;q=0.9, ru;q=0.1", "ru_RU"),
            ("ru, zh", "ru_RU"),
            ("zh, ru", "zh_CN"),
            ("ru;q=1.000, zh;q=0.999", "ru_RU"),
            ("ru;q=0., zh;q=0.001", "zh_CN"),
            ("zh-HK, zh;q=0.9, en;q=0.8", "zh_TW"),
            (", ,ru,,", "ru_RU"),
        ],
    )
    def test_weights_and_order(self, header: str, expected: str) -> None:
        assert negotiate(header, "en_US") == expected

    @pytest.mark.parametrize(
        ("header", "default", "expected"),
        [
            ("zh-CN;q=0, zh", "en_US", "zh_TW"),
            ("zh;q=0, zh-TW", "en_US", "zh_TW"),
            ("zh;q=0, zh-HK;q=0.1", "en_US", "zh_TW"),
            ("zh-TW;q=0, zh-TW, ru;q=0.1", "en_US", "ru_RU"),
            ("en-GB;q=0, en;q=0.5", "ru_RU", "en_US"),  # British English is not what we have
            ("zh-HK;q=0, zh-TW;q=0.5", "en_US", "zh_TW"),
            ("zh-CN;q=0, zh;q=0, zh-Hans;q=0.5", "en_US", "en_US"),
            ("ru;q=0", "ru_RU", "ru_RU"),  # nothing acceptable: the field is disregarded
            ("ru;q=0, *", "ru_RU", "en_US"),
            ("*;q=0", "zh_CN", "zh_CN"),
            ("*;q=0, ru;q=0.1", "zh_CN", "ru_RU"),
        ],
    )
    def test_zero_excludes(self, header: str, default: str, expected: str) -> None:
        assert negotiate(header, default) == expected

    @pytest.mark.parametrize("default", LANGUAGES)
    @pytest.mark.parametrize("header", [None, "", "  ", "*", "fr, *;q=0.1", "de", "fr-CA, de;q=0.3", "enx, zhx"])
    def test_default_when_nothing_else_is_said(self, header: str | None, default: str) -> None:
        assert negotiate(header, default) == default

    @pytest.mark.parametrize("header", MALFORMED)
    def test_malformed_header_is_ignored_as_a_whole(self, header: str) -> None:
        assert negotiate(header, "zh_TW") == "zh_TW"

    def test_length_is_bounded(self) -> None:
        header = "ru" + "," * (MAX_HEADER_BYTES - 2)
        assert negotiate(header, "en_US") == "ru_RU"
        assert negotiate(header + ",", "en_US") == "en_US"

    def test_unknown_default_is_ours(self) -> None:
        assert negotiate(None, "de_DE") == DEFAULT
        assert negotiate("*", "de_DE") == DEFAULT

    @given(header=st.one_of(st.none(), st.text()), default=st.one_of(st.sampled_from(LANGUAGES), st.text()))
    def test_any_text_is_answered_with_a_language_of_ours(self, header: str | None, default: str) -> None:
        assert negotiate(header, default) in LANGUAGES

    @given(
        elements=st.lists(
            st.tuples(
                st.sampled_from(
                    ["en", "EN_gb", "ru", "ru-UA", "zh", "zh-HK", "zh-Hans", "zh_TW", "de", "*", "", "é"]
                ),
                st.sampled_from(["", ";q=0", ";q=0.5", "; q=1", ";q=1.0", ";q=x", ";"]),
            ),
            max_size=12,
        ),
        default=st.sampled_from(LANGUAGES),
    )
    def test_nearly_valid_headers_too(self, elements: list[tuple[str, str]], default: str) -> None:
        assert negotiate(",".join(f"{name}{weight}" for name, weight in elements), default) in LANGUAGES

    @given(
        weights=st.lists(st.integers(1, 1000), min_size=4, max_size=4, unique=True),
        order=st.permutations(LANGUAGES),
    )
    def test_the_greatest_weight_wins(self, weights: list[int], order: list[str]) -> None:
        pairs = list(zip(order, weights, strict=True))
        header = ", ".join(f"{language};q={weight / 1000:.3f}" for language, weight in pairs)
        assert negotiate(header, "en_US") == max(pairs, key=lambda pair: pair[1])[0]


class TestParseLanguage:
    @pytest.mark.parametrize(("values", "expected"), LOCALE_NAMES)
    def test_posix_forms(self, values: tuple[str, ...], expected: str | None) -> None:
        for value in values:
            assert parse_language(value) == expected, value

    @given(value=st.text())
    def test_any_text_is_ours_or_none(self, value: str) -> None:
        assert parse_language(value) in (*LANGUAGES, None)
