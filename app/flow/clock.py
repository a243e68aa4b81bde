"""When does an engine give a first token? Its steps, followed from outside.

One step decodes a token for each running sequence and spends what is left of its token budget on prompts
(`prompts.py`). A first token and an end are seen when a step ends: they set the clock, in between it runs on
by the learnt length of a step.
"""

from __future__ import annotations

from app.flow.pace import StepPace
from app.flow.prompts import PromptLine
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
        "_bounds_s",
        "_counted",
        "_ended_s",
        "_follow",
        "_pace",
        "_prompts",
        "_slowness",
        "_started_s",
        "_step_s",
    )

    def __init__(
        self, pace: StepPace, batched_tokens: int, share: int | None = None, *, follow: bool = True
    ) -> None:
        """`share`: most tokens of one prompt in a step."""
        self._pace = pace
        self._batched_tokens = batched_tokens
        self._follow = follow
        self._prompts = PromptLine(share)
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
            self._prompts.clear()
            self._counted = self._bounds_s = None
            self._started_s = now_s
        self._run(running, now_s)
        self._ended_s = None
        mark = self._prompts.add(tokens)
        if now_s - self._started_s < SAME_S:
            self._begin(running, now_s)
        return mark

    def take_back(self, mark: int) -> None:
        """A prompt was aborted before its first token: what is not begun of it is dropped."""
        self._prompts.drop(mark)

    def first_token(self, mark: int, running: int, now_s: float) -> None:
        """A step has ended, and the prompt of that mark is computed."""
        self._run(running, now_s)
        if not self._prompts.computed(mark):
            if now_s - self._started_s >= SAME_S:
                self._prompts.end()
            self._prompts.reached(mark)
        self._begin(running, now_s)

    def ended(self, running: int, at_s: float, *, told: bool = True) -> None:
        """A step has ended: the present one or, if that is nearer, the one before it. Word of it may be late:
        of an earlier step nothing follows for the present one. `told`: by the engine, so that the time since
        another end is what the steps in between took."""
        self._run(running, at_s)
        if not told:
            self._ended_s = None
        elif self._bounds_s is not None and not self._prompts.left:
            self._time(running, at_s, self._bounds_s)
        since_s = at_s - self._started_s
        # Else the clock was set back.
        if -MAX_LATE_S < since_s < -0.5 * self._step_s:
            return
        if since_s > self._length_s() - since_s:
            self._prompts.end()
        self._begin(running, at_s)

    @property
    def waiting(self) -> bool:
        """Whether it has prompts that the present step does not complete."""
        return self._prompts.waiting

    def computed(self, mark: int) -> bool:
        """Whether the prompt of that mark is computed."""
        return self._prompts.computed(mark)

    def delay_s(self, tokens: int, running: int, now_s: float) -> float:
        """By how much its prompts delay whoever comes next, one of so many `tokens` added to them."""
        if running == 0:
            return 0.0
        self._run(running, now_s)
        if not self._prompts.left:
            return 0.0
        left_s = self._started_s + self._length_s() - now_s if self._follow else 0.0
        steps, others = self._prompts.before(tokens, self._budget(running), later=self._follow)
        if not others:
            return left_s
        return left_s + self._slowness * self._pace.prefill_s(others, steps, running)

    def ttft_s(self, tokens: int, running: int, now_s: float) -> float:
        """Until the first token of a prompt of so many tokens, were it given now."""
        slowness, budget = self._slowness, self._budget(running)
        if running == 0:
            steps = self._prompts.alone(tokens, budget)
            return slowness * self._pace.prefill_s(tokens, steps, running)
        self._run(running, now_s)
        begun = self._follow and now_s - self._started_s >= SAME_S
        steps, others = self._prompts.beside(tokens, budget, later=begun)
        total = others + tokens
        if not self._follow:
            return slowness * self._pace.prefill_s(total, steps, running)
        left_s = self._started_s + self._length_s() - now_s if begun else 0.0
        return left_s + slowness * self._pace.shared_prefill_s(
            total, steps, budget, running, left_s / slowness
        )

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
        return self._step_s + self._slowness * self._pace.token_s * self._prompts.chunk

    def _begin(self, running: int, now_s: float) -> None:
        self._started_s = now_s
        self._prompts.begin(self._budget(running))

    def _run(self, running: int, now_s: float) -> None:
        """Let the steps pass that have ended by now."""
        step_s = self._step_s = self._slowness * self._pace.length_s(running)
        if now_s - self._started_s < step_s:
            return
        while self._prompts.left:
            ends_s = self._started_s + self._length_s()
            if ends_s > now_s:
                return
            self._prompts.end()
            self._begin(running, ends_s)
        passed_s = now_s - self._started_s
        if passed_s > step_s:
            self._started_s += passed_s // step_s * step_s
