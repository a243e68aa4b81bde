"""How long is an engine's step? Learnt from outside, from all engines together.

Length of a step = base_s + sequence_s x requests that run + token_s x prompt tokens in it

A Kalman filter of the three coefficients (Kalman, 1960): what the load does not tell apart for a while stays
as it was learnt, and how sure each is decides what can be learnt from. Reports tell steps, prompt tokens and
time roughly, all three at once; the time between two ends of steps without prompts tells a step's length
well, once it is known how many steps that were.
"""

from __future__ import annotations

import math

from app.flow.prompts import fewest_steps

# A step that takes no time would never end.
MIN_STEP_S = 1e-4
# What initial values may be wrong by, in times themselves.
DOUBT = 3.0
# Of a step: what a request that runs may add, of which nothing is known at first; and what it and a prompt
# token count for at least where they change, so that what was learnt to be nothing can become something.
SEQUENCE_SHARE = 0.1
LEAST_SEQUENCE_SHARE = 0.01
LEAST_TOKEN_SHARE = 0.001
# By how much of itself each may have changed at the next observation.
DRIFT = 0.01
# Of its time: of what ran in it only the beginning and the end are known. It falls anywhere in a step, too.
REPORT_NOISE_SHARE = 0.1
# The end of a request is heard of a little later than its step ends.
END_NOISE_SHARE = 0.1
# Standard deviations: what is further off counts as if it were so far off, for it may be an engine that
# stood still; and the number of steps in a time must be sure by as many.
SURE = 3.0
# A time is of so many steps only if each then is as long as the last report says, within this share.
AGREE_SHARE = 0.2
# Beyond such a factor it is not the engine that is slow.
MAX_SLOWNESS = 2.0
# Of the prompts that come meanwhile, about half find an engine that is less busy.
JOINING_SHARE = 0.5

Vector = tuple[float, float, float]


