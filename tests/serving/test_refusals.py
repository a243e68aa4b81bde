from __future__ import annotations

import logging

import pytest

from app.gateway.errors import ApiError
from app.serving.refusals import NoRefusals


@pytest.mark.parametrize(
    ("raised", "logged"),
    [(ApiError(429, "rejected_deadline", "late"), False), (KeyError("else"), True), (None, True)],
)
def test_serve_logs_what_is_no_refusal(caplog, raised: Exception | None, logged: bool):
    logger = logging.getLogger("tests.refusals")
    logger.addFilter(NoRefusals())
    if raised is None:
        logger.error("Request failed.")
    else:
        try:
            raise raised
        except Exception:
            logger.exception("Request failed.")
    assert bool(caplog.records) is logged
