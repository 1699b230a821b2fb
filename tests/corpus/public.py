"""Public collections of messages, read from a copy of their project: none of their bytes is kept here.

`README.md` says which they are, under which licence, and how to come by them. What is ours is what we expect.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.corpus.cases import load
from tests.support.corpus import Case, Reading, Tier

_TIERS = {
    "Severe": Tier.SEVERE,
    "Ambiguous": Tier.AMBIGUOUS,
    "Acceptable": Tier.AMBIGUOUS,
    "Compliant": Tier.COMPLIANT,
}
_MOST_BODY = 5_000_000
_BLOCK = re.compile(r"<!-- meta=(\{[^\n]*\}) -->\s*```http\n(.*?)\n```\n(?:(?!```).)*```log\n(.*?)```", re.DOTALL)
_TITLE = re.compile(r"^#+ (.*)$", re.MULTILINE)
_NO_REFUSAL = ("21", "22", "23", "31")
"""Codes with which llhttp pauses: nothing is wrong with the message."""


# http-desync-guardian


def desync_cases(directory: Path) -> list[tuple[str, Case]]:
    """(the project's own word for its danger, case) for all its requests.

    Their paths are put below ``/v1``, where the gateway forwards; a Host is added where there is none, and the body
    that the framing announces. Raises OSError if they are not there.
    """
    by_rule: dict[str, str] = load("by_rule.yaml")["http-desync-guardian"]
    found = []
    for file in sorted(directory.glob("tests/*.yaml")):
        for index, entry in enumerate(yaml.safe_load(file.read_text(encoding="utf-8"))):
            name = f"{file.stem} {index}"
            word = entry["expected"]["tier"]
            found.append((word, _desync_case(name, entry, _TIERS[word], by_rule.get(name, ""))))
    if not found:
        raise FileNotFoundError(f"no tests/*.yaml in {directory}")
    return found


def _desync_case(name: str, entry: dict[str, Any], tier: Tier, by_rule: str) -> Case:
    target, method = entry["uri"] or "", entry["method"]
    if target.startswith("/"):
        target = f"/v1{target}"
    pairs = [(str(line["name"]), str(line["value"])) for line in entry["headers"] or ()]
    if not any(key.strip().lower() == "host" for key, _ in pairs):
        pairs.insert(0, ("Host", "gateway.test"))
    body, payload = _announced_body(pairs)
    version = entry["version"]
    start = f"{method} {target} {version}" if version else f"{method} {target}"
    lines = [start, *(f"{key}: {value}" for key, value in pairs), "", ""]
    readings = () if tier is Tier.SEVERE or by_rule else (Reading(method, target, payload),)
    return Case(name, _encode("\r\n".join(lines)) + body, tier, readings, by_rule=by_rule)


def _announced_body(pairs: list[tuple[str, str]]) -> tuple[bytes, bytes]:
    """(the body as it is sent, its payload), by the first plain framing among the lines."""
    for key, value in pairs:
        if key.lower() == "transfer-encoding":
            return b"5\r\nhello\r\n0\r\n\r\n", b"hello"
        if key.lower() == "content-length" and value.strip().isdecimal() and int(value) <= _MOST_BODY:
            return (b"x" * int(value),) * 2
    return b"", b""


def _encode(text: str) -> bytes:
    """Octets where the text can be octets, else UTF-8."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8")


# llhttp


@dataclass(frozen=True)
class Message:
    """One message as llhttp's log has it; ``complete`` is None if only the end of the connection could end it."""

    head: dict[str, bytes]
    fields: tuple[bytes, ...]
    body: bytes
    complete: bool | None
    closes: bool


@dataclass(frozen=True)
class Block:
    """One block of llhttp's tests: bytes, and what llhttp says of them."""

    name: str
    kind: str  # "request", "response-lenient-headers", …
    data: bytes
    messages: tuple[Message, ...]
    error: str  # why llhttp refuses it; empty if it does not
    skips_body: bool  # its parser was told that there is no body, whatever the head says

    @property
    def is_lenient(self) -> bool:
        """Whether what is said of it holds only with a lenient flag."""
        return "lenient" in self.kind


def llhttp_blocks(directory: Path, kind: str) -> list[Block]:
    """The blocks of ``request`` or ``response``. Raises OSError if they are not there."""
    blocks = []
    for file in sorted((directory / "test" / kind).glob("*.md")):
        text = file.read_text(encoding="utf-8")
        titles = [(match.start(), match[1]) for match in _TITLE.finditer(text)]
        for match in _BLOCK.finditer(text):
            title = [name for start, name in titles if start < match.start()][-1]
            line = text.count("\n", 0, match.start()) + 1
            meta = json.loads(match[1])
            blocks.append(_block(f"{kind}/{file.stem}:{line} {title}", meta, _unescape(match[2]), match[3]))
    if not blocks:
        raise FileNotFoundError(f"no test/{kind}/*.md in {directory}")
    return blocks


