"""A few cells of the matrix, once each; `python -m benchmarks chaos` runs any cell any number of times."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.chaos.account import Account
from benchmarks.chaos.cell import Application, Cell, Run
from benchmarks.chaos.client import Known

pytestmark = [pytest.mark.engine, pytest.mark.long]

SEED = 0
# The bars are seconds (docs/operations.md): this only tells recovery from none, on a machine that is busy.
RECOVERED_WITHIN_S = 15.0


def run(application: Application, known: Known, cell: str) -> Account:
    print(f"{cell}, seed {SEED}")
    account = asyncio.run(Run(application, Cell.parse(cell), known, SEED).run())
    print(account)
    assert account.clean, account
    assert account.recovery_s is not None
    assert account.recovery_s < RECOVERED_WITHIN_S, account
    assert account.restored_s is not None, account
    return account


def test_the_scheduler_dies_and_its_spare_goes_on_with_the_queue(application: Application, known: Known):
    account = run(application, known, "scheduler:kill:queued")
    assert account.fates == {"completed": account.requests}, account


def test_a_gateway_dies_and_takes_only_its_own_streams_with_it(application: Application, known: Known):
    account = run(application, known, "gateway:kill:mid-stream")
    assert account.survived >= 1, account


def test_an_engine_replica_dies_and_what_has_no_token_is_answered_by_the_other(
    application: Application, known: Known
):
    account = run(application, known, "engine-replica:kill:before-first-token")
    assert account.failed_without_token == 0, account


def test_an_engine_core_dies_and_only_streams_that_had_begun_end_with_an_error(
    application: Application, known: Known
):
    account = run(application, known, "engine-core:kill:mid-stream")
    assert account.failed_without_token == 0, account
    assert account.fates["error"] >= 1, account


@pytest.mark.parametrize(
    "cell", ["gateway:freeze:queued", "scheduler:freeze:queued", "engine-core:freeze:mid-stream"]
)
def test_what_stands_still_is_found_and_replaced(application: Application, known: Known, cell: str):
    run(application, known, cell)
