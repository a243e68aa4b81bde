"""What is refused before it takes a lease: the field, the value, the reason, the status."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from app.flow.config import FlowConfig
from app.flow.ticket import Ticket
from app.gateway.errors import ApiError
from app.gateway.prompt import MAX_BLOCKS, Part, prompt_of
from app.gateway.requests import READ_AT_ONCE_BYTES, Request, Window, read
from app.gateway.requests import parse as parse_for
from app.gateway.schemas import SALTED_PATHS, SCHEMAS
from app.gateway.tiers import Tiers
from app.gateway.tokens import TokenCounter
from app.limits import RequestLimits
from tests.fakes import window

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
# 64 tokens; a word is a token.
WINDOW = window()
# By OpenAI's sentence LiteLLM and others know what they can cut.
FULL = "This model's maximum context length is 64 tokens."
SURROGATE = "\ud800"

MINIMAL = {
    CHAT: {"messages": [{"role": "user", "content": "Hi"}]},
    COMPLETIONS: {"prompt": "Hi"},
    RESPONSES: {"input": "Hi"},
    EMBEDDINGS: {"input": "Hi"},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [1, 2]},
}


VOCABULARY = 100
# Its tokens are words: a text of 40 words has 40 tokens.
TOKENIZER = Tokenizer(models.WordLevel({"word": 0, "?": 1}, unk_token="?"))
TOKENIZER.pre_tokenizer = pre_tokenizers.Whitespace()
COUNTING = window(TokenCounter(TOKENIZER, VOCABULARY))


def parse(path: str, body: bytes, window: Window) -> Request:
    return parse_for(path, body, window, "blue")


def encoded(path: str, **fields: object) -> bytes:
    return json.dumps({"model": "tiny", **MINIMAL[path], **fields}).encode()


def refusal(path: str, body: bytes, window: Window = WINDOW) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(path, body, window)
    assert str(caught.value).isprintable()
    json.loads(caught.value.body())
    return caught.value


@pytest.mark.parametrize("path", SCHEMAS)
def test_the_smallest_request_of_every_path_goes_on_as_it_came_but_for_the_salt(path):
    body = b" " + encoded(path) + b"\n"
    request = parse(path, body, WINDOW)
    assert (request.path, request.stream, request.ticket.priority) == (path, False, 0)
    sent = json.loads(request.body)
    assert bool(sent.pop("cache_salt", "")) == (path in SALTED_PATHS)
    assert sent == json.loads(body)


FUNCTION = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("tools", [5, "f", {"f": 1}])
def test_tools_where_there_are_none_are_left_to_the_engine(tools):
    assert parse(COMPLETIONS, encoded(COMPLETIONS, tools=tools), WINDOW)


def test_a_token_id_that_no_engine_can_hold_is_refused_also_without_a_vocabulary():
    window = replace(WINDOW, counter=None)
    error = refusal(COMPLETIONS, encoded(COMPLETIONS, prompt=[1] * 300 + [2**63]), window)
    assert (error.status, error.code, error.param) == (400, "invalid_value", "prompt")


def test_tools_are_served_where_the_engine_can_tell_a_call_of_one():
    refused = refusal(CHAT, encoded(CHAT, tools=[FUNCTION]))
    assert (refused.status, refused.code, refused.param) == (400, "unsupported_field", "tools")
    assert "engine.tool_call_parser" in refused.message
    for fields in ({"tools": []}, {"tools": None}, {"tools": [FUNCTION], "tool_choice": "none"}):
        assert parse(CHAT, encoded(CHAT, **fields), WINDOW)
    assert parse(CHAT, encoded(CHAT, tools=[FUNCTION]), replace(WINDOW, tools=True))


def test_nor_are_they_in_a_response_where_it_can_not():
    refused = refusal(RESPONSES, encoded(RESPONSES, tools=[RESPONSES_TOOL]))
    assert (refused.status, refused.code, refused.param) == (400, "unsupported_field", "tools")
    for fields in ({"tools": []}, {"tools": [RESPONSES_TOOL], "tool_choice": "none"}):
        assert parse(RESPONSES, encoded(RESPONSES, **fields), WINDOW)
    assert parse(RESPONSES, encoded(RESPONSES, tools=[RESPONSES_TOOL]), replace(WINDOW, tools=True))


@pytest.mark.parametrize("type_", ["allowed_tools", "custom", "web_search_preview", None])
def test_a_choice_among_the_tools_of_a_response_that_the_engine_would_not_keep_is_refused(type_):
    for tools in ({"tools": [RESPONSES_TOOL]}, {}):
        choice = {"type": type_, "name": "f", "mode": "auto"}
        body = encoded(RESPONSES, tool_choice=choice, **tools)
        error = refusal(RESPONSES, body, replace(WINDOW, tools=True))
        assert (error.status, error.code, error.param) == (400, "unsupported_field", "tool_choice.type")
        assert error.message.startswith(f"tool_choice.type: {type_!r} is not supported: ")


def test_one_call_at_a_time_is_refused_of_a_response_where_there_are_tools_to_call():
    window = replace(WINDOW, tools=True)
    one = {"tools": [RESPONSES_TOOL], "parallel_tool_calls": False}
    for choice in ({}, {"tool_choice": "required"}, {"tool_choice": {"type": "function", "name": "f"}}):
        error = refusal(RESPONSES, encoded(RESPONSES, **one, **choice), window)
        assert (error.status, error.code, error.param) == (400, "unsupported_field", "parallel_tool_calls")
        assert error.message.startswith("parallel_tool_calls: False is not supported: ")
    for called in ({"tool_choice": "none"}, {"tools": []}, {"tools": None}, {"parallel_tool_calls": True}):
        assert parse(RESPONSES, encoded(RESPONSES, **{**one, **called}), window)
    # Of a chat vLLM keeps it.
    assert parse(CHAT, encoded(CHAT, tools=[FUNCTION], parallel_tool_calls=False), window)


def salt_of(tenant: str, **fields: object) -> str:
    return json.loads(parse_for(CHAT, encoded(CHAT, **fields), WINDOW, tenant).body)["cache_salt"]


def test_a_cache_is_shared_within_a_tenant_only_whatever_salt_its_clients_name():
    assert salt_of("blue") == salt_of("blue")
    known = {salt_of("blue"), salt_of("red"), salt_of("blue", cache_salt="s"), salt_of("red", cache_salt="s")}
    assert len(known) == 4
    assert salt_of("blue", cache_salt="s") == salt_of("blue", cache_salt="s")
    # Nobody names another's.
    assert salt_of("red", cache_salt=salt_of("blue")) not in known


def test_what_may_be_in_an_engines_cache_is_told_apart_by_the_salt_that_the_engine_gets():
    ids = [*range(20)]
    plain, salted = (
        {*ticket_of(COMPLETIONS, prompt=ids, **own).prefix_blocks} for own in ({}, {"cache_salt": "s"})
    )
    assert len(plain) == len(salted) == 2
    assert not plain & salted


def test_what_the_gateway_acts_on_is_read_and_unknown_fields_are_left_to_the_engine():
    request = parse(CHAT, encoded(CHAT, stream=True, priority=-3, logit_bias={"5": 1}, future={}), WINDOW)
    assert (request.stream, request.ticket.priority) == (True, -3)


@pytest.mark.parametrize("field", ["stream", "priority", "n", "temperature", "top_p", "max_tokens"])
def test_null_means_the_default(field):
    request = parse(CHAT, encoded(CHAT, **{field: None}), WINDOW)
    assert (request.stream, request.ticket.priority) == (False, 0)


@pytest.mark.parametrize("path", SCHEMAS)
def test_a_null_does_not_reach_the_engine_which_takes_it_for_no_default(path):
    """Inside a field it does: there it may mean something."""
    body = encoded(
        path, service_tier=None, tools=None, priority=None, future=None, user="é", other={"a": None}
    )
    sent = json.loads(parse(path, body, WINDOW).body)
    sent.pop("cache_salt", None)
    assert sent == json.loads(encoded(path, user="é", other={"a": None}))


@pytest.mark.parametrize(
    ("path", "field", "value", "shown"),
    [
        (CHAT, "model", 7, "model: 7 is refused: Input should be a valid string"),
        (CHAT, "stream", "yes", "stream: 'yes' is refused: Input should be a valid boolean"),
        (CHAT, "stream", 1, "stream: 1 is refused: Input should be a valid boolean"),
        (CHAT, "priority", "high", "priority: 'high' is refused: Input should be a valid integer"),
        (CHAT, "priority", True, "priority: True is refused: Input should be a valid integer"),
        (CHAT, "priority", 2.0, "priority: 2.0 is refused: Input should be a valid integer"),
        (CHAT, "priority", 2**63, "priority: 9223372036854775808 is refused: Input should be less than"),
        (CHAT, "n", 0, "n: 0 is refused: Input should be greater than or equal to 1"),
        (CHAT, "n", True, "n: True is refused: Input should be a valid integer"),
        (CHAT, "temperature", -0.5, "temperature: -0.5 is refused: Input should be greater than"),
        (CHAT, "temperature", "hot", "temperature: 'hot' is refused: Input should be a valid number"),
        (CHAT, "temperature", True, "temperature: True is refused: Input should be a valid number"),
        (CHAT, "top_p", 0, "top_p: 0 is refused: Input should be greater than 0"),
        (CHAT, "top_p", 1.5, "top_p: 1.5 is refused: Input should be less than or equal to 1"),
        (CHAT, "max_tokens", 0, "max_tokens: 0 is refused: Input should be greater than or equal to 1"),
        (CHAT, "max_tokens", "9", "max_tokens: '9' is refused: Input should be a valid integer"),
        (CHAT, "max_completion_tokens", -1, "max_completion_tokens: -1 is refused: Input should be"),
        (CHAT, "messages", [], "messages: [] is refused: List should have at least 1 item"),
        (CHAT, "messages", "Hi", "messages: 'Hi' is refused: Input should be a valid list"),
        (COMPLETIONS, "max_tokens", -1, "max_tokens: -1 is refused: Input should be"),
        (RESPONSES, "max_output_tokens", 0, "max_output_tokens: 0 is refused: Input should be"),
        (COMPLETIONS, "prompt", "", "prompt: '' is empty"),
        (COMPLETIONS, "prompt", [], "prompt: [] is empty"),
        (COMPLETIONS, "prompt", ["Hi", ""], "prompt: '' is empty"),
        (EMBEDDINGS, "input", "", "input: '' is empty"),
        (EMBEDDINGS, "input", [], "input: [] is empty"),
    ],
)
def test_a_bad_value_is_refused_with_its_field_the_value_and_the_reason(path, field, value, shown):
    error = refusal(path, encoded(path, **{field: value}))
    assert (error.status, error.code, error.param) == (400, "invalid_value", field)
    assert error.message.startswith(shown)


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        (CHAT, {"n": 2, "temperature": 0}, "n: 2 answers would be the same at temperature 0"),
        (COMPLETIONS, {"n": 3, "temperature": 1e-6}, "n: 3 answers would be the same at temperature 1e-06"),
        (
            CHAT,
            {"min_tokens": 6, "max_tokens": 5},
            "min_tokens: 6 is more than the 5 that an answer may have",
        ),
        (
            CHAT,
            {"min_tokens": 6, "max_completion_tokens": 5, "max_tokens": 9},
            "min_tokens: 6 is more than the 5 that an answer may have",
        ),
        (COMPLETIONS, {"min_tokens": 17}, "min_tokens: 17 is more than the 16 that an answer may have"),
        (CHAT, {"stop": ""}, "stop: '' is empty"),
        (COMPLETIONS, {"stop": ["a", ""]}, "stop: '' is empty"),
        (RESPONSES, {"stop": [""]}, "stop: '' is empty"),
        (CHAT, {"bad_words": ["a", ""]}, "bad_words: '' is empty"),
    ],
)
def test_what_the_sampler_would_refuse_takes_no_place_in_the_queue(path, fields, message):
    error = refusal(path, encoded(path, **fields))
    assert (error.status, error.code, error.message) == (400, "invalid_value", message)
    assert error.param == message.partition(":")[0]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"n": 2}),
        (CHAT, {"n": 2, "temperature": 0.1}),
        (CHAT, {"n": 1, "temperature": 0}),
        (RESPONSES, {"n": 2, "temperature": 0}),
        (CHAT, {"min_tokens": 5, "max_tokens": 5}),
        (CHAT, {"min_tokens": 20}),
        (COMPLETIONS, {"min_tokens": 16}),
        (CHAT, {"stop": [], "bad_words": []}),
    ],
)
def test_what_the_sampler_takes_is_let_through(path, fields):
    assert parse(path, encoded(path, **fields), WINDOW)


def test_a_beam_search_samples_nothing():
    allowed = replace(WINDOW, limits=RequestLimits(allowed_fields=("use_beam_search",)))
    assert parse(CHAT, encoded(CHAT, use_beam_search=True, n=2, temperature=0), allowed)


def test_without_another_bound_the_least_output_has_to_fit_into_the_window():
    error = refusal(CHAT, encoded(CHAT, min_tokens=65))
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "min_tokens")


@pytest.mark.parametrize("value", [[-1], [[0], [5, -1]]])
@pytest.mark.parametrize(("path", "field"), [(COMPLETIONS, "prompt"), (EMBEDDINGS, "input")])
def test_a_token_id_is_not_negative(path, field, value):
    error = refusal(path, encoded(path, **{field: value}))
    assert (error.status, error.param) == (400, field)
    assert error.message.endswith("is no token id: the least is 0")


@pytest.mark.parametrize(("value", "shown"), [([VOCABULARY], VOCABULARY), ([[0], [1, 436527743]], 436527743)])
@pytest.mark.parametrize(("path", "field"), [(COMPLETIONS, "prompt"), (EMBEDDINGS, "input")])
def test_a_token_id_is_in_the_vocabulary_where_that_is_known(path, field, value, shown):
    error = refusal(path, encoded(path, **{field: value}), COUNTING)
    assert (error.status, error.param) == (400, field)
    assert error.message == f"{field}: {shown} is no token id: the greatest is 99"
    assert parse(path, encoded(path, **{field: value}), WINDOW)


@pytest.mark.parametrize("value", [3, None, True, {"a": 1}, [1, True], [1, "Hi"], [[]], [[1], [None]]])
@pytest.mark.parametrize(("path", "field"), [(COMPLETIONS, "prompt"), (EMBEDDINGS, "input")])
def test_a_prompt_is_a_text_or_token_ids_or_a_list_of_either(path, field, value):
    error = refusal(path, encoded(path, **{field: value}))
    assert (error.status, error.code, error.param) == (400, "invalid_type", field)
    assert error.message.endswith("is neither a text nor a list of token ids")


@pytest.mark.parametrize("value", ["Hi", ["Hi", "Ho"], [1, 2], [[1, 2], [3]], ["Hi", [1, 2]]])
@pytest.mark.parametrize(("path", "field"), [(COMPLETIONS, "prompt"), (EMBEDDINGS, "input")])
def test_every_shape_of_prompt_is_accepted(path, field, value):
    assert parse(path, encoded(path, **{field: value}), WINDOW)


def test_a_wrong_message_is_named_by_its_place():
    error = refusal(CHAT, encoded(CHAT, messages=[{"role": "user"}, {"role": 5}]))
    assert (error.param, error.message) == (
        "messages.1.role",
        "messages.1.role: 5 is refused: Input should be a valid string",
    )


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (CHAT, "model"),
        (CHAT, "messages"),
        (COMPLETIONS, "prompt"),
        (RESPONSES, "input"),
        (EMBEDDINGS, "input"),
    ],
)
def test_a_missing_field_is_named(path, field):
    body = json.loads(encoded(path))
    del body[field]
    error = refusal(path, json.dumps(body).encode())
    assert (error.status, error.code, error.param) == (400, "missing_field", field)
    assert error.message == f"{field}: the field is required"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe{", "codec can't decode"),
        (b'{"temperature": NaN}', "NaN is not a JSON number"),
        (b'{"temperature": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
    ids=["empty", "cut", "not UTF-8", "NaN", "infinity", "5000 digits", "deep lists", "deep objects"],
)
def test_what_is_not_json_is_refused_as_that(body, reason):
    error = refusal(CHAT, body)
    assert (error.status, error.code, error.param) == (400, "invalid_json", "body")
    assert reason in error.message


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"3", b"null", b"true"])
def test_a_body_that_is_no_object_is_refused(body):
    error = refusal(CHAT, body)
    assert (error.status, error.code, error.param) == (400, "invalid_type", "body")
    assert error.message.endswith("is not a JSON object")


def test_no_depth_of_nesting_gets_past_the_refusals():
    for depth in range(850, 1050, 3):
        nested = b"[" * depth + b"]" * depth
        error = refusal(COMPLETIONS, b'{"model": "tiny", "prompt": ' + nested + b"}")
        assert error.status == 400


def test_a_number_beyond_every_float_is_refused_by_its_field():
    error = refusal(CHAT, encoded(CHAT)[:-1] + b', "temperature": 1e999}')
    assert (error.param, error.message) == (
        "temperature",
        "temperature: inf is refused: Input should be a finite number",
    )


def test_the_last_of_duplicate_keys_counts_as_it_does_for_the_engine():
    assert parse(CHAT, encoded(CHAT)[:-1] + b', "stream": 3, "stream": true}', WINDOW).stream
    assert refusal(CHAT, encoded(CHAT)[:-1] + b', "model": "other"}').code == "model_not_found"


def test_half_a_surrogate_pair_is_refused_by_its_field():
    assert refusal(CHAT, encoded(CHAT, model=SURROGATE)).param == "model"
    assert refusal(COMPLETIONS, encoded(COMPLETIONS, prompt="a" + SURROGATE), COUNTING).message == (
        r"prompt: '\ud800' is half of a surrogate pair, not a character"
    )
    for content in (
        SURROGATE * 1000,
        ["a", SURROGATE],
        [{"type": "thinking", "thinking": SURROGATE}],
        [{"type": "refusal", "refusal": SURROGATE}],
    ):
        messages = [{"role": "assistant", "content": content}]
        assert refusal(CHAT, encoded(CHAT, messages=messages), COUNTING).param == "messages"


def test_a_model_that_is_not_served_is_not_found():
    error = refusal(CHAT, encoded(CHAT, model="gpt-9"))
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert error.message == "model: 'gpt-9' is not served; 'tiny' is"


def test_a_path_that_is_not_served_is_not_found():
    error = refusal("/v1/files", b"{}")
    assert (error.status, error.code, error.param) == (404, "unknown_path", "path")


@pytest.mark.parametrize(("field", "value"), [("metadata", 1), ("logit_bias", "x")])
def test_a_key_of_the_clients_is_shown_by_its_beginning(field, value):
    error = refusal(CHAT, encoded(CHAT, **{field: {"k" * 100_000: value}}))
    assert error.param == f"{field}." + "k" * 32
    assert len(error.body()) < 300


def test_a_label_may_be_as_long_as_the_limit_says_whatever_its_key():
    assert parse(CHAT, encoded(CHAT, metadata={"k" * 64: "v" * 512}), WINDOW)
    for metadata, shown in (
        ({"k": "v" * 513}, "513 characters"),
        ({"k" * 513: "v"}, "513 characters of the key"),
    ):
        error = refusal(CHAT, encoded(CHAT, metadata=metadata))
        assert (error.param, error.code) == (f"metadata.{next(iter(metadata))[:32]}", "invalid_value")
        assert error.message == f"{error.param}: {shown} exceed the limit of 512"


@pytest.mark.parametrize("path", [EMBEDDINGS, "/tokenize", "/detokenize"])
def test_what_has_no_answer_of_text_is_never_a_stream_and_has_none_of_its_settings(path):
    ignored = {"stream": True, "n": 0, "temperature": "hot", "top_p": 7, "metadata": 7}
    assert parse(path, encoded(path, **ignored), WINDOW).stream is False
    assert not {*ignored} & {*SCHEMAS[path].model_fields}
    assert "n" not in SCHEMAS[RESPONSES].model_fields


@pytest.mark.parametrize(
    ("path", "field", "values"),
    [
        (CHAT, "functions", [[{"name": "f"}]]),
        (CHAT, "function_call", ["auto", {"name": "f"}]),
        (CHAT, "audio", [{"voice": "alloy", "format": "wav"}]),
        (CHAT, "modalities", [["text", "audio"], ["audio"], "audio"]),
        (CHAT, "web_search_options", [{}, {"search_context_size": "low"}]),
        (CHAT, "moderation", [{"model": "omni-moderation-latest"}]),
        (RESPONSES, "conversation", ["conv_1", {"id": "conv_1"}]),
        (RESPONSES, "moderation", [{"model": "omni-moderation-latest"}]),
        (COMPLETIONS, "best_of", [2, 0, "1"]),
    ],
)
def test_a_field_whose_loss_would_change_the_answer_is_refused(path, field, values):
    for value in values:
        error = refusal(path, encoded(path, **{field: value}))
        assert (error.status, error.code, error.param) == (400, "unsupported_field", field)
        assert error.message.startswith(f"{field}: {value!r} is not ")
    assert parse(path, encoded(path, **{field: None}), WINDOW)


def test_a_field_that_asks_for_what_is_done_anyway_is_not():
    assert parse(COMPLETIONS, encoded(COMPLETIONS, best_of=1), WINDOW)
    assert parse(COMPLETIONS, encoded(COMPLETIONS, best_of=3, n=3), WINDOW)
    assert refusal(COMPLETIONS, encoded(COMPLETIONS, best_of=1, n=3)).param == "best_of"
    for nothing in ({"functions": []}, {"modalities": ["text"]}, {"modalities": []}):
        assert parse(CHAT, encoded(CHAT, **nothing), WINDOW)
    # Where it is nobody's field it is left to the engine, as others are.
    assert parse(CHAT, encoded(CHAT, conversation="conv_1", best_of=2), WINDOW)


USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"id": "msg_1"}, "type"),
        ({"type": "message", "content": "Hi"}, "type"),
        ({"type": "item_reference", "id": "msg_1"}, "type"),
        *(
            ({"type": type_, "id": "x", "role": "user"}, "type")
            for type_ in (
                "web_search_call",
                "custom_tool_call",
                "local_shell_call",
                "mcp_call",
                "compaction",
                7,
            )
        ),
        ({"role": "assistant", "content": []}, "content"),
        (
            {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            "content",
        ),
        ({"role": "assistant", "content": ["Hi"]}, "content"),
    ],
)
def test_an_item_that_the_engine_would_fail_on_is_refused_by_its_place(item, param):
    error = refusal(RESPONSES, encoded(RESPONSES, input=[USER, item]))
    assert (error.status, error.code, error.param) == (400, "invalid_value", f"input.1.{param}")


def test_a_refused_item_is_told_what_is_accepted():
    error = refusal(RESPONSES, encoded(RESPONSES, input=[{"type": "mcp_call"}]))
    assert error.message == (
        "input.0.type: 'mcp_call' is not read here: items are messages with a role, function_call, "
        "function_call_output, reasoning"
    )
    assert refusal(RESPONSES, encoded(RESPONSES, input=[7])).code == "invalid_type"


def test_the_items_of_a_conversation_are_accepted():
    items = [
        USER,
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Hi"}]},
        thought("word"),
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "Hi"}]},
        {"type": "message", "role": "assistant", "content": SAID},
        {"role": "assistant", "content": ""},
    ]
    assert parse(RESPONSES, encoded(RESPONSES, input=items), WINDOW)


def test_a_medium_may_not_be_named_for_names_are_every_tenants():
    named = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}, "uuid": "u"}
    text = {"type": "text", "text": "Hi"}
    for path, messages, param in (
        (CHAT, {"messages": [USER, {"role": "user", "content": [text, named]}]}, "messages.1.content.1.uuid"),
        ("/tokenize", {"messages": [{"role": "user", "content": [named]}]}, "messages.0.content.0.uuid"),
        (RESPONSES, {"input": [{"role": "user", "content": [named]}]}, "input.0.content.0.uuid"),
        (
            RESPONSES,
            {"input": [{"type": "function_call_output", "output": [named]}]},
            "input.0.output.0.uuid",
        ),
    ):
        error = refusal(path, encoded(path, **messages))
        assert (error.status, error.code, error.param) == (400, "unsupported_field", param)
        assert error.message.startswith(f"{param}: 'u' is not supported: ")
    message = {"role": "user", "content": [{**named, "uuid": None}], "uuid": "the client's own"}
    assert parse(CHAT, encoded(CHAT, messages=[message]), WINDOW)


def test_tools_are_compiled_by_choice_unless_a_parser_compiles_them_always():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"maxLength": 9000}}}]
    by_choice = replace(WINDOW, tools=True)
    assert parse(CHAT, encoded(CHAT, tools=tools), by_choice)
    assert refusal(CHAT, encoded(CHAT, tools=tools, tool_choice="required"), by_choice).param == "tools"
    assert (
        refusal(CHAT, encoded(CHAT, tools=tools), replace(by_choice, tools_always_compiled=True)).param
        == "tools"
    )


def test_a_long_value_is_shortened():
    error = refusal(CHAT, encoded(CHAT, messages="secret " * 1000))
    assert len(error.message) < 150


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (CHAT, "max_tokens"),
        (CHAT, "max_completion_tokens"),
        (COMPLETIONS, "max_tokens"),
        (RESPONSES, "max_output_tokens"),
    ],
)
def test_more_output_than_the_window_holds_is_refused_without_a_tokenizer(path, field):
    error = refusal(path, encoded(path, **{field: 65}))
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", field)
    assert error.message == f"{field}: 65 tokens do not fit. {FULL}"
    assert parse(path, encoded(path, **{field: 63}), WINDOW)


def test_a_huge_number_of_tokens_is_shown_shortened():
    error = refusal(CHAT, encoded(CHAT)[:-1] + b', "max_tokens": ' + b"9" * 4000 + b"}")
    assert error.code == "context_length_exceeded"
    assert len(error.message) < 150


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (CHAT, "messages", [{"role": "user", "content": "word " * 30}] * 2),
        (COMPLETIONS, "prompt", "word " * 60),
        (COMPLETIONS, "prompt", ["short", "word " * 60]),
        (RESPONSES, "input", "word " * 60),
    ],
)
def test_a_prompt_and_its_output_must_fit_together(path, field, value):
    length = "max_output_tokens" if path == RESPONSES else "max_tokens"
    error = refusal(path, encoded(path, **{field: value, length: 5}), COUNTING)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", field)
    assert error.message == f"{field}: 60 tokens or more, and 5 of output, do not fit. {FULL}"
    assert parse(path, encoded(path, **{field: value, length: 4}), COUNTING)


def test_token_ids_are_counted_without_a_tokenizer():
    assert refusal(COMPLETIONS, encoded(COMPLETIONS, prompt=[1] * 64)).param == "prompt"
    assert parse(COMPLETIONS, encoded(COMPLETIONS, prompt=[1] * 63), WINDOW)


def test_an_embedding_leaves_no_room_for_output():
    assert parse(EMBEDDINGS, encoded(EMBEDDINGS, input=[1] * 64), WINDOW)
    error = refusal(EMBEDDINGS, encoded(EMBEDDINGS, input=[1] * 65))
    assert (error.code, error.param) == ("context_length_exceeded", "input")


def test_without_a_tokenizer_a_long_text_is_left_to_the_engine():
    assert parse(COMPLETIONS, encoded(COMPLETIONS, prompt="word " * 500), WINDOW)


def test_a_text_far_beyond_the_window_is_refused_by_its_first_part():
    error = refusal(COMPLETIONS, encoded(COMPLETIONS, prompt="word " * 800_000), COUNTING)
    assert error.code == "context_length_exceeded"


def test_a_tokenizer_that_is_not_there_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        TokenCounter.from_files(tmp_path / "tokenizer.json", tmp_path / "config.json")


@pytest.mark.parametrize(
    ("config", "vocabulary"),
    [
        ({"vocab_size": 1}, 2),
        ({"vocab_size": 9}, 9),
        ({"text_config": {"vocab_size": 9}}, 9),
        ({"text_config": None, "vocab_size": None}, 2),
        ({}, 2),
    ],
)
def test_the_vocabulary_is_the_larger_of_the_models_and_the_tokenizers(tmp_path, config, vocabulary):
    tokenizer, settings = tmp_path / "tokenizer.json", tmp_path / "config.json"
    TOKENIZER.save(str(tokenizer))
    settings.write_text(json.dumps(config))
    assert TokenCounter.from_files(tokenizer, settings).vocabulary == vocabulary


def ticket_of(path: str, window: Window = COUNTING, **fields: object) -> Ticket:
    return parse(path, encoded(path, **fields), window).ticket


def test_a_ticket_says_who_pays_and_how_large_the_request_is():
    body = encoded(COMPLETIONS, prompt="word " * 10, max_tokens=7)
    ticket = parse(COMPLETIONS, body, COUNTING).ticket
    assert (ticket.tenant, ticket.prompt_tokens, ticket.max_output_tokens) == ("blue", 10, 7)
    assert (ticket.size_bytes, ticket.class_name, ticket.session_id) == (len(body), "", "")
    assert (ticket.ttft_budget_s, ticket.deadline_s, ticket.revocable) == (None, None, True)


@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        (CHAT, {}, 0),
        (CHAT, {"max_tokens": 5}, 5),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 6, "n": 2}, 12),
        (COMPLETIONS, {}, 16),
        (COMPLETIONS, {"max_tokens": 0}, 1),
        (COMPLETIONS, {"prompt": ["Hi", "Ho"], "max_tokens": 5, "n": 3}, 30),
        (RESPONSES, {"max_output_tokens": 9}, 9),
        (EMBEDDINGS, {}, 1),
        ("/tokenize", {}, 1),
    ],
)
def test_the_bound_of_the_output_is_that_of_all_choices(path, fields, tokens):
    assert ticket_of(path, **fields).max_output_tokens == tokens


@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        (CHAT, {}, 12),
        (CHAT, {"n": 2}, 24),
        (CHAT, {"max_tokens": 5}, 5),
        (COMPLETIONS, {}, 12),
        (RESPONSES, {}, 12),
        (RESPONSES, {"max_output_tokens": 9}, 9),
        (EMBEDDINGS, {}, 1),
    ],
)
def test_where_no_bound_is_sent_the_output_is_bounded_by_the_limit(path, fields, tokens):
    limited = replace(COUNTING, limits=RequestLimits(max_output_tokens=12))
    assert ticket_of(path, limited, **fields).max_output_tokens == tokens


def test_nor_may_the_least_output_exceed_the_limit():
    limited = replace(WINDOW, limits=RequestLimits(max_output_tokens=12))
    assert refusal(CHAT, encoded(CHAT, min_tokens=13), limited).param == "min_tokens"
    assert parse(CHAT, encoded(CHAT, min_tokens=12), limited)


def thought(text: str, **fields: object) -> dict:
    return {
        "type": "reasoning",
        "content": [{"type": "reasoning_text", "text": text}],
        "summary": [],
        **fields,
    }


TOLD = [{"type": "thinking", "thinking": "word word word"}, {"type": "refusal", "refusal": "word word"}]
# Of an answer the first part alone is read.
SAID = [{"type": "output_text", "text": "word"}, {"type": "output_text", "text": "word word"}]
# What a tool or a call of one costs is guessed, at four bytes a token.
TOOL = {"type": "function", "function": {"name": "f", "description": "x" * 400}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "x" * 400}}
RESPONSES_TOOL = {"type": "function", "name": "f", "description": "x" * 400}


@pytest.mark.parametrize(
    ("path", "fields", "least", "most"),
    [
        (CHAT, {"tools": [TOOL]}, 110, 130),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [CALL] * 2}]}, 200, 230),
        (RESPONSES, {"tools": [RESPONSES_TOOL]}, 110, 130),
        (RESPONSES, {"instructions": "x" * 400}, 100, 103),
        (RESPONSES, {"input": [{"type": "function_call_output", "output": "x" * 400}]}, 100, 103),
        (RESPONSES, {"input": [{"type": "function_call", "arguments": "x" * 400}]}, 100, 103),
        (CHAT, {"documents": [{"title": "a", "text": "x" * 400}]}, 105, 115),
        (CHAT, {"messages": [{"role": "assistant", "reasoning": "x" * 400}]}, 100, 106),
        (CHAT, {"messages": [{"role": "assistant", "reasoning_content": "x" * 400}]}, 100, 106),
        (RESPONSES, {"input": [{"type": "reasoning", "summary": [{"text": "x" * 400}]}]}, 100, 110),
        (RESPONSES, {"input": [thought("word " * 80)]}, 100, 115),
        (RESPONSES, {"input": [thought("word " * 80, summary=[{"text": "x" * 400}])]}, 100, 115),
    ],
)
def test_what_a_template_writes_beside_the_texts_is_guessed_and_refuses_nothing(path, fields, least, most):
    assert least <= ticket_of(path, replace(COUNTING, tools=True), **fields).prompt_tokens <= most


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        (
            CHAT,
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": SURROGATE}}}]},
            "tools",
        ),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"function": SURROGATE}]}]}, "messages"),
        (RESPONSES, {"input": [{"type": "function_call", "arguments": SURROGATE}]}, "input"),
        (CHAT, {"response_format": {"type": "json_object", "x": SURROGATE}}, "response_format"),
    ],
)
def test_half_a_surrogate_pair_is_refused_wherever_text_is_made_of_it(path, fields, field):
    error = refusal(path, encoded(path, **fields))
    assert (error.status, error.code, error.param) == (400, "invalid_value", field)


# More than the window of 64.
LONG = "word " * 200


@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        (CHAT, {"messages": [{"role": "user", "content": LONG}], "truncate_prompt_tokens": 20}, 20),
        (
            CHAT,
            {"messages": [{"role": "user", "content": LONG}], "truncate_prompt_tokens": -1, "max_tokens": 14},
            50,
        ),
        (CHAT, {"messages": [{"role": "user", "content": LONG}] * 3, "truncate_prompt_tokens": 20}, 20),
        (COMPLETIONS, {"prompt": [LONG, "word", LONG], "truncate_prompt_tokens": 20}, 41),
        (COMPLETIONS, {"prompt": [1] * 500, "truncate_prompt_tokens": -1, "max_tokens": 4}, 60),
        (COMPLETIONS, {"prompt": "word " * 10, "truncate_prompt_tokens": 20}, 10),
        (EMBEDDINGS, {"input": [LONG, LONG], "truncate_prompt_tokens": 64}, 128),
        (EMBEDDINGS, {"input": LONG, "truncate_prompt_tokens": -1}, 64),
        (RESPONSES, {"input": LONG, "truncation": "auto", "max_output_tokens": 4}, 60),
    ],
)
def test_a_prompt_that_the_engine_cuts_counts_as_what_is_left_of_it(path, fields, tokens):
    ticket = ticket_of(path, **fields)
    assert ticket.prompt_tokens == tokens
    # Which end is cut, and so what it begins with, is not known here.
    assert ticket.prefix_blocks == () or tokens == 10


@pytest.mark.parametrize(
    ("path", "fields", "length"),
    [
        (COMPLETIONS, {"prompt": LONG, "truncate_prompt_tokens": -1}, "max_tokens"),
        (RESPONSES, {"input": LONG, "truncation": "auto"}, "max_output_tokens"),
    ],
)
def test_an_output_beyond_the_window_is_refused_however_the_prompt_is_cut(path, fields, length):
    error = refusal(path, encoded(path, **fields, **{length: 65}), COUNTING)
    assert (error.code, error.param) == ("context_length_exceeded", length)


# The window of 64 tokens holds 1,024 characters at most.
@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "x" * 1100}]},
        {"messages": [{"role": "user", "content": "x" * 600}] * 2},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 1100}]}]},
        {
            "messages": [USER],
            "tools": [{"type": "function", "function": {"name": "f", "description": "x" * 1100}}],
        },
        {"messages": [USER], "chat_template_kwargs": {"date": "x" * 1100}},
        {"messages": [{"role": "user", "content": "x" * 1100}], "prompt": "x"},
    ],
)
def test_what_is_only_counted_is_no_longer_than_the_window(fields):
    error = refusal("/tokenize", encoded("/tokenize", **{"prompt": None, **fields}))
    assert (error.status, error.code, error.param) == (400, "invalid_value", "messages")
    assert error.message.endswith("characters exceed the limit of 1024")


def test_media_take_no_room_in_what_is_counted():
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 5000}"}}
    messages = [{"role": "user", "content": ["x" * 900, image]}]
    assert parse("/tokenize", encoded("/tokenize", prompt=None, messages=messages), WINDOW)


@pytest.mark.parametrize(
    ("path", "field", "of"),
    [
        (CHAT, "messages", lambda chars: {"messages": [{"role": "user", "content": "x" * chars}]}),
        (COMPLETIONS, "prompt", lambda chars: {"prompt": ["x", "x" * chars]}),
        (EMBEDDINGS, "input", lambda chars: {"input": ["x" * 8000, "x" * chars]}),
        (RESPONSES, "input", lambda chars: {"input": "x" * chars, "truncation": "auto"}),
    ],
)
def test_what_is_to_be_cut_is_at_most_eight_windows_long(path, field, of):
    cut = {} if path == RESPONSES else {"truncate_prompt_tokens": -1}
    error = refusal(path, encoded(path, **of(8300), **cut))
    assert (error.status, error.code, error.param) == (400, "invalid_value", field)
    assert error.message.endswith("characters exceed the limit of 8192")
    assert parse(path, encoded(path, **of(8000), **cut), WINDOW)


def test_token_ids_that_are_to_be_cut_are_not_read_by_a_tokenizer():
    assert parse(COMPLETIONS, encoded(COMPLETIONS, prompt=[1] * 9000, truncate_prompt_tokens=-1), WINDOW)


def test_a_conversation_whose_earlier_thoughts_are_long_is_not_refused_for_them():
    items = [thought("word " * 100), {"type": "message", "role": "assistant", "content": SAID}, USER]
    assert parse(RESPONSES, encoded(RESPONSES, input=items), COUNTING)


@pytest.mark.parametrize("fields", [{"truncation": "disabled"}, {"truncation": None}, {}])
def test_without_a_cut_what_is_too_long_is_refused(fields):
    error = refusal(RESPONSES, encoded(RESPONSES, input=LONG, **fields), COUNTING)
    assert (error.code, error.param) == ("context_length_exceeded", "input")


class Counted(TokenCounter):
    """Notes what it is asked to count."""

    def __init__(self) -> None:
        super().__init__(TOKENIZER, VOCABULARY)
        self.texts: list[str] = []

    def ids(self, text: str, window: int) -> list[int]:
        self.texts.append(text)
        return super().ids(text, window)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": LONG}] * 100}),
        (COMPLETIONS, {"prompt": [LONG] * 30}),
    ],
)
def test_counting_stops_at_what_can_not_fit_any_more(path, fields):
    counter = Counted()
    assert refusal(path, encoded(path, **fields), window(counter)).code == "context_length_exceeded"
    assert counter.texts == [LONG]


async def test_the_event_loop_turns_while_a_long_prompt_is_counted():
    long = replace(COUNTING, max_model_len=10**6)
    body = encoded(COMPLETIONS, prompt="word " * 150_000)
    turns = 0
    reading = asyncio.create_task(read(COMPLETIONS, body, long, "blue"))
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await reading).ticket.prompt_tokens == 150_000
    # Counted on the loop it would be a few.
    assert turns > 50


async def test_a_body_is_read_beside_the_event_loop_by_its_bytes_and_not_by_the_models_window():
    """To hand a short one to a thread takes longer than to read it."""
    threads = set()

    class Noting(Counted):
        def ids(self, text: str, window: int) -> list[int]:
            threads.add(threading.get_ident())
            return super().ids(text, window)

    large = replace(window(Noting()), max_model_len=10**6)
    await read(COMPLETIONS, encoded(COMPLETIONS, prompt="x" * 4000), large, "blue")
    assert threads == {threading.get_ident()}
    await read(COMPLETIONS, encoded(COMPLETIONS, prompt="x" * READ_AT_ONCE_BYTES), large, "blue")
    assert len(threads) == 2


def test_of_a_long_prompt_only_the_blocks_that_are_hashed_are_copied():
    class Ids(list):
        taken = 0

        def __iter__(self):
            for one in super().__iter__():
                Ids.taken += 1
                yield one

    ids = Ids([1] * 10_000)
    prompt = prompt_of([[Part(ids, len(ids), len(ids))]], 0, None, "blue", block=8)
    assert (len(prompt.blocks), Ids.taken) == (MAX_BLOCKS, MAX_BLOCKS * 8)


@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "word " * 9}] * 2}, 2 * (9 + 4)),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "word " * 9}]}]}, 13),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}, "? ?", 7]}]}, 4 + 2),
        (CHAT, {"messages": [{"role": "assistant", "content": TOLD}]}, 4 + 3 + 2),
        (
            RESPONSES,
            {"input": [{"role": "assistant", "content": SAID}, {"role": "user", "content": SAID}]},
            1 + 3,
        ),
        (COMPLETIONS, {"prompt": ["word word", [1, 2, 3]]}, 5),
        (RESPONSES, {"input": [{"role": "user", "content": "word word"}]}, 2),
        (EMBEDDINGS, {"input": "word"}, 1),
    ],
)
def test_a_prompt_is_counted_whatever_its_shape(path, fields, tokens):
    assert ticket_of(path, **fields).prompt_tokens == tokens


def test_without_a_tokenizer_a_prompt_is_estimated_by_its_bytes():
    assert ticket_of(COMPLETIONS, WINDOW, prompt="x" * 400).prompt_tokens == 100


def test_equal_beginnings_of_one_tenant_have_equal_blocks():
    long, longer = [*range(20)], [*range(16), 99, 98, 97, 96, 95, 94, 93, 92]
    first, second = (ticket_of(COMPLETIONS, prompt=ids).prefix_blocks for ids in (long, longer))
    assert (len(first), len(second), first) == (2, 3, second[:2])
    changed = ticket_of(COMPLETIONS, prompt=[7, *long[1:]]).prefix_blocks
    assert not set(changed) & set(first)
    body = encoded(COMPLETIONS, prompt=long)
    assert not set(parse_for(COMPLETIONS, body, COUNTING, "red").ticket.prefix_blocks) & set(first)


def test_a_retry_has_the_fingerprint_of_the_first_try():
    same = [ticket_of(COMPLETIONS, prompt="Hi").fingerprint for _ in range(2)]
    assert same[0] == same[1] != ticket_of(COMPLETIONS, prompt="Ho").fingerprint


@pytest.mark.parametrize(
    ("tier", "class_name"),
    [("auto", "standard"), ("default", "standard"), ("scale", "standard"), ("flex", "batch")]
    + [(name, "interactive") for name in ("priority", "fast", "ultrafast")]
    + [(name, name) for name in ("interactive", "standard", "batch")],
)
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_a_tier_asks_for_a_class(path, tier, class_name):
    request = parse(path, encoded(path, service_tier=tier), WINDOW)
    assert (request.ticket.class_name, request.service_tier) == (class_name, tier)


def test_fast_is_echoed_as_priority_unless_a_class_has_that_name():
    flow = FlowConfig()
    classes = (*flow.classes[:-1], replace(flow.classes[-1], name="fast"))
    tiers = Tiers(replace(flow, classes=classes))
    assert [tiers.class_of(tier) for tier in ("fast", "ultrafast")] == ["fast", "interactive"]
    assert tiers.served("fast", "fast") == "fast"
    assert WINDOW.tiers.served("fast", "interactive") == "priority"


def test_the_engine_is_sent_no_tier_of_a_response_that_it_would_refuse():
    for tier in ("fast", "interactive", "priority"):
        body = parse(RESPONSES, encoded(RESPONSES, service_tier=tier), WINDOW).body
        assert json.loads(body)["service_tier"] == "auto"
    assert "service_tier" not in json.loads(parse(RESPONSES, encoded(RESPONSES), WINDOW).body)


@pytest.mark.parametrize(("path", "tier"), [(CHAT, "gold"), (CHAT, ""), (RESPONSES, "gold")])
def test_a_tier_that_does_not_exist_is_refused_with_those_that_do(path, tier):
    error = refusal(path, encoded(path, service_tier=tier))
    assert (error.status, error.param) == (400, "service_tier")
    known = "interactive, standard, batch, auto, default, scale, priority, flex, fast, ultrafast"
    assert error.message == f"service_tier: {tier!r} is not one of {known}"


def test_a_request_can_ask_for_tighter_promises_and_for_its_sessions_engine():
    ticket = ticket_of(CHAT, ttft_budget_s=0.5, deadline_s=3, prompt_cache_key="talk")
    assert (ticket.ttft_budget_s, ticket.deadline_s, ticket.session_id) == (0.5, 3, "blue:talk")


@pytest.mark.parametrize(
    ("field", "value"), [("ttft_budget_s", 0), ("deadline_s", -1), ("prompt_cache_key", "x" * 300)]
)
def test_a_promise_or_a_key_that_makes_no_sense_is_refused(field, value):
    assert refusal(CHAT, encoded(CHAT, **{field: value})).param == field


@pytest.mark.parametrize(
    ("path", "fields", "answers"),
    [
        (CHAT, {}, 1),
        (CHAT, {"n": 3}, 3),
        (COMPLETIONS, {"prompt": ["Hi", "Ho"], "n": 3}, 6),
        (RESPONSES, {"n": 10**20}, 1),
        (EMBEDDINGS, {"input": ["Hi", "Ho"], "n": 10**20}, 2),
        ("/tokenize", {"n": 10**20}, 1),
    ],
)
def test_a_request_takes_a_place_for_each_answer_that_the_engine_gives_at_a_time(path, fields, answers):
    assert ticket_of(path, **fields).answers == answers


LOGPROB_WINDOW = replace(WINDOW, max_model_len=1000)
# 879 tokens, by their bytes.
ECHOED = {"messages": [{"role": "user", "content": "word " * 700}], "echo": True, "stream": True}


@pytest.mark.parametrize(
    ("path", "fields", "param", "count"),
    [
        (CHAT, {"logprobs": True, "top_logprobs": 20, "n": 10}, "top_logprobs", 10 * 21 * 1000),
        (
            CHAT,
            {"logprobs": True, "logprob_token_ids": [1] * 128, "n": 4, "max_tokens": 500},
            "top_logprobs",
            258_000,
        ),
        (
            COMPLETIONS,
            {"prompt": "Hi", "logprobs": 20, "n": 32, "max_tokens": 500},
            "logprobs",
            32 * 21 * 500,
        ),
        (RESPONSES, {"input": "Hi", "top_logprobs": 20, "max_output_tokens": 999}, None, 0),
        (CHAT, {"logprobs": True, "top_logprobs": 20, "n": 10, "stream": True}, None, 0),
        (CHAT, {"top_logprobs": 20, "n": 10}, None, 0),
        (CHAT, {"logprobs": True, "n": 32, "max_tokens": 900}, None, 0),
        (
            COMPLETIONS,
            {"prompt": [[5] * 900] * 12, "prompt_logprobs": 20, "max_tokens": 1},
            "prompt_logprobs",
            226_800,
        ),
        (
            COMPLETIONS,
            {"prompt": [[5] * 900] * 12, "echo": True, "logprobs": 20, "max_tokens": 1, "stream": True},
            "logprobs",
            226_800,
        ),
        (CHAT, {**ECHOED, "logprobs": True, "top_logprobs": 20, "n": 12}, "echo", 221_508),
        (CHAT, {**ECHOED, "logprobs": True, "top_logprobs": 20, "n": 10}, None, 0),
        (CHAT, {**ECHOED, "logprobs": True, "top_logprobs": 20, "n": 12, "prompt_logprobs": 0}, None, 0),
        (CHAT, {**ECHOED, "logprobs": True, "top_logprobs": 20, "n": 12, "echo": False}, None, 0),
        (CHAT, {**ECHOED, "n": 32}, None, 0),
    ],
)
def test_log_probabilities_that_come_in_one_piece_are_bounded(path, fields, param, count):
    body = encoded(path, **fields)
    if param is None:
        parse(path, body, LOGPROB_WINDOW)
        return
    error = refusal(path, body, LOGPROB_WINDOW)
    assert (error.status, error.code, error.param) == (400, "invalid_value", param)
    if path == COMPLETIONS or param == "echo":
        stated = f"{param}: up to {count} log probabilities exceed the limit of 200000: "
        streaming_helps = param == "logprobs" and not fields.get("stream")
        or_stream = ", or stream" if streaming_helps else ""
        assert error.message == f"{stated}ask for fewer tokens or fewer of each{or_stream}"
