"""Where there is no fork: one process with the same ports, and an admin plane that says what it cannot do."""

from __future__ import annotations

import requests

from tests.support.process import ROOT, Sluice

SCRIPT = """
import logging, sys
from proxy.settings import load, process_environ
from proxy.supervisor.alone import serve_alone
from tests.supervisor.patience import prepare
import proxy.supervisor.alone as alone
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
address = {"host": "127.0.0.1", "port": 0}
token = "a-token-of-many-characters"
old = alone.Worker.__init__
def prepared(self, settings, log_lock=None):
    old(self, settings, log_lock)
    prepare(self)
alone.Worker.__init__ = prepared
config = {"listen": address, "admin": {**address, "token": token}, "access_log": {"enabled": False}}
sys.exit(serve_alone(load(config, {}).settings, process_environ()))
"""


class Alone(Sluice):
    """Such a process."""

    command = ("-c", SCRIPT)


def test_one_process_has_it_all_but_workers_to_restart() -> None:
    alone = Alone(PYTHONPATH=str(ROOT))
    try:
        assert requests.get(f"http://127.0.0.1:{alone.port}/readyz", timeout=5).text == "ok\n"
        assert alone.workers == []
        url = f"http://127.0.0.1:{alone.admin_port}"
        operator = {"Authorization": "Bearer a-token-of-many-characters"}
        assert requests.get(f"{url}/readyz", timeout=5).text == "ok\n"
        assert 'sluice_exchanges_in_flight{worker="0"} 0.0' in requests.get(f"{url}/metrics", timeout=5).text
        assert requests.get(f"{url}/-/workers", headers=operator, timeout=5).json() == {"workers": []}
        assert requests.post(f"{url}/-/restart", headers=operator, timeout=5).status_code == 503
        limits = f"{url}/-/limits?subject="
        shown = requests.get(f"{limits}ann", headers=operator, timeout=5)
        assert shown.json() == {"subject": "ann", "pid": alone.process.pid}
        wrong = requests.delete(f"{limits}wrong", headers=operator, timeout=5)
        assert (wrong.status_code, wrong.json()) == (400, {"error": "a wrong subject"})
        assert alone.stop() == 0
    finally:
        alone.stop()
