"""Everyone chooses the same scheduler, whatever order the replicas come in."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

import pytest

from app.serving.leader_router import STARTED_S, LeaderRouter


def replica(name: str, started_s: float) -> SimpleNamespace:
    return SimpleNamespace(
        replica_id=SimpleNamespace(unique_id=name), replica_metadata={STARTED_S: started_s}
    )


@pytest.mark.parametrize(
    ("started_s", "leader"),
    [({"a": 3.0, "b": 1.0, "c": 2.0}, "b"), ({"a": 3.0, "c": 2.0}, "c"), ({"x": 1.0, "w": 1.0}, "w")],
)
async def test_the_replica_that_started_first_leads(started_s, leader):
    replicas = [replica(name, at_s) for name, at_s in started_s.items()]
    for candidates in permutations(replicas):
        [[chosen]] = await LeaderRouter.choose_replicas(None, list(candidates))
        assert chosen.replica_id.unique_id == leader


async def test_where_there_is_none_nobody_is_chosen():
    assert await LeaderRouter.choose_replicas(None, []) == [[]]
