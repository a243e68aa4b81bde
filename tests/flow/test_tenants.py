from __future__ import annotations

from app.flow.config import FairnessPolicy, FlowConfig, TenantPolicy
from app.flow.outcome import Outcome
from app.flow.tenants import Account, Tenants, TokenBucket
from app.flow.ticket import RateLimit, Ticket


def ticket(size_bytes: int = 0) -> Ticket:
    return Ticket("t", 0, 0.0, size_bytes=size_bytes)


def test_a_tenant_without_limits_is_never_refused_and_shows_none():
    account = Account("a", TenantPolicy(), 0.0)
    account.take_rate(ticket(), 50, 0.0)
    account.true_up(50, 45, 0.0)
    account.return_rate(50, 0.0)
    assert account.over_rate(50, 0.0) is None
    assert account.rate_limits(0.0) == (RateLimit(None, None, 0.0), RateLimit(None, None, 0.0))


def test_requests_a_minute_run_out_and_refill():
    account = Account("a", TenantPolicy(requests_per_minute=2), 0.0)
    for _ in range(2):
        assert account.over_rate(50, 0.0) is None
        account.take_rate(ticket(), 50, 0.0)
    assert account.over_rate(50, 0.0) == (Outcome.REJECTED_REQUEST_RATE, 30.0)
    assert account.rate_limits(0.0)[0] == RateLimit(2, 0, 60.0)
    assert account.over_rate(50, 30.0) is None


def test_a_clock_that_is_set_back_stops_no_refill():
    bucket = TokenBucket(60, 1000.0)
    bucket.take(60, 1000.0)
    assert bucket.level(0.0) == 0.0
    assert bucket.level(30.0) == 30.0


def test_what_is_given_back_late_comes_on_top_of_what_was_refilled_and_what_is_taken_late_off_it():
    bucket = TokenBucket(60, 0.0)
    bucket.take(50, 0.0)
    bucket.take(20, 60.0)
    assert bucket.level(60.0) == 40.0
    bucket.take(-20, 60.0)
    assert bucket.level(60.0) == 60.0


def test_tokens_a_minute_are_taken_and_given_back():
    account = Account("a", TenantPolicy(tokens_per_minute=60), 0.0)
    account.take_rate(ticket(), 50, 0.0)
    assert account.over_rate(50, 0.0) == (Outcome.REJECTED_TOKEN_RATE, 40.0)
    account.true_up(50, 10, 0.0)
    assert account.over_rate(50, 0.0) is None
    assert account.rate_limits(0.0)[1] == RateLimit(60, 50, 10.0)
    account.take_rate(ticket(), 50, 0.0)
    account.return_rate(50, 0.0)
    assert account.rate_limits(0.0)[1].remaining == 50


def test_a_request_above_the_whole_limit_waits_for_a_full_bucket_not_for_ever():
    account = Account("a", TenantPolicy(tokens_per_minute=60), 0.0)
    assert account.over_rate(1010, 0.0) is None


def test_caps_on_queued_and_bytes():
    account = Account("a", TenantPolicy(max_queued=1, max_bytes=100), 0.0)
    assert account.over_cap(ticket(size_bytes=101)) is Outcome.REJECTED_TENANT_BYTES
    account.queued = 1
    assert account.over_cap(ticket()) is Outcome.REJECTED_TENANT_QUEUED


def test_idle_tenants_beyond_the_bound_are_forgotten_oldest_first():
    tenants = Tenants(FlowConfig(fairness=FairnessPolicy(max_tenants=2)))
    busy = tenants.get("a", 0.0)
    busy.queued = 1
    for name in "bcd":
        tenants.get(name, 0.0)
    assert tenants.get("a", 0.0) is busy
    assert tenants.surplus(0.0) == ["b", "c"]
    assert len(tenants) == 2
    assert tenants.surplus(0.0) == []


def test_a_busy_tenant_is_kept_even_when_there_are_too_many():
    tenants = Tenants(FlowConfig(fairness=FairnessPolicy(max_tenants=1)))
    tenants.get("a", 0.0).running = 1
    tenants.get("b", 0.0).running = 1
    assert tenants.surplus(0.0) == []
    assert len(tenants) == 2


def test_a_tenant_that_has_used_its_rate_is_not_forgotten_before_it_would_have_it_again():
    policy = TenantPolicy(requests_per_minute=1)
    tenants = Tenants(FlowConfig(tenant=policy, fairness=FairnessPolicy(max_tenants=1)))
    tenants.get("a", 0.0).take_rate(ticket(), 0, 0.0)
    tenants.get("b", 0.0)
    assert tenants.surplus(30.0) == []
    assert tenants.get("a", 30.0).over_rate(0, 30.0) is not None
    tenants.get("b", 30.0)
    assert tenants.surplus(60.0) == ["a"]
