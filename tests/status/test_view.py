"""The value that all renderings share, from the core's own state."""

from __future__ import annotations

from app.config import ApplicationConfig
from app.flow.config import Limits
from app.flow.controller import FlowController
from app.flow.slo import Standing
from app.flow.ticket import EngineMetrics, ReplicaReport, Ticket
from app.status.history import GRAIN_S, MAX_DECISIONS, MAX_SAMPLES, History, ScaleDecision, ScaleLog
from app.status.loads import RankMeter
from app.status.view import status_view

LIMITS = Limits(
    max_queued=9, max_queue_wait_s=60.0, requests_per_replica=2, lease_ttl_s=15.0, replica_ttl_s=5.0
)
METRICS = EngineMetrics(running=2, waiting=0, kv_use=0.25)


def config(**sections: object) -> ApplicationConfig:
    model = {"name": "tiny", "source": "somebody/tiny"}
    engine = {"device": "cpu", "max_model_len": 64}
    return ApplicationConfig.model_validate(
        {"model": model, "engine": engine, "open_without_keys": True, **sections}
    )


def flow_with_a_queue() -> FlowController:
    """At 100 s two run and three wait: standard since 90 s and 96 s, batch since 98 s."""
    flow = FlowController(LIMITS)
    flow.report(ReplicaReport("r", frozenset(), metrics=METRICS), 90.0)
    for ticket_id, tenant, class_name, at_s in (
        ("a", "search", "standard", 90.0),
        ("b", "search", "standard", 90.0),
        ("c", "search", "standard", 94.0),
        ("d", "reports", "standard", 96.0),
        ("e", "reports", "batch", 98.0),
    ):
        flow.submit(Ticket(ticket_id, 0, at_s, tenant, class_name, prompt_tokens=10), at_s)
        flow.report(ReplicaReport("r", frozenset("ab"), metrics=METRICS), at_s)
    return flow


def test_detail_says_who_waits_and_since_when():
    detail = flow_with_a_queue().detail(9, 100.0)
    interactive, standard, batch = detail.classes
    assert (standard.queued, standard.prompt_tokens, standard.oldest_wait_s) == (2, 20, 6.0)
    assert (batch.queued, batch.oldest_wait_s) == (1, 2.0)
    assert (interactive.queued, interactive.oldest_wait_s) == (0, 0.0)
    assert standard.expected_wait_s > interactive.expected_wait_s > 0
    assert [(one.name, one.queued, one.running, one.oldest_wait_s) for one in detail.tenants] == [
        ("reports", (0, 1, 1), 0, 4.0),
        ("search", (0, 1, 0), 2, 6.0),
    ]


def test_tenants_beyond_the_bound_are_counted():
    detail = flow_with_a_queue().detail(1, 100.0)
    assert ([one.name for one in detail.tenants], detail.more_tenants) == (["reports"], 1)


def test_detail_says_what_each_engine_has_and_which_are_on_their_way():
    flow = flow_with_a_queue()
    flow.capacity_starting("s", 130.0, 98.0)
    detail = flow.detail(9, 100.0)
    [replica] = detail.replicas
    assert (replica.state, replica.taken, replica.limit, replica.metrics) == ("ready", 2, 2, METRICS)
    assert (replica.silent_s, detail.starting_s) == (2.0, (30.0,))


def test_the_state_of_an_engine():
    flow = flow_with_a_queue()
    flow.replica_unroutable("r", 99.5)
    assert flow.detail(9, 100.0).replicas[0].state == "barred"
    assert flow.detail(9, 104.0).replicas[0].state == "silent"
    flow.report(ReplicaReport("r", frozenset("ab"), draining=True), 104.0)
    assert flow.detail(9, 104.0).replicas[0].state == "draining"
    flow.replica_gone("r", 105.0)
    assert flow.detail(9, 105.0).replicas == ()


def test_a_newcomer_does_not_wait_where_a_place_is_free_and_is_promised_nothing_without_an_engine():
    flow = FlowController(LIMITS)
    assert {one.expected_wait_s for one in flow.detail(9, 0.0).classes} == {None}
    flow.report(ReplicaReport("r", frozenset(), metrics=METRICS), 0.0)
    assert flow.detail(9, 0.0).classes[0].expected_wait_s == 0.0


def test_the_view_puts_the_grid_beside_the_flow():
    parallel = {
        "pipeline_parallel_size": 2,
        "tensor_parallel_size": 1,
        "bundles": [{"CPU": 1, "GPU": 1}, {"GPU": 1}],
        "layer_partition": [3, 5],
    }
    flow = flow_with_a_queue()
    standing = Standing("standard", "ttft", 300.0, 9, 10, 0.99)
    view = status_view(
        config(parallel=parallel),
        flow.snapshot(100.0),
        flow.detail(9, 100.0),
        [standing],
        (),
        (ScaleDecision(99.0, 2, "queue"),),
        100.0,
    )
    assert [(one.stage, one.first_layer, one.last_layer) for one in view.stages] == [(0, 0, 2), (1, 3, 7)]
    assert (view.queued, view.in_flight, view.places, view.replicas_ready) == (3, 2, 2, 1)
    assert view.scaling[0].engines == 2
    assert (view.attainment[0].share, round(view.attainment[0].budget_left)) == (0.9, -9)


def test_layers_of_a_model_that_is_not_known_are_none():
    flow = FlowController(LIMITS)
    view = status_view(config(), flow.snapshot(0.0), flow.detail(9, 0.0), [], (), (), 0.0)
    assert [(one.first_layer, one.last_layer) for one in view.stages] == [(None, None)]


def test_history_keeps_the_peak_of_each_grain_and_forgets_the_oldest():
    history = History()
    for queued, at_s in ((1, 10.0), (7, 10.9), (2, 11.5), (3, 12.0), (5, 9.0)):
        history.add(queued, 0, at_s)
    assert [(one.at_s, one.queued) for one in history.samples()] == [(10.0, 7), (12.0, 5)]
    for number in range(500):
        history.add(0, 0, 100.0 + number * GRAIN_S)
    assert len(history.samples()) == MAX_SAMPLES


def test_the_log_keeps_what_is_new_newest_first():
    log = ScaleLog()
    for engines, reason in ((1, "minimum"), (2, "queue"), (2, "queue"), (2, "maximum"), (1, "surplus")):
        log.add(engines, reason, 10.0)
    assert [(one.engines, one.reason) for one in log.decisions()] == [
        (1, "surplus"),
        (2, "maximum"),
        (2, "queue"),
        (1, "minimum"),
    ]
    for engines in range(99):
        log.add(engines, "queue", 20.0)
    assert len(log.decisions()) == MAX_DECISIONS


def test_a_clock_that_counts_on_needs_two_looks():
    meter = RankMeter()

    def rank(number: int, **said: float) -> dict:
        return {
            "replica": "r",
            "rank": number,
            "device": "CPU of a",
            "memory_bytes": 1,
            "device_bytes": 2,
        } | said

    first = meter.read([rank(0, busy_s=5.0), rank(1, utilisation=0.4)], 10.0)
    assert [one.busy for one in first] == [None, 0.4]
    second = meter.read([rank(0, busy_s=6.5), rank(1, utilisation=0.5), rank(2, busy_s=0.0)], 12.0)
    assert [one.busy for one in second] == [0.75, 0.5, None]
    [restarted] = meter.read([rank(0, busy_s=0.1)], 14.0)
    assert restarted.busy == 0.0
