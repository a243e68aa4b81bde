"""Places kept for the urgent, and refusals at once where a queue would only stand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from app.flow import COMPILED
from app.flow.config import AdmissionPolicy, FlowConfig, Limits, default_classes
from app.flow.controller import FlowController
from app.flow.doors import CLAIM_SHARE, MAX_PASSED_S, StandingQueue
from app.flow.outcome import Outcome
from app.flow.queue import SHORT_S, WANTED_S
from app.flow.ticket import Granted, Refused, ReplicaReport, Ticket, Usage

pytestmark = pytest.mark.skipif(COMPILED, reason="sets what the core would learn: interpreted only")

LIMITS = Limits(
    max_queued=10_000, max_queue_wait_s=60.0, requests_per_replica=100, lease_ttl_s=1e6, replica_ttl_s=1e6
)
TICK_S = 0.1
# What more urgent classes hold on average, by rank; 2.0 and 2.3 times the square root of it is left to them.
URGENT_PLACES = (0.0, 49.5, 84.0)
STANDARD_LEAVES, BATCH_LEAVES = 14, 21


class Load:
    """One engine of a hundred places under a stream of requests; the demand of urgent ones is given.

    Unless `turnover` nothing counts that falls free in time for them.
    """

    def __init__(
        self,
        urgent_places: tuple[float, ...] | None = URGENT_PLACES,
        turnover: bool = False,
        **changes: object,
    ) -> None:
        config = FlowConfig(admission=replace(AdmissionPolicy(), **changes))
        self.flow = FlowController(LIMITS, config, lambda: 0.0)
        if urgent_places is not None:
            self.flow._predictor.urgent_places = lambda rank, now_s: urgent_places[rank]
        if not turnover:
            self.flow._doors._free_soon = lambda rank: 0.0
        self.now_s = 0.0
        self.flow.report(ReplicaReport("r", frozenset()), 0.0)
        self.flow.tick(0.0)
        self.running: list[str] = []
        self.count = 0

    def submit(self, class_name: str, tenant: str = "t", fingerprint: str = ""):
        self.count += 1
        name = f"{class_name}{self.count}"
        ticket = Ticket(name, 0, self.now_s, tenant=tenant, class_name=class_name, fingerprint=fingerprint)
        actions = self.flow.submit(ticket, self.now_s)
        self.follow(actions)
        return actions[0] if actions else None

    def follow(self, actions) -> None:
        self.running += [one.lease.ticket_id for one in actions if isinstance(one, Granted)]

    def fill(self, class_name: str, places: int, tenant: str = "t") -> None:
        for _ in range(places):
            self.submit(class_name, tenant)

    def end(self, count: int) -> None:
        ended, self.running = self.running[:count], self.running[count:]
        for ticket_id in ended:
            usage = Usage(1, 1)
            self.follow(self.flow.close(ticket_id, Outcome.COMPLETED, self.now_s, usage))

    def overload(self, seconds: float, class_name: str = "standard", tenant: str = "t") -> None:
        """Ten come each tenth of a second, one leaves."""
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            for _ in range(10):
                self.submit(class_name, tenant)
            self.end(1)
            self.flow.tick(self.now_s)


def test_the_last_places_are_for_the_most_urgent():
    load = Load()
    load.fill("standard", 100 - STANDARD_LEAVES)
    assert load.submit("standard") is None
    assert isinstance(load.submit("interactive"), Granted)
    load.end(2)
    assert load.flow.snapshot(load.now_s).queued == 0


def test_a_class_leaves_nothing_where_nobody_is_more_urgent():
    load = Load(urgent_places=None)
    load.fill("batch", 100)
    assert len(load.running) == 100


def test_what_is_left_follows_what_the_urgent_hold():
    load = Load(urgent_places=None)
    # Four each tenth of a second, for a second each: forty places.
    for tick in range(1000):
        load.now_s += TICK_S
        load.fill("interactive", 4)
        if tick >= 10:
            load.end(4)
        load.flow.tick(load.now_s)
    left = [queue.reserve for queue in load.flow._queue.classes]
    assert left[0] == 0
    # Nobody else asks: all places are their share.
    assert left[1:] == pytest.approx([2.0 * 10, 2.3 * 10], rel=0.05)
    for tick in range(3000):
        load.now_s += TICK_S
        load.fill("standard", 4)
        load.end(4)
        load.flow.tick(load.now_s)
        if tick == 50:
            assert 2.0 * 10 > load.flow._queue.classes[1].reserve > 1
    assert load.flow._queue.classes[1].reserve == 0


def test_less_is_left_where_places_fall_free_in_time():
    """A tenth of interactive's two seconds; of the hundred places five fall free in it."""
    load = Load(turnover=True, initial_service_s=4.0)
    assert [queue.reserve for queue in load.flow._queue.classes] == [
        0.0,
        pytest.approx(2.0 * 49.5**0.5 - 5.0),
        pytest.approx(2.3 * 84.0**0.5 - 5.0),
    ]


