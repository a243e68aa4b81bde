"""When does an engine give a first token? Its steps, followed from outside.

One step decodes a token for each running sequence and spends what is left of its token budget on prompts,
first come first served (vLLM's chunked prefill). A first token and an end are seen when a step ends: they
set the clock, in between it runs on by the learnt length of a step.
"""

from __future__ import annotations

import math

from app.flow.ticket import EngineMetrics

# Below this share of the product of squares the samples lie on one ray: only one coefficient can be told.
MIN_DETERMINANT = 1e-6
# Two times that are this close are one.
SAME_S = 1e-9
# A step that takes no time would never end.
MIN_STEP_S = 1e-4
# Reports come about once a second.
MAX_SPAN_S = 30.0
# Of the prompts that come meanwhile, about half find an engine that is less busy.
JOINING_SHARE = 0.5


class StepPace:
    """Length of a step = step_s + token_s x prompt tokens in it, by decayed least squares over all engines.

    A sample is what an engine's counters moved by between two reports, over the time between them.
    """

    __slots__ = ("_keep", "_py", "_sp", "_ss", "_sy", "_tt", "learnt_s", "step_s", "token_s", "tokens_per_s")

    def __init__(self, step_s: float, token_s: float, smoothing: float) -> None:
        self.step_s, self.token_s = step_s, token_s
        # Prompt tokens that an engine gets each second.
        self.tokens_per_s = 0.0
        # The time of the first sample: what was predicted before came of initial values.
        self.learnt_s = -math.inf
        self._keep = 1.0 - smoothing
        self._ss = self._sp = self._tt = self._sy = self._py = 0.0

    def add(self, steps: int, prompt_tokens: int, span_s: float, now_s: float) -> None:
        if self._ss == 0:
            self.learnt_s = now_s
        keep = self._keep
        self.tokens_per_s += (1.0 - keep) * (prompt_tokens / span_s - self.tokens_per_s)
        self._ss = keep * self._ss + steps * steps
        self._sp = keep * self._sp + steps * prompt_tokens
        self._tt = keep * self._tt + prompt_tokens * prompt_tokens
        self._sy = keep * self._sy + steps * span_s
        self._py = keep * self._py + prompt_tokens * span_s
        determinant = self._ss * self._tt - self._sp * self._sp
        if determinant > MIN_DETERMINANT * self._ss * self._tt:
            self.token_s = max(0.0, (self._ss * self._py - self._sp * self._sy) / determinant)
        self.step_s = max(MIN_STEP_S, (self._sy - self.token_s * self._sp) / self._ss)

    def prefill_s(self, tokens: float, budget: int) -> float:
        """Time to compute so many prompt tokens in steps that hold `budget` of them."""
        return _steps(tokens, budget) * self.step_s + self.token_s * tokens

    def shared_prefill_s(self, tokens: float, budget: int, left_s: float) -> float:
        """The same, when prompts that come before the last step, in `left_s` and later, fill it up."""
        steps = _steps(tokens, budget)
        before_last_s = left_s + (steps - 1) * (self.step_s + self.token_s * budget)
        joining = JOINING_SHARE * self.tokens_per_s * before_last_s
        room = steps * budget - tokens
        return steps * self.step_s + self.token_s * (tokens + (joining if joining < room else room))


def _steps(tokens: float, budget: int) -> int:
    """Steps that prompts of so many tokens take, `budget` tokens each; at least one."""
    return math.ceil(tokens / budget) if tokens > budget else 1


