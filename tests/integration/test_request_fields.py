"""Every field of vLLM's requests is decided: typed here, forbidden, or known to be harmless.

Another version of vLLM that brings new ones fails this test until somebody has decided.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from app.gateway.bounds import COUNTS, NUMBERS
from app.gateway.schemas import SCHEMAS
from app.limits import FORBIDDEN_FIELDS, RequestLimits

# It starts no engine, but to import vLLM takes as long.
pytestmark = pytest.mark.engine

# What vLLM may have as it comes: switches and numbers of one request, checked by vLLM's own types, and texts
# that are part of the prompt or of nothing.
HARMLESS = {
    # How the prompt is made and cut.
    "add_generation_prompt", "add_special_tokens", "continue_final_message", "documents",
    "instructions", "return_assistant_tokens_mask", "suffix", "truncate_prompt_tokens", "truncation",
    "truncation_side", "padding", "prompt",
    # How tokens are chosen and shown.
    "include_stop_str_in_output", "length_penalty", "skip_special_tokens",
    "spaces_between_special_tokens", "ignore_eos", "frequency_penalty", "presence_penalty",
    "repetition_penalty", "seed", "logit_bias", "top_k", "stop", "stop_token_ids",
    "thinking_token_budget", "reasoning", "reasoning_effort", "include_reasoning", "tool_choice",
    "max_tool_calls", "tools",
    # What an answer says.
    "return_prompt_text", "return_token_ids", "return_token_offsets", "return_token_strs",
    "return_tokens_as_token_ids", "stream_interval", "enable_response_messages", "include", "text",
    "encoding_format", "embed_dtype", "endianness", "dimensions", "use_activation",
    # Labels: the engine keeps nothing by them. `store` needs a switch of the engine's that is off.
    "session_id", "store",
}  # fmt: skip

_FIELDS = """
import json
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingChatRequest, EmbeddingCompletionRequest
from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeChatRequest
from vllm.entrypoints.serve.tokenize.protocol import TokenizeCompletionRequest
print(json.dumps({
    "/v1/chat/completions": [*ChatCompletionRequest.model_fields],
    "/v1/completions": [*CompletionRequest.model_fields],
    "/v1/responses": [*ResponsesRequest.model_fields],
    "/v1/embeddings": [*EmbeddingChatRequest.model_fields, *EmbeddingCompletionRequest.model_fields],
    "/tokenize": [*TokenizeChatRequest.model_fields, *TokenizeCompletionRequest.model_fields],
    "/detokenize": [*DetokenizeRequest.model_fields],
}))
"""


@pytest.fixture(scope="module")
def vllm_fields() -> dict[str, list[str]]:
    """In a process of its own: importing vLLM changes this one's logging."""
    done = subprocess.run([sys.executable, "-c", _FIELDS], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("path", SCHEMAS)
def test_every_field_of_vllms_requests_is_decided(path, vllm_fields):
    typed = set(SCHEMAS[path].model_fields)
    assert set(vllm_fields[path]) - typed - set(FORBIDDEN_FIELDS) - HARMLESS == set()


def test_nothing_is_forbidden_or_waved_through_that_no_request_has(vllm_fields):
    known = {name for fields in vllm_fields.values() for name in fields}
    assert set(FORBIDDEN_FIELDS) <= known
    assert known >= HARMLESS


def test_every_limit_of_the_table_exists_and_bounds_a_field():
    typed = {name for model in SCHEMAS.values() for name in model.model_fields}
    assert {*COUNTS, *NUMBERS} <= typed
    assert {*COUNTS.values(), *NUMBERS.values()} <= set(RequestLimits.model_fields)


def test_a_field_is_allowed_by_its_name_only():
    limits = RequestLimits(allowed_fields=("chat_template",))
    assert "chat_template" not in dict(limits.forbidden())
    assert len(dict(limits.forbidden())) == len(FORBIDDEN_FIELDS) - 1
    with pytest.raises(ValueError, match="'chat_tempate' is not one of"):
        RequestLimits(allowed_fields=("chat_tempate",))
