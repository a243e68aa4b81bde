"""vLLM's refusals, retold: one field, its value, one reason."""

from __future__ import annotations

import json

import pytest

from app.gateway.engine_errors import SHOWN_MESSAGE_CHARS
from app.gateway.engine_errors import from_engine as from_engine_of
from app.gateway.errors import ApiError, unknown_path


def from_engine(status: int, body: bytes) -> ApiError:
    return from_engine_of(status, body, "/v1/chat/completions")


def vllm(message: str, param: str | None = None, code: int = 400) -> bytes:
    return json.dumps(
        {"error": {"message": message, "type": "Bad Request", "param": param, "code": code}}
    ).encode()


def problems(*entries: dict) -> bytes:
    lines = "".join(f"  {entry}\n" for entry in entries)
    return vllm(f"{len(entries)} validation errors:\n{lines}", "body.messages.0")


def test_of_every_branch_of_a_union_the_first_is_told_with_the_clients_own_path():
    error = from_engine(
        400,
        problems(
            {
                "type": "string_type",
                "loc": ("body", "messages", 0, "ChatCompletionDeveloperMessageParam", "content", "str"),
                "msg": "Input should be a valid string",
                "input": 3,
            },
            {
                "type": "missing",
                "loc": ("body", "messages", 0, "CustomChatCompletionMessageParam", "name"),
                "msg": "Field required",
                "input": {"role": "user", "content": 3},
            },
        ),
    )
    assert (error.status, error.code, error.param) == (400, "invalid_value", "messages.0.content")
    assert error.message == "messages.0.content: 3 is refused: Input should be a valid string"
    assert error.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("location", "field"),
    [
        (("body", "function-wrap[__log_extra_fields__()]", "top_k"), "top_k"),
        (("body", "stop", "str"), "stop"),
        (("body", "stop", "list[str]", 1), "stop.1"),
        (("body", "tool_choice", "literal['none']"), "tool_choice"),
        (("body", "stream_options", "include_usage"), "stream_options.include_usage"),
        (("body",), "body"),
    ],
)
def test_branches_are_no_part_of_the_path(location, field):
    error = from_engine(400, problems({"type": "t", "loc": location, "msg": "no", "input": None}))
    assert (error.param, error.message) == (field, f"{field}: None is refused: no")


def test_a_missing_field_is_told_without_the_object_that_lacks_it():
    entry = {"type": "missing", "loc": ("body", "tools", 0, "function"), "msg": "Field required", "input": {}}
    error = from_engine(400, problems(entry))
    assert (error.code, error.param) == ("missing_field", "tools.0.function")
    assert error.message == "tools.0.function: the field is required"


def test_a_value_is_shortened():
    entry = {"type": "t", "loc": ("body", "stop"), "msg": "no", "input": "secret " * 100}
    assert len(from_engine(400, problems(entry)).message) < 100


def test_a_plain_message_keeps_its_status_and_its_field():
    error = from_engine(404, vllm("The model `x` does not exist.", "model", 404))
    assert (error.status, error.code, error.param) == (404, "invalid_value", "model")
    assert error.message == "The model `x` does not exist."


# As vLLM 0.29 writes them: sampling_params.py, entrypoints/openai/completion/protocol.py.
@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("n must be 1 when using greedy sampling, got 2.", "n"),
        ("min_tokens must be less than or equal to max_tokens=16, got 20.", "min_tokens"),
        ("stop cannot contain an empty string.", "stop"),
        ("bad_words cannot contain an empty string. Got bad_words=['']", "bad_words"),
        ("`logprob_token_ids` is not supported with beam search.", "logprob_token_ids"),
        ("Stream options can only be defined when `stream=True`.", None),
        ("dimensions must be positive.", None),
        ("", None),
    ],
)
def test_a_message_that_begins_with_a_field_of_the_path_names_it(message, param):
    error = from_engine(400, vllm(message))
    assert (error.status, error.code, error.param) == (400, "invalid_value", param)
    assert error.message == message


def test_what_the_engine_names_itself_stands():
    assert from_engine(400, vllm("n must be 1", "temperature")).param == "temperature"


def test_a_key_of_the_clients_is_shown_by_its_beginning():
    entry = {"type": "t", "loc": ("body", "metadata", "k" * 10_000), "msg": "no", "input": 1}
    assert from_engine(400, problems(entry)).param == "metadata." + "k" * 32
    assert len(from_engine(400, vllm("no", "k" * 10_000)).param) == SHOWN_MESSAGE_CHARS


def test_a_path_that_the_model_does_not_have_is_as_unknown_as_any_other():
    error = from_engine_of(404, b'{"detail":"Not Found"}', "/v1/embeddings")
    assert (error.status, error.code, error.param) == (404, "unknown_path", "path")
    assert error.message == unknown_path("/v1/embeddings").message


# As vLLM 0.29 writes them: renderers/params.py, entrypoints/serve/utils/api_utils.py,
# v1/engine/input_processor.py, entrypoints/openai/responses/serving.py.
TOO_LONG = {
    "tokens": (
        "This model's maximum context length is 64 tokens. However, you requested 1 output tokens and your "
        "prompt contains at least 64 input tokens. (parameter=input_tokens, value=64)",
        "input_tokens",
    ),
    "characters": ("Your prompt contains 900 characters.", "input_text"),
    "no room": ("Input length (65) exceeds model's maximum context length (64).", None),
    "the core": ("The decoder prompt (length 65) is longer than the maximum model length of 64.", None),
    "responses": ("The engine prompt length 64 exceeds the max_model_len 64. Please reduce prompt.", "input"),
}


@pytest.mark.parametrize(("message", "param"), TOO_LONG.values(), ids=TOO_LONG)
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", "messages"),
        ("/v1/completions", "prompt"),
        ("/v1/responses", "input"),
        ("/v1/embeddings", "input"),
    ],
)
def test_a_prompt_that_is_too_long_is_told_by_openais_code_and_the_clients_field(path, field, message, param):
    error = from_engine_of(400, vllm(message, param), path)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", field)
    assert error.message == f"{field}: {message}"


@pytest.mark.parametrize(
    "message",
    [
        "1 validation error:\n  {'type': 'value_error', 'ctx': {'error': ValueError('no')}}",
        "1 validation error:\n  not a dictionary",
        "1 validation error:",
        "1 validation error:\n  " + "[" * 5000,
    ],
    ids=["objects", "prose", "nothing", "deep"],
)
def test_a_list_that_can_not_be_read_is_passed_on_as_it_is_but_cut(message):
    error = from_engine(400, vllm(message))
    assert (error.status, error.param) == (400, None)
    assert error.message == message[:SHOWN_MESSAGE_CHARS]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"3", b'{"detail": "Not Found"}', b'{"error": "text"}', b'{"error": null}'],
)
def test_an_answer_of_another_kind_is_shown_shortened(body):
    error = from_engine(422, body + b" " * 500)
    assert (error.status, error.code, error.param) == (422, "engine_refused", None)
    assert len(error.message) < 110
