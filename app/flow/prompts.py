"""Which prompts an engine computes in which of its steps.

vLLM's chunked prefill: a step has a budget of tokens. Prompts take from it in the order in which they came,
each as much as it needs, or at most its `share` of each step (vLLM's `long_prefill_token_threshold`): then
short prompts are computed beside long ones instead of behind them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


class PromptLine:
    """The prompts that one engine has yet to compute, and what of them is in its present step."""

    __slots__ = ("_last_mark", "_left", "_share", "chunk", "left")

    def __init__(self, share: int | None = None) -> None:
        self._share = share
        # Tokens yet to compute, those of the present step included, by mark; in order of arrival.
        self._left: dict[int, int] = {}
        self._last_mark = 0
        # Tokens of all of them, and those in the present step.
        self.left = self.chunk = 0

    @property
    def waiting(self) -> bool:
        """Whether there are tokens that the present step does not compute."""
        return self.left > self.chunk

    def add(self, tokens: int) -> int:
        """The mark by which it is known again."""
        self._last_mark += 1
        if tokens > 0:
            self._left[self._last_mark] = tokens
            self.left += tokens
        return self._last_mark

    def clear(self) -> None:
        self._left.clear()
        self.left = self.chunk = 0

    def computed(self, mark: int) -> bool:
        return mark not in self._left

    def begin(self, budget: int) -> None:
        """A step begins, with room for so many prompt tokens."""
        if self._share is None:
            self.chunk = self.left if self.left < budget else budget
        else:
            self.chunk = sum(self._parts(self._left.values(), budget))

    def end(self) -> None:
        """The present step has ended; the next has not begun."""
        for mark, part in list(zip(self._left, self._begun(), strict=False)):
            if part == self._left[mark]:
                del self._left[mark]
            else:
                self._left[mark] -= part
        self.left -= self.chunk
        self.chunk = 0

    def reached(self, mark: int) -> None:
        """This one is computed, between two steps: then so is what those before it got meanwhile."""
        if mark not in self._left:
            return
        most = self.left
        if self._share is not None:
            most = self._share * fewest_steps(self._left[mark], self._share)
        marks = list(self._left)
        for one in marks[: marks.index(mark) + 1]:
            if self._left[one] <= most:
                self.left -= self._left.pop(one)
            else:
                self.left -= most
                self._left[one] -= most

    def drop(self, mark: int) -> None:
        """What is not begun of this one is never computed."""
        if mark not in self._left:
            return
        begun = dict(zip(self._left, self._begun(), strict=False)).get(mark, 0)
        self.left -= self._left[mark] - begun
        if begun:
            self._left[mark] = begun
        else:
            del self._left[mark]

    def alone(self, tokens: int, budget: int) -> int:
        """Steps that a prompt of so many tokens takes where there is no other."""
        return shared_steps(tokens, 0, budget, self._share)

    def beside(self, tokens: int, budget: int, *, later: bool) -> tuple[int, int]:
        """Steps until a newcomer of so many tokens is computed, and what is computed of these in them;
        `later`: after the present step, else from its beginning."""
        if self._share is None:
            others = self.left - self.chunk if later else self.left
            return fewest_steps(others + tokens, budget), others
        return self._shared([*self._from(later), max(1, tokens)], budget)

    def before(self, tokens: int, budget: int, *, later: bool) -> tuple[int, int]:
        """Steps until whoever comes next has a token computed, and what is computed of others in them. Where
        prompts share steps, one of so many `tokens` counts with them; else it has its turn after them."""
        if self._share is None:
            return self.beside(0, budget, later=later)
        return self._shared([*self._from(later), tokens, 1], budget)

    def _shared(self, line: list[int], budget: int) -> tuple[int, int]:
        """Steps until the last of these is computed, and what is computed of the others in them."""
        # The next one last; and those that get something of each step, in order. Long lines are not walked.
        waiting, active = [one for one in reversed(line) if one], [0]
        steps = computed = 0
        while waiting or active[-1]:
            active = [one for one in active if one]
            parts = self._parts(active, budget)
            left = budget - sum(parts)
            while left and waiting:
                active.append(waiting.pop())
                parts += self._parts(active[-1:], left)
                left -= parts[-1]
            # Until the first of them is computed, every step is like this one.
            alike = min([one // part for one, part in zip(active, parts, strict=True)])
            steps += alike
            computed += alike * sum(parts)
            active = [one - alike * part for one, part in zip(active, parts, strict=True)]
        return steps, computed - line[-1]

    def _from(self, later: bool) -> list[int]:
        """What is left of each, without what the present step computes where `later`."""
        line = list(self._left.values())
        if not later:
            return line
        begun = self._begun()
        rest = [one - part for one, part in zip(line, begun, strict=False)]
        return [*[one for one in rest if one], *line[len(begun) :]]

    def _begun(self) -> list[int]:
        """What the present step computes of the first of them, and nothing of the others."""
        return self._parts(self._left.values(), self.chunk)

    def _parts(self, line: Iterable[int], budget: int) -> list[int]:
        """What the first of these get of a step, until its budget is spent."""
        parts: list[int] = []
        for tokens in line:
            if not budget:
                return parts
            if self._share is not None and tokens > self._share:
                tokens = self._share
            part = tokens if tokens < budget else budget
            parts.append(part)
            budget -= part
        return parts


def fewest_steps(tokens: float, budget: int) -> int:
    """That prompts of so many tokens take, `budget` tokens each; at least one."""
    return math.ceil(tokens / budget) if tokens > budget else 1


def shared_steps(own: float, others: float, budget: int, share: int | None) -> int:
    """That a prompt takes beside so many tokens of others which are computed meanwhile."""
    all_ = fewest_steps(own + others, budget)
    return all_ if share is None else max(all_, fewest_steps(own, share))
