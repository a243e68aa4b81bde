"""Which replica is likely to hold which prompt: a bounded index of block hashes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Sequence


class PrefixIndex:
    """Least recently used blocks of each replica, and who holds a block.

    A hash stands for its whole prefix (chained hashes), and the first block of a prompt is the last to be
    forgotten: who holds a block holds all before it.
    """

    def __init__(self, max_blocks_per_replica: int, max_blocks: int) -> None:
        """`max_blocks`: of all replicas, an equal part each."""
        self._max_of_one = max_blocks_per_replica
        self._max_of_all = max_blocks
        self._blocks: dict[str, OrderedDict[int, None]] = {}
        # In a fixed order, unlike a set's: it decides who is found.
        self._holders: dict[int, dict[str, None]] = {}

    def add(self, replica_id: str, blocks: Sequence[int]) -> None:
        """The replica computes this prompt."""
        held = self._blocks.setdefault(replica_id, OrderedDict())
        for block in reversed(blocks):
            held[block] = None
            held.move_to_end(block)
            self._holders.setdefault(block, {})[replica_id] = None
        most = min(self._max_of_one, self._max_of_all // len(self._blocks))
        while len(held) > most:
            self._forget(replica_id, held.popitem(last=False)[0])

    def length(self, replica_id: str, blocks: Sequence[int]) -> int:
        """Of the longest prefix that this replica holds, in blocks."""
        held = self._blocks.get(replica_id)
        return _length(blocks, held) if held else 0

    def longest(self, blocks: Sequence[int]) -> int:
        """Of the longest prefix that some replica holds, in blocks."""
        return _length(blocks, self._holders)

    def knowing(self, blocks: Sequence[int], most: int) -> list[str]:
        """Replicas that hold the beginning of it, who holds more of it first; at most so many."""
        found: dict[str, None] = {}
        for length in range(self.longest(blocks), 0, -1):
            holders = self._holders[blocks[length - 1]]
            # Who was found holds this block, too: as many are the same.
            if len(holders) > len(found):
                for replica_id in holders:
                    found[replica_id] = None
                    if len(found) == most:
                        return list(found)
        return list(found)

    def drop(self, replica_id: str) -> None:
        for block in self._blocks.pop(replica_id, OrderedDict()):
            self._forget(replica_id, block)

    def _forget(self, replica_id: str, block: int) -> None:
        holders = self._holders[block]
        del holders[replica_id]
        if not holders:
            del self._holders[block]


def _length(blocks: Sequence[int], held: Container[int]) -> int:
    """How many of them are held, from the first on: by halves, as none is held after one that is not."""
    least, most = 0, len(blocks)
    while least < most:
        middle = (least + most + 1) // 2
        if blocks[middle - 1] in held:
            least = middle
        else:
            most = middle - 1
    return least