def _unescape(text: str) -> bytes:
    """The bytes a block stands for, by the rules of llhttp's own reader of these files (test/md-test.ts)."""
    text = re.sub(r"\\(\r\n|\r|\n)", "", text)
    text = re.sub(r"\r\n|\r|\n", "\r\n", text)
    for escape, meant in (("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t"), ("\\f", "\f")):
        text = text.replace(escape, meant)
    text = re.sub(r"\\x([0-9a-fA-F]+)", lambda match: chr(int(match[1], 16)), text)
    text = re.sub(r"\\([0-7]{1,3})", lambda match: chr(int(match[1], 8)), text)
    text = re.sub(r"\$\{\s*'(.*?)'\.repeat\((\d+)\)\s*\}", lambda match: match[1] * int(match[2]), text)
    # What is left beyond one octet is text in UTF-8, as the file is.
    return text.encode("utf-8")


def _block(name: str, meta: dict[str, Any], data: bytes, log: str) -> Block:
    messages: list[Message] = []
    head: dict[str, bytes] = {}
    fields: list[bytes] = []
    body = b""
    state = ""  # "" = no message is open
    closes = False
    error = ""

    def close(complete: bool) -> None:
        nonlocal state
        if state:
            framed = {field.lower() for field in fields} & {b"content-length", b"transfer-encoding"}
            endless = not complete and state == "body" and not framed and "status" in head
            messages.append(Message(dict(head), tuple(fields), body, None if endless else complete, closes))
        state = ""

    for line in log.splitlines():
        offset = int(match[1]) if (match := re.match(r"off=(\d+)", line)) else 0
        if line.endswith("message begin"):
            close(False)
            state, body = "head", b""
            head.clear()
            fields.clear()
            head["begin"] = b"%d" % offset
        elif span := re.match(r"off=\d+ len=(\d+) span\[(\w+)\]", line):
            piece = data[offset : offset + int(span[1])]
            if span[2] == "body":
                body += piece
            elif span[2] == "header_field" and state == "head":
                fields.append(piece)
            elif span[2] in ("method", "url", "version", "status"):
                head[span[2]] = head.get(span[2], b"") + piece
                head.setdefault(f"{span[2]}@", b"%d" % offset)
        elif "headers complete" in line:
            state = "body"
            flags = re.search(r"v=1/(\d) flags=([0-9a-f]+)", line)
            closes = flags is not None and _closes(flags[1], int(flags[2], 16))
            if status := re.search(r"status=(\d+)", line):
                head["code"] = status[1].encode()
                head.setdefault("status", b"")
        elif line.endswith("message complete"):
            close(True)
        elif refusal := re.search(r'error code=(\d+) reason="(.*)"', line):
            error = "" if refusal[1] in _NO_REFUSAL else refusal[2]
            break
    close(False)
    return Block(name, meta["type"], data, tuple(messages), error, meta.get("skipBody", False))


def _closes(minor: str, flags: int) -> bool:
    """Whether a message ends its connection, by the flags llhttp has set: 1 = keep-alive, 2 = close."""
    return bool(flags & 2) or (minor == "0" and not flags & 1)


def request_case(block: Block) -> Case:
    """A request block as a case: its paths below ``/v1``, a Host where its messages have none.

    What llhttp refuses is severe. What only a lenient llhttp takes is ambiguous: refused, or exactly one reading.
    """
    data = block.data
    readings: list[Reading] = []
    closes = False
    for message in reversed(block.messages):
        data = _adapted(data, message)
    for message in block.messages:
        if not message.complete or closes or block.skips_body:
            break
        closes = message.closes
        target = message.head.get("url", b"").decode("latin-1")
        method = message.head.get("method", b"").decode("latin-1")
        readings.append(Reading(method, f"/v1{target}" if target.startswith("/") else target, message.body))
    whole = closes or (bool(block.messages) and all(message.complete for message in block.messages))
    if block.error and not closes and not block.is_lenient:
        tier = Tier.SEVERE
    else:
        tier = Tier.AMBIGUOUS if whole and not block.skips_body else Tier.WAITS
    return Case(block.name, data, tier, tuple(readings), closes=closes, may_stop=True)


def _adapted(data: bytes, message: Message) -> bytes:
    if "version@" in message.head and b"host" not in {field.lower() for field in message.fields}:
        end = int(message.head["version@"]) + len(message.head["version"])
        if data[end : end + 2] == b"\r\n":
            data = data[: end + 2] + b"Host: gateway.test\r\n" + data[end + 2 :]
    if "url@" in message.head and message.head["url"].startswith(b"/"):
        start = int(message.head["url@"])
        data = data[:start] + b"/v1" + data[start:]
    return data
