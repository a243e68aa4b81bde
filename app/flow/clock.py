"""When does an engine give a first token? Its steps, followed from outside.

One step decodes a token for each running sequence and spends what is left of its token budget on prompts,
first come first served (vLLM's chunked prefill). A first token and an end are seen when a step ends: they
set the clock, in between it runs on by the learnt length of a step.
"""

from __future__ import annotations

from app.flow.pace import StepPace
from app.flow.ticket import EngineMetrics

# Two times that are this close are one.
SAME_S = 1e-9
# Reports come about once a second.
MAX_SPAN_S = 30.0
# A prompt counts in the step that completes it: over fewer steps than this its tokens and its time are not of
# the same count. Steps that are so long are counted after a while all the same.
FEW_STEPS = 24
LONG_COUNT_S = 5.0
# Until something is known at all.
FEWEST_STEPS = 4
# Word of the end of a request comes over its gateway, but never so late.
MAX_LATE_S = 1.0
# Of an engine's own speed: two thirds of what is known are from the last seven counts.
SLOWNESS_SMOOTHING = 0.15


class EngineClock:
    """Where one engine is in its steps, and how many prompt tokens it has yet to compute.

    `running` is always the number of answers that the engine gives, prompts under way included.
    """

    __slots__ = (
        "_batched_tokens",
        "_before",
        "_bounds_s",
        "_chunk",
        "_counted",
        "_ended_s",
        "_follow",
        "_given",
        "_pace",
        "_slowness",
        "_started_s",
        "_step_s",
    )

    def __init__(self, pace: StepPace, batched_tokens: int, *, follow: bool = True) -> None:
        self._pace = pace
        self._batched_tokens = batched_tokens
        self._follow = follow
        # Prompt tokens given so far, computed before the present step, and in it.
        self._given = self._before = self._chunk = 0
        self._started_s = 0.0
        # How many times as long as the pace says its steps take: processors are shared, and clocks differ.
        self._slowness = 1.0
        # Length of a step without prompts, for as many as run.
        self._step_s = pace.step_s
        # Time and counters of the last report; None once the engine was idle since.
        self._counted: tuple[float, EngineMetrics] | None = None
        # When the last request ended, if no prompt is under way since.
        self._ended_s: float | None = None
        # Least and greatest length of a step without prompts, by the last report; None once a time between
        # two ends has taught the pace since.
        self._bounds_s: tuple[float, float] | None = None

    def give(self, tokens: int, running: int, now_s: float) -> int:
        """A prompt for the engine; the mark by which its first token is known again."""
        if running == 0:
            self._given = self._before
            self._chunk, self._counted, self._bounds_s = 0, None, None
            self._started_s = now_s
        self._run(running, now_s)
        self._ended_s = None
        self._given += tokens
        if now_s - self._started_s < SAME_S:
            self._begin(self._before, running, now_s)
        return self._given

    def take_back(self, mark: int, tokens: int) -> None:
        """A prompt was aborted before its first token: what is not begun of it is dropped."""
        begun = self._before + self._chunk
        self._given -= max(0, min(tokens, mark - begun, self._given - begun))

    def first_token(self, mark: int, running: int, now_s: float) -> None:
        """A step has ended, and all up to the mark is computed."""
        self._run(running, now_s)
        before = self._before
        if mark > before:
            just_begun = now_s - self._started_s < SAME_S
            before = min(self._given, max(mark, before if just_begun else before + self._chunk))
        self._begin(before, running, now_s)

    def ended(self, running: int, at_s: float, *, told: bool = True) -> None:
        """A step has ended: the present one or, if that is nearer, the one before it. Word of it may be late:
        of an earlier step nothing follows for the present one. `told`: by the engine, so that the time since
        another end is what the steps in between took."""
        self._run(running, at_s)
        if not told:
            self._ended_s = None
        elif self._bounds_s is not None and self._given == self._before:
            self._time(running, at_s, self._bounds_s)
        since_s = at_s - self._started_s
        # Else the clock was set back.
        if -MAX_LATE_S < since_s < -0.5 * self._step_s:
            return
        if since_s > self._length_s() - since_s:
            self._before += self._chunk
        self._begin(self._before, running, at_s)

    @property
    def waiting(self) -> bool:
        """Whether it has prompts that the present step does not complete."""
        return self._given > self._before + self._chunk

    def computed(self, mark: int) -> bool:
        """Whether the prompt of that mark is computed."""
        return self._before >= mark

    def ahead_s(self, running: int, now_s: float) -> float:
        """Until the prompts that it has are computed."""
        if running == 0:
            return 0.0
        self._run(running, now_s)
        ahead = self._given - self._before
        if ahead == 0:
            return 0.0
        if not self._follow:
            return self._slowness * self._pace.prefill_s(ahead, self._budget(running), running)
        left_s = self._started_s + self._length_s() - now_s
        later = ahead - self._chunk
        if not later:
            return left_s
        return left_s + self._slowness * self._pace.prefill_s(later, self._budget(running), running)

    def ttft_s(self, tokens: int, running: int, now_s: float) -> float:
        """Until the first token of a prompt of so many tokens, were it given now."""
        budget = self._budget(running)
        if running == 0:
            return self._slowness * self._pace.prefill_s(tokens, budget, running)
        self._run(running, now_s)
        ahead = self._given - self._before
        left_s = 0.0
        if not self._follow:
            return self._slowness * self._pace.prefill_s(ahead + tokens, budget, running)
        if now_s - self._started_s >= SAME_S:
            ahead -= self._chunk
            left_s = self._started_s + self._length_s() - now_s
        slowness, ahead = self._slowness, ahead + tokens
        return left_s + slowness * self._pace.shared_prefill_s(ahead, budget, running, left_s / slowness)

    def count(self, metrics: EngineMetrics, now_s: float) -> None:
        """The engine's counters teach the pace, as long as it is never idle."""
        last = self._counted
        if last is None or not metrics.running:
            self._counted = (now_s, metrics) if metrics.running else None
            return
        before_s, before = last
        steps, span_s = metrics.steps - before.steps, now_s - before_s
        enough = FEW_STEPS if self._pace.learnt else FEWEST_STEPS
        if steps < enough and 0.0 <= span_s < LONG_COUNT_S:
            return
        self._counted = (now_s, metrics)
        # Else the clock was set, or nobody listened.
        tokens = metrics.prompt_tokens - before.prompt_tokens
        if steps > 0 and tokens >= 0 and 0.0 < span_s <= MAX_SPAN_S:
            running = 0.5 * (metrics.running + before.running)
            ratio = self._pace.counted(steps, running, tokens, span_s, now_s, self._slowness)
            self._slowness += SLOWNESS_SMOOTHING * (ratio - self._slowness)
            prompts_s = self._slowness * self._pace.token_s * tokens
            self._bounds_s = ((span_s - prompts_s) / steps, span_s / steps)

    def _time(self, running: int, at_s: float, bounds_s: tuple[float, float]) -> None:
        """A step without prompts has ended: the time since another did teaches the pace."""
        since_s = self._ended_s
        self._ended_s = at_s
        if since_s is not None and self._pace.timed(running, at_s - since_s, bounds_s, self._slowness):
            self._bounds_s = None

    def _budget(self, running: int) -> int:
        budget = self._batched_tokens - running
        return budget if budget > 1 else 1

    def _length_s(self) -> float:
        return self._step_s + self._slowness * self._pace.token_s * self._chunk

    def _begin(self, before: int, running: int, now_s: float) -> None:
        self._before, self._started_s = before, now_s
        chunk = self._given - before
        if chunk:
            budget = self._budget(running)
            chunk = chunk if chunk < budget else budget
        self._chunk = chunk

    def _run(self, running: int, now_s: float) -> None:
        """Let the steps pass that have ended by now."""
        step_s = self._step_s = self._slowness * self._pace.length_s(running)
        if now_s - self._started_s < step_s:
            return
        while self._chunk or self._given > self._before:
            ends_s = self._started_s + self._length_s()
            if ends_s > now_s:
                return
            self._begin(self._before + self._chunk, running, ends_s)
        passed_s = now_s - self._started_s
        if passed_s > step_s:
            self._started_s += passed_s // step_s * step_s
