"""Which replica is likely to hold which prompt: a bounded index of block hashes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixIndex:
    """Least recently used blocks of each replica, and who holds a block.

    A hash stands for its whole prefix (chained hashes), so a prompt matches block by block from the first.
    """

    def __init__(self, max_blocks_per_replica: int, max_blocks: int) -> None:
        """`max_blocks`: of all replicas, an equal part each."""
        self._max_of_one = max_blocks_per_replica
        self._max_of_all = max_blocks
        self._blocks: dict[str, OrderedDict[int, None]] = {}
        self._holders: dict[int, set[str]] = {}

    def add(self, replica_id: str, blocks: Sequence[int]) -> None:
        """The replica computes this prompt. The first block is the last to be forgotten."""
        held = self._blocks.setdefault(replica_id, OrderedDict())
        for block in reversed(blocks):
            held[block] = None
            held.move_to_end(block)
            self._holders.setdefault(block, set()).add(replica_id)
        most = min(self._max_of_one, self._max_of_all // len(self._blocks))
        while len(held) > most:
            self._forget(replica_id, held.popitem(last=False)[0])

    def match(self, blocks: Sequence[int]) -> dict[str, int]:
        """Length of the longest known prefix on each replica that knows the first block; in blocks.

        From the end on: who holds a block holds all before it, which are forgotten later.
        """
        lengths: dict[str, int] = {}
        for length in range(len(blocks), 0, -1):
            holders = self._holders.get(blocks[length - 1])
            if holders is not None and len(holders) > len(lengths):
                for replica_id in holders:
                    lengths.setdefault(replica_id, length)
        return lengths

    def drop(self, replica_id: str) -> None:
        for block in self._blocks.pop(replica_id, OrderedDict()):
            self._forget(replica_id, block)

    def _forget(self, replica_id: str, block: int) -> None:
        holders = self._holders[block]
        holders.discard(replica_id)
        if not holders:
            del self._holders[block]