def test_all_is_left_once_a_queue_stands():
    load = Load(turnover=True, initial_service_s=4.0)
    load.overload(5.0)
    assert load.flow._queue.classes[2].reserve == pytest.approx(2.3 * 84.0**0.5)


def test_nothing_is_left_where_more_falls_free_in_time():
    load = Load(turnover=True, initial_service_s=0.5)
    assert [queue.reserve for queue in load.flow._queue.classes] == [0.0, 0.0, 0.0]


def test_batch_leaves_more_than_standard():
    load = Load()
    load.fill("batch", 100 - BATCH_LEAVES)
    assert load.submit("batch") is None
    assert isinstance(load.submit("standard"), Granted)


def test_a_standing_queue_is_refused_on_arrival_until_there_is_a_lull():
    load = Load()
    load.overload(30.0)
    load.fill("standard", 5)
    assert isinstance(load.submit("standard"), Refused)
    assert load.flow.snapshot(load.now_s).queued == 0
    assert load.flow._doors.standing.value_s == pytest.approx(28.0, abs=2.0)
    for _ in range(100):
        load.now_s += TICK_S
        load.flow.tick(load.now_s)
    assert load.flow._doors.standing.value_s == 0.0
    load.fill("standard", 100 - len(load.running) - STANDARD_LEAVES)
    assert load.submit("standard") is None


def test_what_has_stood_for_hours_is_forgotten_as_soon_as_what_has_stood_for_minutes():
    policy = AdmissionPolicy()
    standing = StandingQueue(policy, Rate(), most_s=120.0)
    for second in range(7200):
        standing.arrived(second)
        standing.arrived(second)
        standing.update(float(second))
    assert standing.value_s == 120.0
    # A lull begins once the arrivals of before are forgotten.
    since_s = next(second for second in range(7200, 7300) if lull_at(standing, second))
    for second in range(int(120.0 / policy.lull_weight)):
        standing.update(since_s + second + 1.0)
    assert standing.value_s == 0.0


class Rate:
    """What is served a second."""

    def total_rate_per_s(self) -> float:
        return 1.0


def lull_at(standing: StandingQueue, second: int) -> bool:
    before_s = standing.value_s
    standing.update(float(second))
    return standing.value_s < before_s


def test_a_class_with_a_longer_budget_stays_patient_for_longer():
    load = Load()
    load.overload(25.0)
    assert wait_s(load, 0, 2.0) == 2.0
    assert wait_s(load, 1, 10.0) == 0.0
    assert 45.0 < wait_s(load, 2, 60.0) < 60.0


def wait_s(load: Load, rank: int, budget_s: float, needed: float | None = None) -> float:
    """For a newcomer that was found to need so many places more."""
    return load.flow._doors.wait_s(SimpleNamespace(rank=rank, needed=needed), budget_s)


def test_in_a_burst_who_may_have_half_of_what_is_left_to_others_may_wait_for_the_next():
    load = Load()
    load.overload(25.0)
    few = -0.5 * load.flow._queue.classes[1].reserve
    assert wait_s(load, 1, 10.0, needed=few) == CLAIM_SHARE * 10.0
    assert wait_s(load, 1, 10.0, needed=few + 0.1) == 0.0
    assert wait_s(load, 0, 2.0, needed=0.1) == 2.0
    patience_s = wait_s(load, 2, 60.0)
    assert wait_s(load, 2, 60.0, needed=-100.0) == patience_s > CLAIM_SHARE * 60.0
    load.overload(AdmissionPolicy().burst_s)
    assert wait_s(load, 1, 10.0, needed=few) == 0.0


def test_in_a_lull_whoever_finds_no_place_may_wait():
    load = Load()
    load.overload(25.0)
    load.flow._doors.standing.value_s = 0.0
    assert wait_s(load, 1, 10.0, needed=5.0) == 10.0


@pytest.mark.parametrize(("burst_s", "waiting"), [(60.0, 1), (0.0, 0)])
def test_who_is_behind_the_others_waits_in_a_burst(burst_s: float, waiting: int):
    load = Load(burst_s=burst_s, initial_service_s=4.0)
    load.overload(25.0, tenant="greedy")
    load.fill("interactive", 100 - len(load.running))
    before = load.flow.snapshot(load.now_s).queued
    load.submit("standard", "greedy")
    assert load.flow.snapshot(load.now_s).queued == before
    load.submit("standard", "modest")
    assert load.flow.snapshot(load.now_s).queued == before + waiting


