"""Whom a limit counts: from an exchange to the claims it makes on one rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from proxy.core.address import UNIX, Network, Networks, parse_address, parse_network, subject_key
from proxy.core.exchange import Exchange, Route
from proxy.core.rate import Claim, Claims, Rule
from proxy.stages.limit_rules import ADDRESS, By, LimitRule
from proxy.stages.subject_names import CHAT_PATH, KEY_DIGITS, KEY_PREFIX, key_id, path_of

__all__ = ["CHAT_PATH", "KEY_DIGITS", "Subjects", "key_id", "path_of"]

_Rules = tuple[Rule, Rule]
"""(for a subject, for the address that unverified keys come from)"""


class Subjects:
    """One limit of a stage: its rules, its exceptions, and how its subjects are called.

    ``counts``: somebody is limited. ``needs_credential``: it can only be asked once the key is resolved.
    ``is_by_address``: its claims depend on the client's address alone.
    """

    def __init__(self, name: str, config: LimitRule) -> None:
        self.name = name
        self.parts: tuple[By, ...] = config.parts
        # Keys that clients bring are verified by nobody before they are used: whoever makes up one for each request
        # has one address all the same.
        self.address_parts: tuple[By, ...] = ()
        if "credential" in self.parts:
            self.address_parts = tuple(sorted({*self.parts, "client_ip"} - {"credential"}))
        self._address_name = address_name = f"{name}.{ADDRESS}"
        self._everybody: _Rules = config.rule(name), config.rule(address_name, times=config.keys_per_ip)
        # Each by what it was written as, for those who explain.
        self._overrides: dict[str, _Rules] = {
            written: (config.rule(name, o), config.rule(address_name, o, config.keys_per_ip))
            for written, o in config.overrides.items()
        }
        self._exempt = Exceptions(config.exempt)
        self._special = Exceptions(config.overrides)
        if self._special.has_addresses and "client_ip" not in self.parts:
            _share_accounts([rules[0] for rules in (self._everybody, *self._overrides.values())])
        self._address = subject_key(config.ipv6_prefix)
        rules = [rules[0] for rules in (self._everybody, *self._overrides.values())]
        self.counts = any(rule.windows for rule in rules)
        self.needs_credential = "credential" in self.parts or self._exempt.has_keys
        self.is_by_address = self.parts == ("client_ip",) and not self.needs_credential

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Everybody's rules, in the order they are claimed."""
        rules = self._everybody if self.address_parts else self._everybody[:1]
        return tuple([rule for rule in rules if rule.windows])

    def claims(self, exchange: Exchange) -> Claims:
        """What this request claims; nothing if it is not limited."""
        return self._claims(*self._known(exchange))

    def claims_of_address(self, client_ip: str) -> Claims:
        """The same where the address alone decides."""
        return self._claims(client_ip, None, "")

    def claims_of(self, given: Mapping[str, str]) -> Iterator[Claim]:
        """The claims of the subject with these parts, if they name one of this limit's.

        ``given`` has ``client_ip`` as an address, ``credential`` as `key_id` gives it, ``path`` as `path_of` does.
        """
        client_ip, key, path = given.get("client_ip", ""), given.get("credential"), given.get("path", "")
        for index, parts in enumerate((self.parts, self.address_parts)):
            if parts and set(given) == set(parts):
                rule = self._rules(client_ip, key, path)[index]
                if rule.windows:
                    yield Claim(rule, self._subject(parts, client_ip, key, path))

    def _known(self, exchange: Exchange) -> tuple[str, str | None, str]:
        """(address, the client's own key or None, path)"""
        key = None
        if self.needs_credential and exchange.credential_source == "client" and exchange.credential is not None:
            key = key_id(exchange.credential)
        path = ""
        if "path" in self.parts:
            path = CHAT_PATH if exchange.route is Route.CHAT else path_of(exchange.target)
        return exchange.client_ip, key, path

    def _claims(self, client_ip: str, key: str | None, path: str) -> Claims:
        if self._exempt and (self._exempt.key(key) or self._exempt.address(client_ip)):
            return ()
        rule, of_address = self._rules(client_ip, key, path)
        claims: list[Claim] = []
        # A caller without a key of his own is known by his address only.
        if rule.windows and (key is not None or not self.address_parts):
            claims.append(Claim(rule, self._subject(self.parts, client_ip, key, path)))
        # A key that the operator has given numbers of its own is not one that somebody made up.
        if self.address_parts and of_address.windows and not self._special.key(key):
            claims.append(Claim(of_address, self._subject(self.address_parts, client_ip, None, path)))
        return tuple(claims)

    def _subject(self, parts: tuple[By, ...], client_ip: str, key: str | None, path: str) -> str:
        if parts == ("client_ip",):
            return self._address(client_ip)
        # Only the last of them, the path, can hold blanks: no two subjects are called the same.
        values = {"client_ip": self._address(client_ip) if client_ip else "", "credential": key or "", "path": path}
        return " ".join([values[part] for part in parts])

    def _rules(self, client_ip: str, key: str | None, path: str) -> _Rules:
        """Everybody's rules, or those of the most particular override: of the key, else the address, else the path.

        What is said of a key says nothing about the address it comes from.
        """
        if not self._overrides:
            return self._everybody
        place = self._special.address(client_ip) or self._special.path(path)
        rule, of_address = self._overrides[place] if place else self._everybody
        own = self._special.key(key)
        return (self._overrides[own][0] if own else rule), of_address

    def explain(self, exchange: Exchange) -> str:
        """Which windows apply to whom, and why to him."""
        client_ip, key, path = self._known(exchange)
        by_key, by_address = self._exempt.key(key), self._exempt.address(client_ip)
        if by_key or by_address:
            return f"the key is exempt ({by_key})" if by_key else f"{client_ip} is exempt ({by_address})"
        claims = self._claims(client_ip, key, path)
        if not claims:
            return f"{_called(self.parts, client_ip, key, path)} has no limit{self._origin(client_ip, key, path)}"
        return ", and ".join(self._explain(claim, client_ip, key, path) for claim in claims)

    def _explain(self, claim: Claim, client_ip: str, key: str | None, path: str) -> str:
        is_address = claim.rule.name == self._address_name
        who = _called(self.address_parts if is_address else self.parts, client_ip, key, path)
        verb = "is asked at most" if self.parts == ("path",) else "may send"
        limits = ", ".join(f"{window.limit} per {window.name}" for window in claim.rule.windows)
        return f"{who} {verb} {limits}{self._origin(client_ip, None if is_address else key, path)}"

    def _origin(self, client_ip: str, key: str | None, path: str) -> str:
        """Which override the numbers are from."""
        found = self._special.key(key) or self._special.address(client_ip) or self._special.path(path)
        return f" (overrides: {found})" if found else ""

    def __repr__(self) -> str:
        return f"<Subjects {self._everybody[0]!r} by {'+'.join(self.parts)}>"


