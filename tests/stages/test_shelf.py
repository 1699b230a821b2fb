"""The shelf of stages: names, configs, what they have in common, and the default chain as a whole."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from proxy.core.chain import BODY_WANTED, Chain
from proxy.core.exchange import Route
from proxy.core.reply import Reply
from proxy.core.stage import Mode, Stage
from proxy.stages import CONFIGS, STAGES, StageConfig, build
from proxy.stages.ip_allowlist import IPAllowlistConfig
from proxy.stages.key import KeyConfig
from proxy.stages.limit import LimitConfig
from proxy.stages.upstream import UpstreamConfig
from tests.stages.configs import refusal
from tests.support.clock import FakeClock
from tests.support.exchange import make_exchange, make_services

NAMES = ["ip_allowlist", "limit", "key", "upstream"]


def default_chain(
    allow: list[str] | None = None, limit_mode: Mode = Mode.ENFORCE, clock: FakeClock | None = None
) -> Chain:
    """The customer's chain with one request a minute and one server key."""
    services = make_services(clock)
    configs: list[StageConfig] = [
        IPAllowlistConfig(allow=allow),
        LimitConfig(minute=1, mode=limit_mode),
        KeyConfig(server_keys=[SecretStr("sk-server")]),
        UpstreamConfig(),
    ]
    return Chain(build(name, config, services) for name, config in zip(NAMES, configs, strict=True))


class TestShelf:
    def test_the_usual_order_is_the_customers(self) -> None:
        assert list(STAGES) == list(CONFIGS) == NAMES

    @pytest.mark.parametrize("name", NAMES)
    def test_every_stage_is_built_from_its_defaults(self, name: str) -> None:
        stage = build("mine", CONFIGS[name](), make_services())
        assert type(stage) is STAGES[name]
        assert isinstance(stage, Stage)
        assert (stage.name, stage.mode) == ("mine", Mode.ENFORCE)
        assert repr(stage) == f"<{STAGES[name].__name__} mine enforce>"

    @pytest.mark.parametrize("name", NAMES)
    def test_the_config_gives_the_mode(self, name: str) -> None:
        stage = build(name, CONFIGS[name](mode=Mode.SHADOW), make_services())
        assert stage.mode is Mode.SHADOW
        assert not stage.is_enforcing

    @pytest.mark.parametrize("name", NAMES)
    def test_every_stage_explains_itself_in_one_line(self, name: str) -> None:
        explained = build(name, CONFIGS[name](), make_services()).explain(make_exchange())
        assert explained
        assert "\n" not in explained

    def test_a_foreign_config_is_refused(self) -> None:
        class Other(StageConfig):
            pass

        with pytest.raises(TypeError, match="no stage takes Other"):
            build("other", Other(), make_services())


class TestCommonFields:
    @pytest.mark.parametrize("config", CONFIGS.values())
    def test_bad_values(self, config: type[StageConfig]) -> None:
        assert refusal(config, mood="off") == "mood: Extra inputs are not permitted"
        assert refusal(config, mode="on") == "mode: Input should be 'enforce', 'shadow' or 'off'"
        assert refusal(config, mode=False) == "mode: Input should be 'enforce', 'shadow' or 'off'"
        assert refusal(config, type=1) == "type: Input should be a valid string"

    @pytest.mark.parametrize("config", CONFIGS.values())
    def test_every_field_is_described(self, config: type[StageConfig]) -> None:
        for name, field in config.model_fields.items():
            assert field.description, name

    @pytest.mark.parametrize("mode", ["enforce", "shadow", "off"])
    def test_modes_are_words(self, mode: str) -> None:
        assert StageConfig.model_validate({"mode": mode}).mode == mode

    def test_a_config_does_not_change(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            LimitConfig().hour = 5


class TestDefaultChain:
    def test_a_request_passes_all_four(self) -> None:
        chain = default_chain()
        exchange = make_exchange()
        assert chain.proceed(exchange) is None
        assert exchange.authorization == b"Bearer sk-server"
        assert list(chain.verdicts(exchange)) == [(name, "pass") for name in NAMES]

    def test_a_stranger_costs_nothing(self) -> None:
        chain = default_chain(allow=["10.0.0.0/8"])
        for _ in range(3):
            stranger = make_exchange(client_ip="192.0.2.1")
            verdict = chain.proceed(stranger)
            assert isinstance(verdict, Reply)
            assert (verdict.status, verdict.code) == (403, "ip_not_allowed")
            assert stranger.credential is None
        assert chain.proceed(make_exchange(client_ip="10.0.0.1")) is None

    def test_on_the_chat_route_strangers_and_hasty_ones_leave_before_the_body(self) -> None:
        chain = default_chain(allow=["10.0.0.0/8"])
        assert isinstance(chain.proceed(make_exchange(client_ip="192.0.2.1", route=Route.CHAT)), Reply)
        assert chain.proceed(make_exchange(client_ip="10.0.0.1", route=Route.CHAT)) == BODY_WANTED
        hasty = chain.proceed(make_exchange(client_ip="10.0.0.1", route=Route.CHAT))
        assert isinstance(hasty, Reply)
        assert hasty.status == 429

    def test_a_limit_in_shadow_counts_and_lets_pass(self) -> None:
        chain = default_chain(limit_mode=Mode.SHADOW)
        assert chain.proceed(make_exchange()) is None
        second = make_exchange()
        assert chain.proceed(second) is None
        assert chain.verdicts(second)[1] == ("limit", "shadow_deny rate_limit_exceeded")
