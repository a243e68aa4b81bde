"""What the running application says of itself over HTTP."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.contract import RANKS_PATH
from app.validation.measured import EngineSample, Ranks, RankState
from app.validation.workload import Target

TIMEOUT_S = 60.0


class NotServedError(ConnectionError):
    """Nothing answers there, or something else than the configuration describes."""


# What asking the application can end with.
UNANSWERED = (NotServedError, aiohttp.ClientError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Engines:
    """`kv_tokens`: what the smallest cache holds; None where no engine says it. `limit`: the places that
    the scheduler gives all of them now."""

    count: int
    kv_use: float
    running: int
    preemptions: int
    limit: int
    kv_tokens: int | None

    def sample(self, since_s: float) -> EngineSample:
        return EngineSample(time.perf_counter() - since_s, self.kv_use, self.running, self.preemptions)


class ApplicationState:
    """Reads a running application. Its session is the caller's to close."""

    def __init__(self, http: aiohttp.ClientSession, target: Target) -> None:
        self._http = http
        self._target = target

    async def check(self, max_model_len: int) -> None:
        """Raises NotServedError where another model answers than the configuration's, or none."""
        try:
            cards = (await self._json("/v1/models"))["data"]
            served = {card["id"]: card.get("max_model_len") for card in cards}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotServedError(f"/v1/models does not answer as OpenAI's: {error}") from error
        if served != {self._target.model: max_model_len}:
            raise NotServedError(f"serves {served}, not {self._target.model} with {max_model_len} tokens")

    async def engines(self) -> Engines:
        return engines(await self._text("/metrics"))

    async def ranks(self) -> Ranks:
        found = (await self._json(RANKS_PATH))["ranks"]
        return tuple(
            sorted((RankState(**rank) for rank in found), key=lambda rank: (rank.replica, rank.rank))
        )

    async def _json(self, path: str) -> Any:
        async with self._get(path) as response:
            await self._expect(response, path)
            return await response.json(content_type=None)

    async def _text(self, path: str) -> str:
        async with self._get(path) as response:
            await self._expect(response, path)
            text: str = await response.text()
            return text

    def _get(self, path: str) -> Any:
        headers = {"authorization": f"Bearer {self._target.key}"} if self._target.key else {}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        url = self._target.url + self._target.prefix + path
        return self._http.get(url, headers=headers, timeout=timeout)

    async def _expect(self, response: aiohttp.ClientResponse, path: str) -> None:
        if response.status != 200:
            raise NotServedError(f"{path} answers {response.status}: {(await response.text())[:200]}")


def engines(text: str) -> Engines:
    """From the metrics page: vLLM's own figures, of all replicas."""
    families = {family.name: family for family in text_string_to_metric_families(text)}
    kv_use = _values(families.get("vllm:kv_cache_usage_perc"))
    caches = families.get("vllm:cache_config_info")
    return Engines(
        count=len(kv_use),
        kv_use=max(kv_use, default=0.0),
        running=int(sum(_values(families.get("vllm:num_requests_running")))),
        preemptions=int(sum(_values(families.get("vllm:num_preemptions"), "_total"))),
        limit=int(sum(_values(families.get("promiseserve_replica_limit")))),
        kv_tokens=min(filter(None, map(_kv_tokens, _labels(caches))), default=None),
    )


def _values(family: Metric | None, suffix: str = "") -> list[float]:
    samples = family.samples if family is not None else []
    return [sample.value for sample in samples if sample.name.endswith(suffix)]


def _labels(family: Metric | None) -> list[dict[str, str]]:
    return [sample.labels for sample in family.samples] if family is not None else []


def _kv_tokens(labels: dict[str, str]) -> int | None:
    blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    return int(blocks) * int(size) if blocks.isdigit() and size.isdigit() else None
