"""What the profile `cluster` of docker-compose.yml is: two gateways behind a balancer, counting in one place."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from proxy.mock.running import running
from tests.support.process import ROOT, Sluice, serving
from tests.support.redis import RedisServer, free_port, wait_until

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@contextmanager
def balancer(folder: Path, port: int, gateways: list[Sluice]) -> Iterator[None]:
    """HAProxy with the configuration in deploy/, its names and its port replaced by those of this test."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert program, "haproxy is missing: `make programs` installs it, or `apt-get install haproxy`"
    text = (ROOT / "deploy" / "haproxy.cfg").read_text()
    replaced = {"bind :5080": f"bind 127.0.0.1:{port}"}
    for number, gateway in enumerate(gateways, 1):
        replaced[f"server gateway-{number} gateway-{number}:5000"] = (
            f"server gateway-{number} 127.0.0.1:{gateway.port}"
        )
    for old, new in replaced.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    config = folder / "haproxy.cfg"
    config.write_text(text)
    process = subprocess.Popen(
        [program, "-q", "-db", "-f", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


class Cluster:
    """The whole of it."""

    def __init__(self, port: int, gateways: list[Sluice], redis: RedisServer) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.gateways = gateways
        self.redis = redis

    def call(self, client: str) -> requests.Response:
        headers = {"Authorization": "Bearer sk-client", "X-Forwarded-For": "9.9.9.9"}
        # The source address is the client's: what it writes into the header itself must not count.
        with requests.Session() as session:
            session.mount("http://", _From(client))
            return session.get(f"{self.url}/v1/models", headers=headers, timeout=10)


class _From(requests.adapters.HTTPAdapter):
    """Connects from an address of its own."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, source_address=(self._address, 0), **kwargs)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    redis = RedisServer(folder, port=free_port()).start()
    names = {
        name: str(value)
        for name, value in COMPOSE["gateway-1"]["environment"].items()
        if value is not None and name not in ("SLUICE__LIMITS__STORE", "TRUSTED_PROXIES", "SECOND_LIMIT")
    }
    assert COMPOSE["gateway-2"]["environment"] == COMPOSE["gateway-1"]["environment"]
    with ExitStack() as stack:
        stack.callback(redis.stop)
        mock = stack.enter_context(running())
        gateways = [
            stack.enter_context(
                serving(
                    **names,
                    OPENAI_BASE_URL=mock.base_url,
                    TRUSTED_PROXIES="127.0.0.1",
                    SLUICE__LIMITS__STORE=redis.url.replace("redis://", "valkey://"),
                    SLUICE__WORKERS="2",
                )
            )
            for _ in range(2)
        ]
        port = free_port()
        stack.enter_context(balancer(folder, port, gateways))
        made = Cluster(port, gateways, redis)
        wait_until(lambda: _is_up(made.url))
        yield made


def _is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=2).status_code == 200
    except requests.ConnectionError:
        return False


def test_a_client_has_one_limit_whichever_gateway_it_meets(cluster: Cluster) -> None:
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: cluster.call("127.0.0.21"), range(24)))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {200: 3, 429: 21}
    assert {answer.headers.get("x-sluice-limit") for answer in answers} == {None, "limit.minute"}
    ids = {answer.headers["x-sluice-request-id"][4:16] for answer in answers}
    assert len(ids) > 1, "more than one worker answered"
    assert cluster.call("127.0.0.22").status_code == 200, "another client has its own"


def test_without_the_store_requests_are_refused_and_afterwards_counted_again(cluster: Cluster) -> None:
    assert cluster.call("127.0.0.23").status_code == 200
    cluster.redis.stop()
    try:
        answer = cluster.call("127.0.0.23")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "limits_unavailable")
        assert requests.get(f"{cluster.url}/readyz", timeout=5).status_code == 200
    finally:
        cluster.redis.start()
    end = time.monotonic() + 5
    while (answer := cluster.call("127.0.0.24")).status_code == 503 and time.monotonic() < end:
        time.sleep(0.05)
    assert answer.status_code == 200


def test_a_gateway_that_stops_takes_nobody_with_it(cluster: Cluster) -> None:
    stopped = cluster.gateways[0]
    statuses = []
    for number in range(100):
        if number == 5:
            stopped.process.terminate()
        statuses.append(cluster.call(f"127.0.1.{number + 1}").status_code)
        if stopped.process.poll() is not None:
            break
        time.sleep(0.03)
    assert set(statuses) == {200}
    assert stopped.process.poll() == 0
    with socket.create_connection(("127.0.0.1", cluster.gateways[1].port), 5):
        pass
