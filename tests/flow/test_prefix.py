from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.flow.prefix import PrefixIndex


def test_the_longest_known_prefix_counts_from_the_first_block():
    index = PrefixIndex(100, 1000)
    index.add("r", [1, 2, 3])
    index.add("s", [1, 9])
    assert index.match([1, 2, 3, 4]) == {"r": 3, "s": 1}
    assert index.match([2, 3]) == {"r": 2}
    assert index.match([]) == {}
    assert index.match([7]) == {}


def test_a_replica_that_is_dropped_is_forgotten():
    index = PrefixIndex(100, 1000)
    index.add("r", [1])
    index.add("s", [1])
    index.drop("r")
    index.drop("nobody")
    assert index.match([1]) == {"s": 1}


@given(st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=40))
def test_the_index_is_bounded_and_forgets_the_ends_first(prompts):
    index = PrefixIndex(8, 1000)
    for prompt in prompts:
        index.add("r", prompt)
    assert len(index._blocks.get("r", ())) <= 8
    assert set(index._holders) == set(index._blocks.get("r", ()))


@given(st.lists(st.tuples(st.sampled_from("rst"), st.lists(st.integers(0, 9), max_size=4)), max_size=30))
def test_replicas_share_what_all_may_remember(prompts):
    index = PrefixIndex(8, 12)
    for replica_id, prompt in prompts:
        index.add(replica_id, prompt)
        assert len(index._blocks[replica_id]) <= 12 // len(index._blocks)


def test_the_longest_of_each_is_found_among_many_that_know_the_beginning():
    index = PrefixIndex(100, 1000)
    for number in range(5):
        index.add(f"r{number}", [1, 2, 3, 4, 5][: number + 1])
    assert index.match([1, 2, 3, 4, 5, 6]) == {f"r{number}": number + 1 for number in range(5)}