class Exceptions:
    """Some of the subjects, as an operator lists them; each is found as it was written, or not: ""."""

    def __init__(self, written: Iterable[str]) -> None:
        self._keys: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        self._networks: dict[Network, str] = {}
        self._unix = ""
        for entry in written:
            if entry == UNIX:
                self._unix = UNIX
            elif entry.startswith(KEY_PREFIX):
                self._keys[entry.removeprefix(KEY_PREFIX)[:KEY_DIGITS]] = entry
            elif entry.startswith("/"):
                self._paths[path_of(entry.encode("utf-8"))] = entry
            else:
                self._networks[parse_network(entry)] = entry
        # The narrowest first: the most particular word counts.
        self._by_width = Networks(sorted(self._networks, key=lambda network: -network.prefixlen))
        self.has_keys = bool(self._keys)
        self.has_addresses = bool(self._networks or self._unix)

    def key(self, key: str | None) -> str:
        """The entry of a key, by its `key_id`."""
        return self._keys.get(key, "") if key is not None else ""

    def path(self, path: str) -> str:
        """The entry of a path, as `path_of` gives it."""
        return self._paths.get(path, "")

    def address(self, client_ip: str) -> str:
        """The entry of an address; "" is none."""
        if client_ip == UNIX or not client_ip:
            return self._unix if client_ip else ""
        network = self._by_width.find(parse_address(client_ip)) if self._networks else None
        return "" if network is None else self._networks[network]

    def __bool__(self) -> bool:
        return self.has_keys or self.has_addresses or bool(self._paths)

    def __repr__(self) -> str:
        return f"<Exceptions {len(self._networks)} networks, {len(self._keys)} keys, {len(self._paths)} paths>"


def _share_accounts(rules: list[Rule]) -> None:
    """Let these rules ask the same accounts by turns: none may forget what another still needs."""
    capacity = max(rule.capacity for rule in rules)
    longest_s = max(rule.longest_s for rule in rules)
    for rule in rules:
        rule.capacity, rule.longest_s, rule.crowd = capacity, longest_s, ""


def _called(parts: tuple[By, ...], client_ip: str, key: str | None, path: str) -> str:
    # Of a key only that it was given: even its hash tells a reader of the terminal whether he knows it.
    words = {"client_ip": client_ip, "credential": "the key" if key else "a key", "path": path}
    return " on ".join(words[part] for part in sorted(parts, key=["credential", "client_ip", "path"].index))
