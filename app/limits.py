"""How large a request may be, and what it may not ask for: every limit of the edge, each with its reason.

`app/gateway/bounds.py` holds requests against them, `app/gateway/http.py` what comes before the JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

# Fields of vLLM 0.29's requests that reach beyond the request, and what each reaches. A client may send them
# where `allowed_fields` names them, and null always.
FORBIDDEN_FIELDS: Mapping[str, str] = {
    "chat_template": "is a program (Jinja) that the server would run",
    "prompt_embeds": "is a serialised tensor that the server would load",
    "previous_input_messages": "is a prompt that nobody counts",
    "mm_processor_kwargs": "sets arguments of the model's processor code",
    "media_io_kwargs": "sets arguments of the code that decodes media",
    "kv_transfer_params": "names other engines whose cache would be read",
    "ec_transfer_params": "names other engines whose cache would be read",
    "vllm_xargs": "sets arguments of the server's plugins",
    "request_id": "is the gateway's to choose: every answer says it as x-ticket-id",
    "use_beam_search": "makes many requests out of one, which nobody admits",
    "background": "leaves work behind that no lease covers",
    "previous_response_id": "reads an answer that may be another tenant's",
    "repetition_detection": "sets arguments of the engine's sampler loop",
    "routed_experts_prompt_start": "asks for the model's internals",
}

_Count = Annotated[int, Field(ge=1)]


class RequestLimits(BaseModel):
    """Bounds of one request. What exceeds one is refused before it takes a place in the queue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A million tokens of text; also what one waiting request can hold of the gateway's memory.
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    # A client on a slow line sends 4 MiB in this time at 140 KB/s; a slower one holds memory for nothing.
    body_timeout_s: float = Field(default=30.0, gt=0)
    # HAProxy's own buffer holds as much; a Bearer key and a browser's headers are a few KiB.
    max_header_bytes: int = Field(default=16 * 1024, ge=512)
    max_headers: _Count = 100

    # OpenAI's deepest object (a schema in a tool) nests about ten levels around the schema itself.
    max_json_depth: _Count = 64
    # Each message is rendered by the template, on one core.
    max_messages: _Count = 1024
    # Answers of one request, `n` times its prompts: one place in the queue, and one of an engine's for each.
    max_choices: _Count = 32
    # Each input of an embedding is a request to the engine.
    max_embedding_inputs: _Count = 256
    # Every token is compared with every stop string. OpenAI allows 4; vLLM as many.
    max_stop_strings: _Count = 4
    max_stop_chars: _Count = 256
    # A row of probabilities for each token: sorted, and sent as text. OpenAI's and vLLM's maximum.
    max_logprobs: int = Field(default=20, ge=0)
    # Of all tokens that come in one piece: each takes about 10 us (estimated) of the engine's event loop, for
    # which all others' tokens wait, and a heartbeat. 8,000 tokens of one answer, with 20 each, are fewer.
    max_logprob_entries: _Count = 200_000
    # OpenAI's maximum is 300; each is a write for each token.
    max_logit_bias: _Count = 300
    # Of `stop_token_ids`, `allowed_token_ids` and `bad_words`.
    max_token_list: _Count = 1024
    # OpenAI's maximum; all of them become part of the prompt.
    max_tools: _Count = 128
    # Of chat_template_kwargs and metadata: switches and labels, not data.
    max_template_kwargs: _Count = 16
    max_metadata: _Count = 16
    # Labels such as `user`, a metadata value, a cache salt.
    max_label_chars: _Count = 512
    # None: what fits into the model's window.
    max_output_tokens: _Count | None = None

    # Schemas and grammars are compiled in the engine. `python -m benchmarks grammars` measures for how long.
    # On one busy core: 1,000 properties 0.4 s; 30 levels 0.03 s, 100 levels 0.6 s, 400 more than 15 s.
    max_schema_bytes: _Count = 32 * 1024
    max_schema_depth: _Count = 32
    max_regex_chars: _Count = 512
    # `* + ? {` of all patterns together: 500 times `.*` 5 s.
    max_regex_operators: _Count = 64
    # What may be left out, alternatives included: 16 times `.?` 0.5 s, 32 times 3 s, 64 times more than 15 s.
    max_regex_optionals: _Count = 16
    # Sum of {n,m}, minLength and maxLength: one state for each character. 8,192 took 1.7 s; a hundred
    # different lengths around 4,096 more than 15 s.
    max_repetitions: _Count = 8192

    allowed_fields: tuple[str, ...] = Field(
        default=(), description="Names of FORBIDDEN_FIELDS that clients may use all the same."
    )
    media_hosts: tuple[Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")], ...] = Field(
        default=(),
        description="Hosts from which the engine may fetch media; `data:` URLs need none. A host that "
        "resolves to a private address opens that address.",
    )

    @field_validator("allowed_fields")
    @classmethod
    def _are_forbidden_otherwise(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(names) - FORBIDDEN_FIELDS.keys()):
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(sorted(FORBIDDEN_FIELDS))}")
        return names

    def forbidden(self) -> Iterator[tuple[str, str]]:
        """What is refused here, with the reason."""
        return ((name, why) for name, why in FORBIDDEN_FIELDS.items() if name not in self.allowed_fields)


DEFAULT_LIMITS = RequestLimits()
