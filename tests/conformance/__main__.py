"""Run Tornado's own tests on our wire and print the counts: ``python -m tests.conformance``.

Ends with 1 if a test fails that is not listed, or one passes that is.
"""

from __future__ import annotations

import sys
import warnings

import tornado

from tests.conformance.differences import DIFFERENCES
from tests.conformance.suite import LEFT_OUT, LOOPS, MODULES, TESTS, play


def main() -> int:
    """Print one paragraph for each loop."""
    # As in the configuration of our own tests; the two are what Tornado's test cases themselves cause.
    warnings.simplefilter("error")
    for deprecated in ("make_current", "clear_current"):
        warnings.filterwarnings("ignore", f"{deprecated} is deprecated", DeprecationWarning)
    listed = {name for difference in DIFFERENCES for name in difference.tests}
    is_as_listed = True
    _say(f"Tornado {tornado.version}: {', '.join(MODULES)}; {len(LEFT_OUT)} tests that Tornado leaves out itself")
    for loop in LOOPS:
        outcomes = {name: play(name, loop=loop) for name in TESTS}
        failed = {name for name, outcome in outcomes.items() if outcome.trouble}
        spoke = sum(outcome.connections > 0 for outcome in outcomes.values())
        connections = sum(outcome.connections for outcome in outcomes.values())
        _say(
            f"\n{loop}: {len(outcomes)} run, {spoke} of them over {connections} connections to our wire; "
            f"{len(outcomes) - len(failed)} passed, {len(failed)} failed, {len(failed & listed)} of these as listed"
        )
        for name in sorted(failed - listed):
            _say(f"NOT LISTED {name}\n{outcomes[name].trouble}")
        for name in sorted(listed - failed):
            _say(f"LISTED, BUT PASSES {name}")
        is_as_listed = is_as_listed and failed == listed
    _say("")
    for difference in DIFFERENCES:
        _say(f"{len(difference.tests):3} {difference.reason}")
    return 0 if is_as_listed else 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
