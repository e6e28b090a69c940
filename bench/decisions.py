"""What a decision costs (`python -m bench.decisions`): one that is remembered, one by Cedar, the door's calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from roost.authz.door import Door
from roost.authz.policy.policies import Policies, encode
from roost.authz.principal import Caller, Origin, Principal
from roost.engines.memory import Memory
from roost.feed.bulletin import Bulletin
from roost.feed.definitions import Definitions
from roost.feed.hub import Hub
from roost.settings import Settings

ROUNDS = 5
CALLS = 100_000
MISSES = 1_000
OWN = "\n".join(
    f'permit(principal == User::"u{number}", action == Action::"read", resource in User::"v{number}") '
    "when { context has purpose && context.hour > 3 };"
    for number in range(100)
)


def microseconds(call: Callable[[], object], calls: int = CALLS) -> float:
    """The least processor time that a call took on average, of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(calls):
            call()
        best = min(best, (time.process_time() - began) / calls)
    return best * 1e6


def measure(title: str, policies: Policies, door: Door) -> None:
    """Print what one set of policies costs."""
    ada = Caller(Principal("user", "ada"), Origin("10.0.0.1"))
    scoped = Caller(Principal("service", "shop", scopes=frozenset({"notes:write"})), Origin("10.0.0.1"))
    question = policies._compiled.question(ada, "read", "ada", "notes", "personal", 0.0)  # noqa: SLF001  # a miss, made by hand
    print(f"{title}, µs a call")
    for name, cost in (
        ("decided by Cedar", microseconds(lambda: policies._compiled.ask(question), MISSES)),  # noqa: SLF001
        ("remembered", microseconds(lambda: policies.decide(ada, "read", "ada", "notes", "personal"))),
        ("a read through the door", microseconds(lambda: door.read(ada, "ada", "notes"))),
        ("a write through the door", microseconds(lambda: door.enter(ada, "write", "ada", "notes"))),
        ("a write with a scope", microseconds(lambda: door.enter(scoped, "write", "ada", "notes"))),
    ):
        print(f"  {name:<26}{cost:8.2f}")


def main() -> None:
    """Measure what ships, then with a hundred policies more."""
    bulletin = Bulletin(Memory(), Hub(1), timeout_s=1)
    bulletin._seq = 0  # noqa: SLF001  # as if it had been read
    policies = Policies("local", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    door = Door(policies, Definitions(bulletin, Settings()))
    measure("What ships", policies, door)
    policies.learn({"own": encode({"text": OWN})}, anew=False)
    measure("And 100 policies more", policies, door)


if __name__ == "__main__":
    main()
