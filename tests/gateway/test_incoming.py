"""Bodies that are coming are bounded before there is a ticket to bound."""

from __future__ import annotations

import contextlib

import pytest

from app.flow.config import FlowConfig, TenantPolicy
from app.gateway.errors import ApiError
from app.gateway.incoming import Incoming

FLOW = FlowConfig(tenant=TenantPolicy(max_bytes=100), tenants={"large": TenantPolicy(max_bytes=1000)})


def test_a_tenants_bodies_together_stay_within_its_bytes_and_others_are_let_be():
    incoming = Incoming(FLOW, 500)
    with incoming.body("small") as first, incoming.body("small") as second:
        first.add(60)
        second.add(40)
        with pytest.raises(ApiError) as refused:
            second.add(1)
        assert (refused.value.status, refused.value.code) == (429, "rejected_tenant_bytes")
        assert refused.value.retry_after_s == 1
        with incoming.body("large") as other:
            other.add(200)
            assert (first.size_bytes, second.size_bytes, other.size_bytes) == (60, 40, 200)


def test_all_together_stay_within_the_whole():
    incoming = Incoming(FLOW, 500)
    with incoming.body("large") as large, incoming.body("small") as small:
        large.add(450)
        with pytest.raises(ApiError) as refused:
            small.add(51)
        assert (refused.value.status, refused.value.code) == (429, "rejected_full")
        small.add(50)


def given_up(incoming: Incoming) -> None:
    with contextlib.suppress(TimeoutError), incoming.body("small") as body:
        body.add(70)
        raise TimeoutError


def test_what_has_come_or_is_given_up_counts_no_longer():
    incoming = Incoming(FLOW, 100)
    for _ in range(3):
        given_up(incoming)
    with incoming.body("small") as first:
        first.add(60)
        with incoming.body("small") as second:
            second.add(30)
        first.add(40)
    assert incoming._by_tenant == {}
    assert incoming._bytes == 0
