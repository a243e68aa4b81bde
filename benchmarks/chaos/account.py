"""What a run has shown: every request's outcome, and what was left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.chaos.client import Attempt, Fate

DETAIL_CHARS = 160
# An answer that took this long is worth a line.
SLOW_S = 5.0


@dataclass(slots=True)
class Account:
    """What a run has shown. `recovery_s`: from the fault to the first token of a request sent after it, the
    wait behind what was queued before it included."""

    cell: str
    seed: int
    requests: int = 0
    fates: dict[str, int] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)
    lost: int = 0
    truncated_silently: int = 0
    # Tokens twice, or another request's.
    different: int = 0
    # Sent before the fault and answered to the end.
    survived: int = 0
    # Leases and queued tickets that nobody gave back.
    leaked: int = 0
    settled_s: float | None = None
    # Errors of requests that had no first token: what a retry elsewhere should have hidden.
    failed_without_token: int = 0
    recovery_s: float | None = None
    # From the fault until every process was there again and all engines ready.
    restored_s: float | None = None
    longest_s: float = 0.0
    orphans: list[str] = field(default_factory=list)
    # Why it was not measured; then nothing above says anything.
    error: str = ""

    @property
    def clean(self) -> bool:
        """No request without exactly one outcome, nothing twice, nothing left."""
        return not (self.lost or self.truncated_silently or self.different or self.leaked or self.orphans)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def count(account: Account, attempts: Sequence[Attempt], at_s: float) -> None:
    """Every request's outcome; `at_s` is the fault's time."""
    account.requests = len(attempts)
    for attempt in attempts:
        fate = attempt.fate or Fate.LOST
        account.fates[fate.value] = account.fates.get(fate.value, 0) + 1
        account.lost += fate is Fate.LOST
        account.survived += fate is Fate.COMPLETED and attempt.sent_s <= at_s
        account.truncated_silently += fate is Fate.TRUNCATED
        account.different += fate is Fate.DIFFERENT
        account.failed_without_token += fate in (Fate.ERROR, Fate.BROKEN) and attempt.first_s is None
        account.longest_s = max(account.longest_s, (attempt.ended_s or time.monotonic()) - at_s)
        took_s = (attempt.ended_s or time.monotonic()) - attempt.sent_s
        if fate is not Fate.COMPLETED or took_s > SLOW_S:
            kind = "stream" if attempt.ask.stream else "whole"
            sent_s, ended_s = attempt.sent_s - at_s, (attempt.ended_s or 0.0) - at_s
            seen = f"{fate.value} {kind} from {sent_s:.1f} to {ended_s:.1f} s, {attempt.chunks} chunks"
            account.details.append(f"{seen}: {attempt.detail}"[:DETAIL_CHARS])
