"""What an application promises before it is deployed; `python -m app validate` holds it against the truth.

The defaults are the plan's for Llama-3-70B on 8 H100s; a configuration for other hardware states its own.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PromisesConfig(BaseModel):
    """Latency, throughput, memory and balance that a running application must show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A chat turn with its history, and a long answer.
    prompt_tokens: int = Field(default=1024, ge=1, description="Of the requests that are measured.")
    output_tokens: int = Field(default=256, ge=2, description="Of the requests that are measured.")
    # Few enough that none waits for a place: what waits is the queue's time, not the engine's.
    latency_streams: int = Field(
        default=8,
        ge=1,
        description="Requests at a time while latency is measured; no more than an engine runs.",
    )
    ttft_p50_ms: float = Field(default=500.0, gt=0, description="Prefill: time to the first token, median.")
    ttft_p99_ms: float = Field(default=1000.0, gt=0, description="Prefill, of all but one in a hundred.")
    tpot_p50_ms: float = Field(default=50.0, gt=0, description="Decode: time per output token, median.")
    tpot_p99_ms: float = Field(default=100.0, gt=0, description="Decode, of all but one in a hundred.")
    requests_per_s: float = Field(default=8.0, gt=0, description="Sustained, at the stated lengths.")
    # What is left is for fragmentation and for what lives outside the engine's pool.
    memory_share: float = Field(default=0.85, gt=0, le=1, description="Of a device's memory, at the fullest.")
    kv_tokens: int | None = Field(
        default=None,
        ge=1,
        description="What an engine's KV cache holds; all its places at a full window when absent.",
    )
    # Each one computes a prompt twice; one in ten is noise, more is a storm.
    preemptions_per_request: float = Field(default=0.1, ge=0, description="While the cache is filled.")
    load_imbalance: float = Field(
        default=0.05, ge=0, description="Of the ranks' work: (largest - smallest) / mean."
    )
    memory_imbalance: float = Field(default=0.05, ge=0, description="Of what they hold, likewise.")
    error_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Requests that fail; a refusal for load (429) is no error, a 503 is.",
    )
