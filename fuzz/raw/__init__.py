"""From outside: mutated requests over sockets to a gateway in a process of its own, and an origin with a ledger.

``origin`` is the upstream, ``gateway`` runs ``sluice serve`` and reads its access log, ``client`` sends, ``book`` is
the account of both, ``attack`` joins them.
"""
