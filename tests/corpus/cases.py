"""The cases of our own: the YAML files beside this one, made into bytes.

A file is a list of cases. A case has a ``name`` and either ``raw``, all its bytes, or their parts: ``start`` (the
request line), ``host`` (the line put in front of the others; empty = none), ``lines`` and ``body``. ``expect`` is a
`Tier`; ``seen`` is what the upstream may see of it, by default the request as it stands with ``payload`` as its body.
Text stands for bytes in Latin-1.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import yaml

from tests.support.corpus import Case, Reading, Tier

HERE = Path(__file__).parent
FILES = ("smuggling.yaml", "malformed.yaml", "limits.yaml", "compliant.yaml")
_START = "POST /v1/case HTTP/1.1"
_HOST = "Host: gateway.test"


def load(name: str) -> Any:
    """One file of data."""
    return yaml.safe_load((HERE / name).read_text(encoding="utf-8"))


def own_cases() -> list[Case]:
    """Every request of ours, the Transfer-Encoding sweep last."""
    cases = [make(entry, name.removesuffix(".yaml")) for name in FILES for entry in load(name)]
    return cases + list(sweep(load("transfer_encodings.yaml")))


def make(entry: dict[str, Any], group: str) -> Case:
    """One case from its entry."""
    known = {"name", "raw", "start", "host", "lines", "body", "payload", "repeat"}
    known |= {"expect", "seen", "status", "closes", "by_rule"}
    if unknown := set(entry) - known:
        raise ValueError(f"{group}: {entry['name']} has unknown keys {unknown}")
    tier = Tier(entry["expect"])
    start = entry.get("start", _START)
    data = entry["raw"].encode("latin-1") if "raw" in entry else _bytes_of(start, entry)
    if "seen" in entry:
        readings = tuple(_reading_of(**seen) for seen in entry["seen"])
    elif tier in (Tier.SEVERE, Tier.WAITS) or "by_rule" in entry:
        readings = ()
    else:
        method, target, _ = start.split(" ")
        readings = (_reading_of(method, target, entry.get("payload", "")),)
    status = entry.get("status", ())
    return Case(
        name=f"{group}: {entry['name']}",
        data=data,
        tier=tier,
        readings=readings,
        statuses=tuple(status) if isinstance(status, list | tuple) else (status,),
        by_rule=entry.get("by_rule", ""),
        closes=entry.get("closes", False),
    )


def _reading_of(method: str = "POST", target: str = "/v1/case", body: str = "") -> Reading:
    return Reading(method, target, body.encode("latin-1"))


def _bytes_of(start: str, entry: dict[str, Any]) -> bytes:
    host = entry.get("host", _HOST)
    lines = [start, *([host] if host else []), *entry.get("lines", ())]
    text: str = "\r\n".join([*lines, "", ""]) + entry.get("body", "")
    for mark, (filler, times) in entry.get("repeat", {}).items():
        text = text.replace(mark, filler * times)
    return text.encode("latin-1")


def sweep(data: dict[str, Any]) -> list[Case]:
    """Each octet at each place of a Transfer-Encoding line, and each odd value, alone and beside a Content-Length.

    Beside the ``legal`` ones, which are one chunked body, and the ``ordinary`` ones, which are other fields' names,
    all are refused, whatever a Content-Length says.
    """
    lines = {line: (line, "") for line in data["lines"]}
    for (place, text), octet in product(data["places"].items(), data["octets"]):
        kind = next((kind for kind in ("legal", "ordinary", "strict") if octet in data[kind].get(place, ())), "")
        lines[f"{octet!r} {place}"] = (text.replace("@", octet), kind)
    cases = []
    for (name, (line, kind)), beside in product(lines.items(), ("", "Content-Length: 5")):
        entry: dict[str, Any] = {
            "name": f"{name}{' and a length' if beside else ''}",
            "lines": [line, *([beside] if beside else [])],
            "body": "0\r\n\r\n",
            "expect": "severe",
        }
        if kind == "legal" and not beside:
            entry["expect"] = "compliant"
        elif kind == "strict" and not beside:
            entry |= {"expect": "compliant", "by_rule": data["why_strict"], "status": 400}
        elif kind == "ordinary" and beside:
            entry |= {"expect": "compliant", "payload": "0\r\n\r\n"}
        elif kind == "ordinary":
            entry["seen"] = [{}]
        cases.append(make(entry, "transfer_encodings"))
    return cases
