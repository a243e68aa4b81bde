"""Room for whole replicas, and what the next one lacks."""

from __future__ import annotations

from placement.room import Room, room

EIGHT = [{"GPU": 1.0}] * 8


def test_a_group_on_one_node_needs_it_all_there():
    assert room([{"GPU": 5.0}, {"GPU": 7.0}], EIGHT, "STRICT_PACK", 9) == Room(
        0, "GPU: 8 on one node, 7 free"
    )


def test_a_group_that_may_spread_takes_what_is_free_anywhere():
    assert room([{"GPU": 5.0}, {"GPU": 7.0}], EIGHT, "PACK", 9) == Room(1, "GPU: 1 on one node, 0 free")


def test_as_many_as_fit():
    assert room([{"GPU": 16.0}, {"GPU": 15.0}], EIGHT, "STRICT_PACK", 9).replicas == 3


def test_no_more_are_looked_for_than_asked():
    assert room([{"GPU": 64.0}], EIGHT, "STRICT_PACK", 2) == Room(2)


def test_the_resource_that_lacks_most_is_named():
    bundles = [{"CPU": 4.0, "GPU": 1.0}]
    assert room([{"CPU": 1.0, "GPU": 8.0}], bundles, "PACK", 1).missing == "CPU: 4 on one node, 1 free"


def test_a_resource_that_no_node_has_is_named():
    assert room([{"CPU": 8.0}], [{"GPU": 1.0}], "PACK", 1) == Room(0, "GPU: 1 on one node, 0 free")


def test_without_a_node():
    assert room([], EIGHT, "PACK", 1) == Room(0, "no node")


def test_tenths_add_up():
    bundles = [{"CPU": 0.1}] * 3
    assert room([{"CPU": 0.1 + 0.2}], bundles, "STRICT_PACK", 1) == Room(1)
    assert room([{"CPU": 3.0}], [{"CPU": 0.1}], "PACK", 30) == Room(30)


def test_small_gaps_are_filled_first_so_that_whole_nodes_stay_free():
    nodes = [{"GPU": 8.0}, {"GPU": 1.0}]
    assert room(nodes, [{"GPU": 1.0}], "PACK", 1).replicas == 1
    assert room(nodes, [{"GPU": 8.0}, {"GPU": 1.0}], "PACK", 1).replicas == 1


def test_under_pack_the_largest_bundle_has_the_first_choice():
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 2.0}]
    bundles = [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}]
    assert room(nodes, bundles, "PACK", 1) == room(nodes, bundles[::-1], "PACK", 1) == Room(1)


def test_what_is_left_is_told():
    found = room([{"GPU": 8.0}, {"GPU": 3.0}], [{"GPU": 2.0}], "PACK", 2)
    assert found.left == ({"GPU": 6.0}, {"GPU": 1.0})
