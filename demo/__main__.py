"""Show the gateway at work, end with 0 if everything was as announced, else with 1.

Nothing leaves this machine: the upstream is `sluice mock`, and the gateways listen on loopback.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from openai import OpenAI, RateLimitError
from openai.types.chat import ChatCompletionMessageParam

CONFIG = "config/sluice.yaml"


def say(title: str) -> None:
    """Begin a scene."""
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}", flush=True)


def expect(condition: bool, what: str) -> None:
    """Stop the demo if something is not as announced."""
    if not condition:
        print(f"   NOT AS EXPECTED: {what}", flush=True)
        raise SystemExit(1)


@contextmanager
def sluice(*args: str, marker: str, **environ: str) -> Iterator[str]:
    """Run a ``sluice`` command in the background; yields the URL it says it listens on."""
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LANG": "C", "PYTHONUNBUFFERED": "1", **environ},
    )
    try:
        yield _address(process, marker)
    finally:
        process.terminate()
        process.communicate(timeout=10)


def _address(process: subprocess.Popen[str], marker: str) -> str:
    """The address behind ``marker`` in what the process prints."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if marker in line:
            return line.split(marker)[1].split()[0].rstrip(",")
    raise SystemExit(f"sluice did not start:\n{seen}")


@contextmanager
def gateway(upstream: str, **environ: str) -> Iterator[str]:
    """A gateway in front of ``upstream`` with some settings from the environment."""
    settings = {"OPENAI_BASE_URL": upstream, "SLUICE__ADMIN__ENABLED": "false", **environ}
    for name, value in environ.items():
        print(f"   $ {name}={value}")
    command = ("serve", "--config", CONFIG, "--host", "127.0.0.1", "--port", "0")
    with sluice(*command, marker="listening on ", **settings) as url:
        yield url


def post(url: str, fields: dict[str, object], **headers: str) -> tuple[int, str]:
    """POST JSON; (status, body)."""
    data = json.dumps(fields).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def show_chain() -> None:
    """The assembled chain, and where one request would go in it."""
    say("1. The chain that config/sluice.yaml assembles")
    subprocess.run([sys.executable, "-m", "proxy", "check", "--config", CONFIG], check=True)
    subprocess.run(
        [sys.executable, "-m", "proxy", "explain", "--config", CONFIG, "--header", "Authorization: Bearer sk-mine"],
        check=True,
    )


def show_stream(upstream: str) -> None:
    """The official SDK streams an answer, with nothing changed but its base_url."""
    say("2. The official OpenAI SDK streams through it (only base_url was changed)")
    with gateway(upstream) as url, OpenAI(base_url=f"{url}/v1", api_key="sk-mine") as client:
        print("   ", end="")
        pieces = 0
        messages: list[ChatCompletionMessageParam] = [
            {"role": "user", "content": "a sluice is a gate that regulates a flow"}
        ]
        for chunk in client.chat.completions.create(model="gpt-4.1-mini", messages=messages, stream=True):
            text = chunk.choices[0].delta.content or ""
            pieces += bool(text)
            print(text, end="", flush=True)
        print(f"\n   ({pieces} pieces, each as it came)")
        expect(pieces > 3, "a stream of several pieces")


def show_limit(upstream: str) -> None:
    """A limit refuses the second request of a minute, in the caller's language."""
    say("3. A limit, set by the environment, refuses in the caller's language")
    with gateway(upstream, MINUTE_LIMIT="1", API_KEY="sk-server") as url:
        status, body = post(f"{url}/api", {"user_content": "hello"})
        print(f"   {status} {body}")
        expect(status == 200, "the first answer")
        for language, word in (("en", "minute"), ("ru", "минуту")):
            status, body = post(f"{url}/api", {"user_content": "hello"}, **{"Accept-Language": language})
            print(f"   {status} {body}")
            expect(status == 429 and word in body, f"a 429 in {language}")
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            try:
                client.models.list()
            except RateLimitError as error:
                print(f"   and the SDK raises {type(error).__name__}, request id {error.request_id}")
            else:
                expect(False, "a RateLimitError")


def show_allowlist(upstream: str) -> None:
    """An allowlist keeps strangers out."""
    say("4. An allowlist keeps this machine out")
    with gateway(upstream, IP_ALLOWLIST="10.0.0.0/8") as url:
        status, body = post(f"{url}/v1/chat/completions", {"model": "gpt-4.1-mini", "messages": []})
        print(f"   {status} {body}")
        expect(status == 403, "a 403")


def show_reordering(upstream: str) -> None:
    """The same settings, another order: another stage is the first to refuse."""
    say("5. The chain reordered by SLUICE__CHAIN alone: a stranger without a key is told of the key first")
    for chain, expected in (
        ("ip_allowlist,limit,key,upstream", 403),
        ("key,ip_allowlist,limit,upstream", 401),
    ):
        with gateway(upstream, SLUICE__CHAIN=chain, IP_ALLOWLIST="10.0.0.0/8") as url:
            status, body = post(f"{url}/v1/chat/completions", {})
            print(f"   {chain}: {status} {body}")
            expect(status == expected, f"a {expected}")


def main() -> int:
    """Run every scene."""
    show_chain()
    with sluice("mock", "--port", "0", "--chunk-delay-ms", "60", marker="mock OpenAI on ") as upstream:
        show_stream(upstream)
        show_limit(upstream)
        show_allowlist(upstream)
        show_reordering(upstream)
    print("\nEverything was as announced. `make run` starts the gateway in front of OpenAI itself.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