class StepPace:
    """The coefficients, in seconds, and what follows for prompts."""

    __slots__ = (
        "_covariance",
        "_slowness",
        "_smoothing",
        "base_s",
        "learnt_s",
        "running",
        "sequence_s",
        "token_s",
        "tokens_per_s",
    )

    def __init__(self, step_s: float, token_s: float, smoothing: float) -> None:
        self.base_s, self.sequence_s, self.token_s = step_s, 0.0, token_s
        # Requests that run in an engine, on average.
        self.running = 0.0
        # How many times as long as the pace says steps take, on average of all engines: what one of them
        # takes longer than that does not tell what steps are made of.
        self._slowness = 1.0
        # Prompt tokens that an engine gets each second.
        self.tokens_per_s = 0.0
        # The time of the first report: what was predicted before came of initial values.
        self.learnt_s = -math.inf
        self._smoothing = smoothing
        self._covariance = [[0.0] * 3 for _ in range(3)]
        self._scale(1.0)

    def set_back(self, span_s: float) -> None:
        """The clock was set, by less than nothing, or not at all."""
        self.learnt_s += span_s

    @property
    def learnt(self) -> bool:
        return self.learnt_s > -math.inf

    @property
    def step_s(self) -> float:
        """Length of a step without prompts, with as many requests as usual."""
        return self.length_s(self.running)

    def length_s(self, running: float) -> float:
        """Length of a step without prompts, with so many requests."""
        return self.base_s + self.sequence_s * running

    def counted(
        self,
        steps: int,
        running: float,
        prompt_tokens: int,
        span_s: float,
        now_s: float,
        slowness: float = 1.0,
    ) -> float:
        """So far the counters of an engine of this slowness moved between two reports; `running`: the mean.
        Returns how many times as long as the pace says that took."""
        if not self.learnt:
            self.learnt_s, self.running = now_s, running
            # Initial values are of one kind of engine; this one may be a hundred times as slow.
            self._scale(span_s / (steps * self.base_s + prompt_tokens * self.token_s))
        self.tokens_per_s += self._smoothing * (prompt_tokens / span_s - self.tokens_per_s)
        self.running += self._smoothing * (running - self.running)
        seen = (float(steps), steps * running, float(prompt_tokens))
        ratio = span_s / _product(seen, (self.base_s, self.sequence_s, self.token_s))
        ratio = min(max(ratio, 1.0 / MAX_SLOWNESS), MAX_SLOWNESS)
        self._slowness += self._smoothing * (ratio - self._slowness)
        span_s *= self._slowness / slowness
        self._learn(seen, span_s, span_s / steps + REPORT_NOISE_SHARE * span_s)
        return ratio

    def timed(
        self, running: int, span_s: float, bounds_s: tuple[float, float], slowness: float = 1.0
    ) -> bool:
        """The time that steps without prompts took, by the last report each of so long at least and at most;
        False when it is not sure how many steps."""
        share = self._slowness / slowness
        span_s, least_s, most_s = share * span_s, share * bounds_s[0], share * bounds_s[1]
        step_s = self.length_s(running)
        steps = round(span_s / step_s)
        (base, both, _), (_, sequence, _), _ = self._covariance
        doubt_s = math.sqrt(max(0.0, base + 2.0 * running * both + running * running * sequence))
        if steps < 1 or steps * SURE * doubt_s > 0.5 * step_s:
            return False
        if not (1.0 - AGREE_SHARE) * least_s <= span_s / steps <= (1.0 + AGREE_SHARE) * most_s:
            return False
        self._learn((float(steps), float(steps * running), 0.0), span_s, END_NOISE_SHARE * step_s)
        return True

    def prefill_s(self, tokens: float, steps: int, running: float) -> float:
        """Time to compute so many prompt tokens in so many steps."""
        return steps * self.length_s(running) + self.token_s * tokens

    def shared_prefill_s(
        self, tokens: float, steps: int, budget: int, running: float, left_s: float
    ) -> float:
        """The same, when prompts that come before the last step, in `left_s` and later, fill up what is left
        of the steps' budgets."""
        step_s = self.length_s(running)
        full = steps == fewest_steps(tokens, budget)
        each = budget if full else tokens / steps
        before_last_s = left_s + (steps - 1) * (step_s + self.token_s * each)
        joining = JOINING_SHARE * self.tokens_per_s * before_last_s
        room = steps * budget - tokens
        return steps * step_s + self.token_s * (tokens + (joining if joining < room else room))

    def _scale(self, factor: float) -> None:
        """Coefficients and doubts of an engine that is so many times as slow."""
        self.base_s, self.token_s = factor * self.base_s, factor * self.token_s
        doubts = (DOUBT * self.base_s, SEQUENCE_SHARE * self.base_s, DOUBT * self.token_s)
        for index, doubt in enumerate(doubts):
            self._covariance[index][index] = doubt * doubt

    def _learn(self, seen: Vector, span_s: float, noise_s: float) -> None:
        """In `span_s` passed so many steps, so many for each request that ran, and so many prompt tokens."""
        covariance = self._covariance
        sequence_s = max(self.sequence_s, LEAST_SEQUENCE_SHARE * self.base_s)
        token_s = max(self.token_s, LEAST_TOKEN_SHARE * self.base_s)
        for index, value_s in enumerate((self.base_s, sequence_s, token_s)):
            # What is not seen for long is doubted more, but not without bound.
            if covariance[index][index] < (DOUBT * value_s) ** 2:
                covariance[index][index] += (DRIFT * value_s) ** 2
        error_s = span_s - _product(seen, (self.base_s, self.sequence_s, self.token_s))
        spread = [_product(row, seen) for row in covariance]
        variance = max(_product(spread, seen) + noise_s * noise_s, (error_s / SURE) ** 2)
        base, sequence, token = (one / variance for one in spread)
        self.base_s = max(MIN_STEP_S, self.base_s + base * error_s)
        self.sequence_s = max(0.0, self.sequence_s + sequence * error_s)
        self.token_s = max(0.0, self.token_s + token * error_s)
        for row, gain in zip(covariance, (base, sequence, token), strict=True):
            row[:] = (value - gain * one for value, one in zip(row, spread, strict=True))


def _product(one: Vector | list[float], other: Vector) -> float:
    return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]
