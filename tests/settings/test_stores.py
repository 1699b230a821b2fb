"""Where limits count: what keeps them from it, what has no effect, and that no password is shown."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from proxy.cli import main
from proxy.settings import load, stores
from proxy.settings.limits import Limits
from proxy.settings.stores import holds_password, is_remote, shown_store, store_of
from tests.settings.loading import complaints, environment_complaints, load_text
from tests.support.canary import SERVER_KEY, UNUSUAL_KEY, assert_silent

REDIS = "redis://host:6379/0"
WORKERS = (
    "limits.store  each of the workers ({}) would count by itself, and admit all of every limit; "
    "write shared, which all workers of this machine share, or the URL of a Redis"
)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setattr(stores, "find_spec", lambda name: None if name == package else object())


class TestStore:
    @pytest.mark.parametrize(
        ("workers", "store", "kind"),
        [
            ("1", "", "memory"),
            ("4", "", "shared"),
            ("auto", "", "shared"),
            ("1", "shared", "shared"),
            ("auto", "shared", "shared"),
            ("4", "valkey://h", "redis"),
            ("1", "redis+sentinel://h/main", "sentinel"),
            ("1", "rediss+cluster://a,b", "cluster"),
        ],
    )
    def test_workers_and_store_say_where_limits_count(self, workers: str, store: str, kind: str) -> None:
        loaded = load({}, {"SLUICE__WORKERS": workers, "SLUICE__LIMITS__STORE": store})
        found = store_of(loaded.settings)
        assert found.kind == kind
        assert is_remote(found) is (kind not in ("memory", "shared"))

    @pytest.mark.parametrize("workers", ["2", "auto"])
    def test_workers_that_count_each_by_itself_are_refused(self, workers: str) -> None:
        environ = {"SLUICE__WORKERS": workers, "SLUICE__LIMITS__STORE": "memory"}
        assert environment_complaints(environ) == [
            f"environment SLUICE__LIMITS__STORE  {WORKERS.format(workers)}",
        ]

    def test_a_text_that_is_no_store_is_refused_where_it_stands(self, tmp_path: Path) -> None:
        (found,) = complaints(tmp_path, "limits:\n  store: redsi://host\n")
        assert found.startswith(
            "sluice.yaml:2:10  limits.store  this kind of store is not known; write memory, shared"
        )
        assert "redsi" not in found
        (found,) = environment_complaints({"SLUICE__LIMITS__STORE": "memroy"})
        assert found.startswith("environment SLUICE__LIMITS__STORE  limits.store  this is no store; write memory")
        (found,) = complaints(tmp_path, "limits: {store: 5}\n")
        assert "limits.store  must be text, not ***" in found

    def test_a_store_can_stand_in_a_file_of_its_own(self, tmp_path: Path) -> None:
        file = tmp_path / "store"
        file.write_text(f"redis://:{quote(UNUSUAL_KEY, safe='')}@host\n")
        loaded = load({}, {"SLUICE__LIMITS__STORE_FILE": str(file)})
        assert store_of(loaded.settings).password == UNUSUAL_KEY
        assert str(loaded.origins["limits.store"]) == "environment SLUICE__LIMITS__STORE_FILE"

    def test_redis_needs_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without(monkeypatch, "redis")
        assert environment_complaints({"SLUICE__LIMITS__STORE": REDIS}) == [
            "environment SLUICE__LIMITS__STORE  limits.store  this store needs the package redis; "
            "pip install 'sluicegate[redis]'"
        ]
        assert load({}, {"SLUICE__LIMITS__STORE": "shared"})

    def test_shared_needs_its_package_even_where_nobody_has_named_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without(monkeypatch, "lmdb")
        said = "the store shared needs the package lmdb; pip install lmdb"
        (found,) = environment_complaints({"SLUICE__LIMITS__STORE": "shared"})
        assert found.startswith(f"environment SLUICE__LIMITS__STORE  limits.store  {said}")
        (found,) = environment_complaints({"SLUICE__WORKERS": "2"})
        assert found.startswith(f"environment SLUICE__WORKERS  workers  {said}")
        assert load({}, {"SLUICE__LIMITS__STORE": REDIS})

    def test_authorities_are_looked_at_if_they_are_needed(self, tmp_path: Path) -> None:
        missing = str(tmp_path / "none.pem")
        environ = {"SLUICE__LIMITS__STORE": "rediss://h", "SLUICE__LIMITS__CA_FILE": missing}
        (found,) = environment_complaints(environ)
        assert "limits.ca_file  cannot be used: No such file or directory; name a readable PEM file" in found
        (tmp_path / "none.pem").write_text("no certificate")
        (found,) = environment_complaints(environ)
        assert "limits.ca_file  cannot be used: " in found

    def test_nothing_is_concluded_from_what_is_wrong_itself(self) -> None:
        (found,) = environment_complaints({"SLUICE__WORKERS": "0", "SLUICE__LIMITS__STORE": "memory"})
        assert found.startswith("environment SLUICE__WORKERS  workers  ")

    @pytest.mark.parametrize("namespace", ["", "a b", "{x}", "a:b", "a" * 65, "ключ", "a\n"])
    def test_a_namespace_is_a_plain_word(self, namespace: str) -> None:
        with pytest.raises(ValueError, match="write letters"):
            Limits(namespace=namespace)


class TestNotices:
    @staticmethod
    def said(config: dict[str, object], **environ: str) -> list[str]:
        return [notice for notice in load(config, environ).notices if "limits." in notice]

    @pytest.mark.parametrize(
        ("limits", "said"),
        [
            ({"dir": "/x"}, ["limits.dir (configuration) has no effect: only the store shared has one"]),
            (
                {"max_bytes": 5_000_000, "store": REDIS},
                ["limits.max_bytes (configuration) has no effect: only the store"],
            ),
            ({"ca_file": "/x", "store": REDIS}, ["limits.ca_file (configuration) has no effect: the store is not"]),
            (
                {"timeout_s": 1.0, "hosts": 2, "namespace": "a", "store": "shared"},
                ["limits.timeout_s (", "limits.hosts (", "limits.namespace ("],
            ),
            ({"dir": "/x", "max_bytes": 5_000_000, "store": "shared"}, []),
            ({"timeout_s": 1.0, "hosts": 2, "namespace": "a", "store": REDIS}, []),
            ({"timeout_s": 0.05, "hosts": 1, "namespace": "sluice", "max_bytes": 0, "dir": None}, []),
        ],
    )
    def test_what_has_no_effect_is_said(self, limits: dict[str, object], said: list[str]) -> None:
        found = self.said({"limits": limits})
        assert len(found) == len(said)
        assert all(one.startswith(start) for one, start in zip(found, said, strict=True))

    @pytest.mark.parametrize(
        ("limit", "hosts", "store", "is_said"),
        [
            ({"hour": 1, "on_store_error": "local"}, 1, REDIS, True),
            ({"limits": {"x": {"hour": 1, "on_store_error": "local"}}}, 1, REDIS, True),
            ({"hour": 1, "on_store_error": "local"}, 2, REDIS, False),
            ({"hour": 1, "on_store_error": "local"}, 1, "shared", False),
            ({"hour": 1, "on_store_error": "deny"}, 1, REDIS, False),
            ({"on_store_error": "local"}, 1, REDIS, False),
            ({"hour": 1, "on_store_error": "local", "mode": "off"}, 1, REDIS, False),
        ],
    )
    def test_a_share_of_one_host_is_the_whole(
        self, limit: dict[str, object], hosts: int, store: str, is_said: bool
    ) -> None:
        found = self.said({"limits": {"store": store, "hosts": hosts}, "stages": {"limit": limit}})
        assert bool(found) is is_said
        if is_said:
            assert found[0].startswith("limit: on_store_error: local divides by limits.hosts, which is 1: ")

    @pytest.mark.parametrize(
        ("store", "is_said"),
        [
            ("memory", False),
            ("shared", False),
            (REDIS, False),
            ("redis://user@host", False),
            ("redis://:pw@host", True),
            ("unix:///s.sock?password=pw", True),
        ],
    )
    def test_only_a_password_in_the_file_is_a_key_in_plain_text(
        self, tmp_path: Path, store: str, is_said: bool
    ) -> None:
        loaded = load_text(tmp_path, f'limits: {{store: "{store}"}}\n')
        assert any("plain text" in notice for notice in loaded.notices) is is_said
        assert holds_password(store) is is_said

    def test_what_is_no_store_may_be_a_password(self) -> None:
        assert holds_password("hunter2")


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        ("memory", "memory"),
        ("shared", "shared"),
        ("redis://user:pw@host/3", "redis://host:6379/3"),
        ("rediss://:pw@[::1]:1", "rediss://[::1]:1/0"),
        ("unix://:pw@/run/s.sock", "unix:///run/s.sock?db=0"),
        ("redis+sentinel://u:p@a,b:1/main?sentinel_password=q", "redis+sentinel://a:26379,b:1/main/0"),
        ("valkey+cluster://u:p@a", "redis+cluster://a:6379"),
        ("hunter2", "***"),
    ],
)
def test_a_store_is_shown_without_user_and_password(store: str, shown: str) -> None:
    assert shown_store(store) == shown


@pytest.mark.parametrize("key", [SERVER_KEY, UNUSUAL_KEY])
@pytest.mark.parametrize(
    "form",
    [
        "redis://:{}@host/0",
        "redis://user:{}@host/0",
        "redis://{}@host",
        "rediss://{}:{}@host",
        "unix:///s.sock?password={}",
        "redis+sentinel://h/s?sentinel_password={}",
        "redis://:{}@host:x",
        "redis://:{}@host/a/b",
        "redis://:{}#@host",
        "redis://:{}@@host@",
        "rdis://:{}@host",
        "{}",
        "redis://{}",
        "redis://:{}@host?{}",
        "shared {}",
    ],
)
def test_no_password_of_a_store_is_shown(
    key: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = form.format(key, key)
    file = tmp_path / "sluice.yaml"
    file.write_text(json.dumps({"limits": {"store": text}, "stages": {"limit": {"hour": 1}}}))
    secret = tmp_path / "store"
    secret.write_text(text)
    ways = [({}, ["--config", str(file)]), ({"SLUICE__LIMITS__STORE": text}, []),
            ({"SLUICE__LIMITS__STORE_FILE": str(secret)}, [])]  # fmt: skip
    for environ, args in ways:
        for command in (["check"], ["config"], ["config", "--format", "json"], ["explain"]):
            status = main([*command, *args], environ)
            printed = capsys.readouterr()
            assert status in (0, 1, 78)
            # A host or a path is no secret, and so is shown; a key stands in that place by mistake.
            if form != "redis://{}" or status == 78:
                assert_silent(printed.out + printed.err, " ".join([*command, text]))
    wrong = {"SLUICE__LIMITS__STOER": text, "SLUICE__LIMITS": text}
    for name, value in wrong.items():
        main(["check"], {name: value})
        printed = capsys.readouterr()
        assert_silent(printed.out + printed.err, name)
    if not form.startswith("redis://{}"):
        config = {"limits": {"store": text, "timeout_s": text, "stor": text}}
        for made in (config, {"limits": text}, {"limits": [text]}, {"limits": {"store": [text]}}):
            file.write_text(json.dumps(made))
            main(["check", "--config", str(file)], {})
            printed = capsys.readouterr()
            if key == SERVER_KEY or made is not config:
                assert_silent(printed.out + printed.err, str(made))


def test_no_representation_shows_it() -> None:
    text = f"redis://u:{quote(UNUSUAL_KEY, safe='')}@h"
    loaded = load({"limits": {"store": text}}, {})
    assert store_of(loaded.settings).password == UNUSUAL_KEY
    assert_silent(f"{loaded!r} {loaded.settings!r} {store_of(loaded.settings)!r} {loaded.notices}", "a repr")