def test_what_a_tenant_lets_wait_counts_as_if_it_had_run():
    """One that is behind has others' places for so much as it is behind, and not for all that it asks."""
    load = Load()
    load.overload(25.0, tenant="greedy")
    load.fill("interactive", 100 - len(load.running))
    standard = load.flow._queue.classes[1]
    flow = standard.order.flow(load.flow._tenants.get("modest", load.now_s))
    flow.counter = standard.order.level.value - 10.0 * load.flow._predictor.cost(1)
    load.fill("standard", 12, "modest")
    needed = [one.needed for one in load.flow._queue if one.ticket.tenant == "modest"]
    # Half of what its class leaves to others is more than seven places.
    assert needed == pytest.approx([-10.0, -9.0, -8.0], abs=0.01)


def where_batch_waits(refuse: str | None) -> tuple[Load, int]:
    """One batch request waits; then its class has a place, and another class is refused one or not. How many
    of the two run."""
    load = Load()
    load.fill("batch", 100 - BATCH_LEAVES)
    assert load.submit("batch") is None
    if refuse is not None:
        rank = ["interactive", "standard", "batch"].index(refuse)
        load.flow._queue.classes[rank].denied_s = load.now_s
    load.flow._queue.classes[2].credit = 0.0
    load.flow.tick(load.now_s)
    load.end(2)
    return load, len(load.running) - (100 - BATCH_LEAVES - 2)


@pytest.mark.parametrize(
    ("refused", "gone"), [(None, 1), ("standard", 0), ("interactive", 1), ("batch", 1)], ids=str
)
def test_who_waits_yields_while_a_more_urgent_class_is_refused_that_does_not_wait(
    refused: str | None, gone: int
):
    """Interactive waits itself, so its turn comes; batch is nobody's better."""
    load, went = where_batch_waits(refused)
    assert went == gone
    load.now_s += SHORT_S
    load.flow.tick(load.now_s)
    load.end(0)
    assert load.flow.snapshot(load.now_s).queued == 0


def test_who_waits_yields_no_more_than_its_minimum_share():
    load, went = where_batch_waits("standard")
    assert went == 0
    load.flow._queue.classes[2].credit = 1.0
    load.flow.tick(load.now_s)
    assert load.flow.snapshot(load.now_s).queued == 0


def test_who_waits_yields_until_a_quarter_of_its_budget_is_left():
    load = Load()
    load.fill("batch", 100 - BATCH_LEAVES)
    assert load.submit("batch") is None
    for left_s, queued in ((16.0, 1), (14.0, 0)):
        load.now_s = 60.0 - left_s
        load.flow._queue.classes[1].denied_s = load.now_s
        load.flow._queue.classes[2].credit = 0.0
        load.flow.tick(load.now_s)
        load.end(1)
        assert load.flow.snapshot(load.now_s).queued == queued


def test_who_yields_for_no_share_of_its_budget_never_does():
    load = Load(yield_share=0.0)
    load.fill("batch", 100 - BATCH_LEAVES)
    assert load.submit("batch") is None
    load.flow._queue.classes[1].denied_s = load.now_s
    load.flow._queue.classes[2].credit = 0.0
    load.flow.tick(load.now_s)
    load.end(1)
    assert load.flow.snapshot(load.now_s).queued == 0


def test_newcomers_have_the_places_that_their_class_need_not_leave_all_the_same():
    """Only who waits can wait longer: at a lasting overload nobody does."""
    load = Load()
    load.flow._queue.classes[1].denied_s = load.now_s
    load.flow.tick(load.now_s)
    assert isinstance(load.submit("batch"), Granted)


def test_without_impatience_the_queue_stands():
    load = Load(impatient=False)
    load.overload(30.0)
    assert load.flow.snapshot(load.now_s).queued > 0


def test_interactive_may_wait_whatever_the_load():
    load = Load()
    load.overload(30.0)
    load.fill("interactive", 100 - len(load.running))
    assert load.submit("interactive") is None


def test_behind_the_door_the_tenant_that_had_least_is_next():
    load = Load()
    load.overload(30.0, tenant="greedy")
    taken = 101 - STANDARD_LEAVES
    load.end(max(0, len(load.running) - taken))
    load.fill("interactive", taken - len(load.running))
    load.flow._queue.classes[1].credit = 0.0
    # One place less is free than standard leaves.
    assert isinstance(load.submit("standard", "greedy"), Refused)
    assert isinstance(load.submit("standard", "modest"), Granted)


