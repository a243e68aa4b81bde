"""A refusal is an answer, which a handle gets as an exception, and Serve logs each with its trace."""

from __future__ import annotations

import logging

from app.gateway.errors import ApiError


class NoRefusals(logging.Filter):
    """Drops what Serve says of these; over HTTP they leave no line either."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.exc_info is None or not isinstance(record.exc_info[1], ApiError)
