from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.flow.prefix import PrefixIndex

# Prompts whose hashes are chained, as words of which each stands for all before it.
CHAINS = st.lists(st.integers(0, 2), max_size=6).map(
    lambda words: [hash(tuple(words[: end + 1])) for end in range(len(words))]
)


def test_the_longest_known_prefix_counts_from_the_first_block():
    index = PrefixIndex(100, 1000)
    index.add("r", [1, 2, 3])
    index.add("s", [1, 9])
    assert [index.length(name, [1, 2, 3, 4]) for name in "rsx"] == [3, 1, 0]
    assert index.longest([1, 2, 3, 4]) == 3
    assert (index.longest([]), index.length("r", [])) == (0, 0)
    assert (index.longest([7]), index.length("r", [7])) == (0, 0)


def test_who_holds_more_is_named_first_and_then_in_the_order_of_coming():
    index = PrefixIndex(100, 1000)
    for name in ("s", "r", "t", "r"):
        index.add(name, [1, ord(name)])
    index.add("u", [1, ord("t"), 3])
    blocks = [1, ord("t"), 3, 4]
    assert index.knowing(blocks, 10) == ["u", "t", "s", "r"]
    assert index.knowing(blocks, 3) == ["u", "t", "s"]
    assert index.knowing([7], 10) == index.knowing([], 10) == []


def test_a_replica_that_is_dropped_is_forgotten():
    index = PrefixIndex(100, 1000)
    index.add("r", [1])
    index.add("s", [1])
    index.drop("r")
    index.drop("nobody")
    assert (index.length("r", [1]), index.length("s", [1])) == (0, 1)
    assert index.knowing([1], 10) == ["s"]


@given(st.lists(CHAINS, max_size=40))
def test_the_index_is_bounded_and_forgets_the_ends_first(prompts):
    index = PrefixIndex(8, 1000)
    for prompt in prompts:
        index.add("r", prompt)
    held = index._blocks.get("r", ())
    assert len(held) <= 8
    assert set(index._holders) == set(held)
    for prompt in prompts:
        known = [block in held for block in prompt]
        assert known == sorted(known, reverse=True)
        assert index.length("r", prompt) == index.longest(prompt) == sum(known)


@given(st.lists(st.tuples(st.sampled_from("rst"), CHAINS), max_size=30))
def test_replicas_share_what_all_may_remember(prompts):
    index = PrefixIndex(8, 12)
    for replica_id, prompt in prompts:
        index.add(replica_id, prompt)
        assert len(index._blocks[replica_id]) <= 12 // len(index._blocks)


@given(st.lists(st.tuples(st.sampled_from("rst"), CHAINS), min_size=1, max_size=30))
def test_the_longest_of_all_is_the_longest_of_one(prompts):
    index = PrefixIndex(8, 12)
    for replica_id, prompt in prompts:
        index.add(replica_id, prompt)
    for _, prompt in prompts:
        lengths = {name: index.length(name, prompt) for name in "rst"}
        assert index.longest(prompt) == max(lengths.values())
        known = index.knowing(prompt, 3)
        assert sorted(known) == [name for name in "rst" if lengths[name]]
        assert [lengths[name] for name in known] == sorted((lengths[name] for name in known), reverse=True)


def test_the_longest_of_each_is_found_among_many_that_know_the_beginning():
    index = PrefixIndex(100, 1000)
    for number in range(5):
        index.add(f"r{number}", [1, 2, 3, 4, 5][: number + 1])
    assert [index.length(f"r{number}", [1, 2, 3, 4, 5, 6]) for number in range(5)] == [1, 2, 3, 4, 5]