def short_and_long(load: Load, tenant: str, words: int) -> tuple[list[int], list[int]]:
    """Grants and refusals of a tenant's requests, by prompt, when a few places more are free than needed."""
    outcomes: dict[int, list[object]] = {}
    for number in range(60):
        load.now_s += TICK_S
        load.flow.tick(load.now_s)
        load.end(len(load.running) - (100 - STANDARD_LEAVES - 3))
        load.fill("interactive", 100 - STANDARD_LEAVES - 3 - len(load.running))
        prompt = words if number % 2 else 3 * words
        name = f"{tenant}{load.count}-{number}"
        ticket = Ticket(name, 0, load.now_s, tenant=tenant, class_name="standard", prompt_tokens=prompt)
        load.flow._queue.classes[1].credit = 0.0
        actions = load.flow.submit(ticket, load.now_s)
        load.follow(actions)
        # By then the tenant's mean is known.
        if number >= 10:
            outcomes.setdefault(prompt, []).extend(actions)
        # A tenant that does not get ahead or behind: only the prompt decides.
        load.flow._queue.classes[1].order.flows[tenant].counter = load.flow._queue.classes[
            1
        ].order.level.value
    return tuple(sum(isinstance(one, Granted) for one in outcomes[prompt]) for prompt in (words, 3 * words))


def test_at_a_lasting_overload_a_tenants_short_requests_go_first_though_others_ask_for_less():
    load = Load(initial_output_tokens=1)
    load.overload(30.0)
    short, long = short_and_long(load, "other", 100)
    assert short > 20
    assert long < short / 5


def test_without_thrift_length_does_not_matter():
    load = Load(initial_output_tokens=1, thrift_roots=0.0)
    load.overload(30.0)
    short, long = short_and_long(load, "other", 100)
    assert short == long == 25


def test_a_class_that_is_owed_its_share_has_any_place():
    load = Load()
    load.overload(130.0)
    assert isinstance(load.submit("batch"), Refused)
    load.overload(5.0)
    assert load.flow._queue.classes[2].credit > 0
    load.end(1)
    load.fill("interactive", 99 - len(load.running))
    assert isinstance(load.submit("batch"), Granted)


def test_a_class_that_wants_nothing_any_more_is_owed_nothing():
    load = Load()
    load.overload(30.0)
    load.submit("batch")
    load.overload(WANTED_S + 1.0)
    assert load.flow._queue.classes[2].credit == 0.0


def test_a_pause_of_the_process_is_no_queue_that_stands():
    load = Load()
    load.overload(1.0)
    before_s = load.flow._doors.standing.value_s
    load.now_s += 100.0
    for _ in range(30):
        load.submit("standard")
    load.flow.skip(100.0)
    load.flow.tick(load.now_s)
    assert load.flow._doors.standing.value_s <= before_s + MAX_PASSED_S


def test_a_class_wants_nothing_for_longer_because_the_clock_was_set_back():
    load = Load()
    load.overload(130.0)
    assert isinstance(load.submit("batch"), Refused)
    load.now_s -= 3600.0
    load.flow.skip(-3600.0)
    load.overload(WANTED_S - 1.0)
    assert load.flow._queue.classes[2].credit > 0.0
    load.overload(2.0)
    assert load.flow._queue.classes[2].credit == 0.0


def test_a_promise_is_kept_where_newcomers_are_refused():
    load = Load()
    load.overload(30.0)
    refused = load.submit("standard", "other", "f")
    while isinstance(refused, Granted):
        refused = load.submit("standard", "other", "f")
    assert refused.promised
    load.fill("interactive", 99 - len(load.running))
    load.now_s += refused.retry_after_s
    assert isinstance(load.submit("standard", "other"), Refused)
    assert isinstance(load.submit("standard", "other", "f"), Granted)


def test_a_refusal_without_a_promise_names_no_time():
    load = Load()
    load.overload(30.0)
    for number in range(2000):
        refused = load.submit("standard", "greedy", str(number))
    assert isinstance(refused, Refused)
    assert (refused.promised, refused.retry_after_s) == (False, None)


def test_a_ticket_with_a_place_is_predicted_by_its_engine():
    load = Load()
    granted = load.submit("batch")
    predicted_s = load.flow.predicted_ttft_s(granted.lease.ticket_id)
    assert predicted_s == pytest.approx(load.flow._pool.prefill_s(0))


@pytest.mark.parametrize(
    ("places", "urgent_places", "left"),
    [(0, 0, 0), (1, 1, 0.25), (8, 8, 2), (64, 0, 0), (64, 49, 14), (256, 64, 16), (256, 1e6, 32)],
)
def test_what_is_left_to_others_is_the_square_root_and_never_more_than_a_quarter(places, urgent_places, left):
    policy = replace(default_classes()[1], reserve_roots=2.0)
    assert policy.reserve(places, urgent_places) == pytest.approx(left)