class EngineClock:
    """Where one engine is in its steps, and how many prompt tokens it has yet to compute.

    `running` is always the number of requests in the engine, prompts under way included.
    """

    __slots__ = (
        "_batched_tokens",
        "_before",
        "_chunk",
        "_counted",
        "_follow",
        "_given",
        "_pace",
        "_started_s",
    )

    def __init__(self, pace: StepPace, batched_tokens: int, *, follow: bool = True) -> None:
        self._pace = pace
        self._batched_tokens = batched_tokens
        self._follow = follow
        # Prompt tokens given so far, computed before the present step, and in it.
        self._given = self._before = self._chunk = 0
        self._started_s = 0.0
        # Time, steps and prompt tokens of the last report; None once the engine was idle since.
        self._counted: tuple[float, int, int] | None = None

    def give(self, tokens: int, running: int, now_s: float) -> int:
        """A prompt for the engine; the mark by which its first token is known again."""
        if running == 0:
            self._given = self._before
            self._chunk, self._counted = 0, None
            self._started_s = now_s
        self._run(running, now_s)
        self._given += tokens
        if now_s - self._started_s < SAME_S:
            self._begin(self._before, running, now_s)
        return self._given

    def take_back(self, mark: int, tokens: int) -> None:
        """A prompt was aborted before its first token: what is not begun of it is dropped."""
        self._given -= max(0, min(tokens, mark - self._before - self._chunk))

    def first_token(self, mark: int, running: int, now_s: float) -> None:
        """A step has ended, and all up to the mark is computed."""
        self._run(running, now_s)
        before = self._before
        if mark > before:
            just_begun = now_s - self._started_s < SAME_S
            before = min(self._given, max(mark, before if just_begun else before + self._chunk))
        self._begin(before, running, now_s)

    def ended(self, running: int, now_s: float) -> None:
        """A step has ended: the present one or, if that is nearer, the one before it."""
        self._run(running, now_s)
        since_s = now_s - self._started_s
        if since_s > self._length_s() - since_s:
            self._before += self._chunk
        self._begin(self._before, running, now_s)

    @property
    def waiting(self) -> bool:
        """Whether it has prompts that the present step does not complete."""
        return self._given > self._before + self._chunk

    def ahead_s(self, running: int, now_s: float) -> float:
        """Until the prompts that it has are computed."""
        if running == 0:
            return 0.0
        self._run(running, now_s)
        ahead = self._given - self._before
        if ahead == 0:
            return 0.0
        if not self._follow:
            return self._pace.prefill_s(ahead, self._budget(running))
        left_s = self._started_s + self._length_s() - now_s
        later = ahead - self._chunk
        return left_s + self._pace.prefill_s(later, self._budget(running)) if later else left_s

    def ttft_s(self, tokens: int, running: int, now_s: float) -> float:
        """Until the first token of a prompt of so many tokens, were it given now."""
        budget = self._budget(running)
        if running == 0:
            return self._pace.prefill_s(tokens, budget)
        self._run(running, now_s)
        ahead = self._given - self._before
        left_s = 0.0
        if not self._follow:
            return self._pace.prefill_s(ahead + tokens, budget)
        if now_s - self._started_s >= SAME_S:
            ahead -= self._chunk
            left_s = self._started_s + self._length_s() - now_s
        return left_s + self._pace.shared_prefill_s(ahead + tokens, budget, left_s)

    def count(self, metrics: EngineMetrics, now_s: float) -> None:
        """The engine's counters teach the pace, as long as it is never idle."""
        last = self._counted
        self._counted = (now_s, metrics.steps, metrics.prompt_tokens) if metrics.running else None
        if last is None or self._counted is None or metrics.steps <= last[1]:
            return
        # Else the clock was set, or nobody listened.
        if 0.0 < now_s - last[0] <= MAX_SPAN_S:
            self._pace.add(metrics.steps - last[1], metrics.prompt_tokens - last[2], now_s - last[0], now_s)

    def _budget(self, running: int) -> int:
        budget = self._batched_tokens - running
        return budget if budget > 1 else 1

    def _length_s(self) -> float:
        return self._pace.step_s + self._pace.token_s * self._chunk

    def _begin(self, before: int, running: int, now_s: float) -> None:
        self._before, self._started_s = before, now_s
        chunk = self._given - before
        if chunk:
            budget = self._budget(running)
            chunk = chunk if chunk < budget else budget
        self._chunk = chunk

    def _run(self, running: int, now_s: float) -> None:
        """Let the steps pass that have ended by now."""
        if now_s - self._started_s < self._pace.step_s:
            return
        while self._chunk or self._given > self._before:
            ends_s = self._started_s + self._length_s()
            if ends_s > now_s:
                return
            self._begin(self._before + self._chunk, running, ends_s)
        passed_s = now_s - self._started_s
        if passed_s > self._pace.step_s:
            self._started_s += passed_s // self._pace.step_s * self._pace.step_s
