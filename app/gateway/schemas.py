"""The types of what clients may send, path by path: what is acted on, limited or documented.

Fields that are not here are left to the engine, or forbidden (app/limits.py). How much of each is allowed
is in app/gateway/bounds.py; /openapi.json is made from these models.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from app.gateway.items import TYPES_WITHOUT_ROLE

# A key is compared, not stored for long; OpenAI's own are far shorter.
MAX_CACHE_KEY_CHARS = 256

# vLLM's engine takes no more than 64 bits.
_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_TokenId = Annotated[int, Field(ge=0, lt=2**31)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Seconds = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]
# The prompt is cut to so many tokens; -1: to what fits into the window beside the output.
_Cut = Annotated[int, Field(ge=-1, lt=2**63)]
_TemplateKwargs = dict[str, str | int | float | bool | None]
_TEXT = {"type": "string", "minLength": 1}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
# A text, token ids, or a list of either; app/gateway/prompt.py tells them apart.
_Prompts = Annotated[
    Any,
    WithJsonSchema(
        {"anyOf": [_TEXT, _TOKENS, {"type": "array", "items": {"anyOf": [_TEXT, _TOKENS]}, "minItems": 1}]}
    ),
]

_ROLE = {"required": ["role"], "properties": {"type": {"enum": ["message", None]}}}
_NO_ROLE = {"required": ["type"], "properties": {"type": {"enum": [*TYPES_WITHOUT_ROLE]}}}
# app/gateway/items.py says why.
_ITEMS = {"type": "array", "items": {"type": "object", "anyOf": [_ROLE, _NO_ROLE]}}


class _Typed(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Fields(_Typed):
    """What every path has."""

    # OpenTelemetry's `gen_ai.operation.name`.
    operation: ClassVar[str]
    # What holds what the model reads.
    prompt_field: ClassVar[str]

    model: str
    priority: _Int64 | None = None
    # OpenAI's names or a class's; what it may not have, a tenant is not given.
    service_tier: str | None = None
    # Requests of one key prefer one engine.
    prompt_cache_key: Annotated[str, Field(max_length=MAX_CACHE_KEY_CHARS)] | None = None
    # Promises that are asked for, in seconds from arrival: they can only tighten the class's own.
    ttft_budget_s: _Seconds | None = None
    deadline_s: _Seconds | None = None
    user: str | None = None
    # Joined with the tenant's: prefixes are shared by requests of one tenant and one salt.
    cache_salt: Annotated[str, Field(min_length=1)] | None = None


class StreamOptions(_Typed):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchema(_Typed):
    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Typed):
    """A structural tag has fields of its own, which the engine reads."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(_Typed):
    """vLLM's own form; one of the first six."""

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None
    whitespace_pattern: str | None = None


class Function(_Typed):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Typed):
    type: Literal["function"] = "function"
    function: Function


class _Generated(Fields):
    """What has an answer of text."""

    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    metadata: dict[str, str] | None = None


class _Sampled(_Generated):
    """What chat and completions share of the sampler's settings."""

    n: _Count | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: _Int64 | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[_TokenId] | None = None
    allowed_token_ids: list[_TokenId] | None = None
    # vLLM's bound.
    logprob_token_ids: Annotated[list[_TokenId], Field(max_length=128)] | None = None
    bad_words: list[str] | None = None
    # -1 and 0: all tokens.
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    truncate_prompt_tokens: _Cut | None = None
    # A row of the whole vocabulary (-1) is not offered.
    prompt_logprobs: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None


class Message(BaseModel):
    """The engine knows what each role may say."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: str


class Chat(_Sampled):
    operation = "chat"
    prompt_field = "messages"

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    # vLLM's: the answer begins with the last message, where that has the same role.
    echo: bool | None = None
    tools: list[Tool] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: _TemplateKwargs | None = None


class Completion(_Sampled):
    operation = "text_completion"
    prompt_field = "prompt"

    prompt: _Prompts
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None


class ResponsesTool(_Typed):
    """No tool runs on the server: a tool that would is refused."""

    type: Literal["function"]
    name: str
    parameters: dict[str, Any] | None = None


class TextFormat(_Typed):
    type: Literal["text", "json_object", "json_schema"]
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class TextConfig(_Typed):
    format: TextFormat | None = None


class Responses(_Generated):
    operation = "chat"
    prompt_field = "input"

    input: Annotated[str | list[Any], WithJsonSchema({"anyOf": [{"type": "string"}, _ITEMS]})]
    instructions: str | None = None
    max_output_tokens: _Count | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stop: str | list[str] | None = None
    tools: list[ResponsesTool] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    # "auto": the input is cut to what fits.
    truncation: Literal["auto", "disabled"] | None = None
    structured_outputs: StructuredOutputs | None = None
    chat_template_kwargs: _TemplateKwargs | None = None


class Embedding(Fields):
    """Of inputs; vLLM's other form, of messages, is not offered."""

    operation = "embeddings"
    prompt_field = "input"

    input: _Prompts
    messages: None = None
    chat_template_kwargs: None = None
    dimensions: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    truncate_prompt_tokens: _Cut | None = None
    # vLLM's "bytes" tells of all inputs in one header, and the gateway reads headers of up to 8,190 bytes.
    encoding_format: Literal["float", "base64", "bytes_only"] | None = None


class Tokenize(Fields):
    """A prompt or messages, told apart by the engine."""

    operation = "tokenize"
    prompt_field = "prompt"

    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: _TemplateKwargs | None = None


class Detokenize(Fields):
    operation = "tokenize"
    prompt_field = "tokens"

    tokens: list[_TokenId]


# What is checked for each of app.contract.LEASED_PATHS.
SCHEMAS: dict[str, type[Fields]] = {
    "/v1/chat/completions": Chat,
    "/v1/completions": Completion,
    "/v1/responses": Responses,
    "/v1/embeddings": Embedding,
    "/tokenize": Tokenize,
    "/detokenize": Detokenize,
}
# Where vLLM's request has a `cache_salt`.
SALTED_PATHS = frozenset(SCHEMAS) - {"/tokenize", "/detokenize"}
