"""Were the promises kept? Judges every request at its end, and counts by class over sliding windows.

Four promises, each judged only where the request can say something of it
  answered  what the application could have served was answered; not judged: clients that leave, requests that
            never fit, tenants beyond their own limits
  ttft      the first token came within the budget (the class's, tightened by the request)
  tpot      the mean gap between tokens stayed within `limit.itl_budget_s`
  e2e       the last token came before the deadline, where there is one
What is refused counts against `answered` alone: it was told at once and has no other promise to break. The
error budget of a window is what the class's objective lets be broken in it (The Site Reliability Workbook,
chapter 5).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from app.flow.config import ClassPolicy, FlowConfig
from app.flow.endings import Ended
from app.flow.outcome import Outcome

# Its own doing, or its own limits: says nothing of the application.
CLIENTS_OWN = frozenset(
    {
        Outcome.CANCELLED,
        Outcome.ENGINE_REFUSED,
        Outcome.REJECTED_REQUEST_RATE,
        Outcome.REJECTED_TOKEN_RATE,
        Outcome.REJECTED_TENANT_QUEUED,
        Outcome.REJECTED_TENANT_BYTES,
    }
)
PROMISES = ("answered", "ttft", "tpot", "e2e")
# A window ends so many grains back: 2 % of the shortest.
GRAINS_A_WINDOW = 50


def judged(ended: Ended, tpot_budget_s: float) -> Iterator[tuple[str, bool]]:
    """Each promise that this end says something of, and whether it was kept."""
    if ended.outcome not in CLIENTS_OWN:
        yield "answered", ended.outcome is Outcome.COMPLETED
    if ended.outcome.refuses:
        return
    if ended.ttft_s is not None:
        yield "ttft", ended.ttft_s <= ended.ttft_budget_s
    elif ended.outcome is not Outcome.COMPLETED and ended.total_s > ended.ttft_budget_s:
        yield "ttft", False
    tpot_s = ended.tpot_s
    if tpot_s is not None:
        yield "tpot", tpot_s <= tpot_budget_s
    if ended.total_s > ended.deadline_s:
        yield "e2e", False
    elif ended.deadline_s < math.inf and ended.outcome is Outcome.COMPLETED:
        yield "e2e", True


class SlidingCounts:
    """How often something was kept, and judged, over the last `longest_s`, to within one grain.

    Bounded: one pair of counts a grain. A clock that is set back adds to the newest grain.
    """

    __slots__ = ("_grain_s", "_grains")

    def __init__(self, longest_s: float, grain_s: float) -> None:
        self._grain_s = grain_s
        # Number of the grain, kept, total; oldest first.
        self._grains: deque[list[int]] = deque(maxlen=math.ceil(longest_s / grain_s) + 1)

    def add(self, kept: bool, now_s: float) -> None:
        number = math.floor(now_s / self._grain_s)
        if not self._grains or self._grains[-1][0] < number:
            self._grains.append([number, 0, 0])
        newest = self._grains[-1]
        newest[1] += kept
        newest[2] += 1

    def over(self, window_s: float, now_s: float) -> tuple[int, int]:
        """Kept and total of a window that ends now; at most the longest."""
        first = math.floor((now_s - window_s) / self._grain_s)
        kept = total = 0
        for number, kept_then, total_then in reversed(self._grains):
            if number <= first:
                break
            kept += kept_then
            total += total_then
        return kept, total


class Standing(NamedTuple):
    """A promise of a class over a window that has judged something: `total` is at least 1."""

    class_name: str
    promise: str
    window_s: float
    kept: int
    total: int
    objective: float

    @property
    def attainment(self) -> float:
        return self.kept / self.total

    @property
    def burn_rate(self) -> float:
        """1 uses up the error budget exactly; 10 in a tenth of the time."""
        return (1.0 - self.attainment) / (1.0 - self.objective)

    @property
    def budget_left(self) -> float:
        """Share of the window's error budget that is left; negative when it is overdrawn."""
        return 1.0 - self.burn_rate


class SloRecord:
    """All promises of all classes."""

    def __init__(self, config: FlowConfig) -> None:
        self._windows_s = config.slo.windows_s
        self._tpot_budget_s = config.limit.itl_budget_s
        self._policies: dict[str, ClassPolicy] = {policy.name: policy for policy in config.classes}
        longest_s, grain_s = max(self._windows_s), min(self._windows_s) / GRAINS_A_WINDOW
        self._counts = {
            (name, promise): SlidingCounts(longest_s, grain_s)
            for name in self._policies
            for promise in PROMISES
        }

    def add(self, ended: Ended) -> list[tuple[str, bool]]:
        """Count it; answers with what it was judged on."""
        if ended.class_name not in self._policies:
            return []
        verdicts = list(judged(ended, self._tpot_budget_s))
        for promise, kept in verdicts:
            self._counts[ended.class_name, promise].add(kept, ended.at_s)
        return verdicts

    def standings(self, now_s: float) -> list[Standing]:
        """One for each class, promise and window in which something was judged; most urgent class first."""
        found = []
        for (name, promise), counts in self._counts.items():
            objective = self._policies[name].objective
            for window_s in self._windows_s:
                kept, total = counts.over(window_s, now_s)
                if total:
                    found.append(Standing(name, promise, window_s, kept, total, objective))
        return found
