"""The model server as the real `openai` package sees it, in a process of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from prefloop.engine import ModelServerProcess
from prefloop.models.preference import PreferenceModel
from prefloop.models.sampling import TorchSampler
from prefloop.schema import Message, SamplingSettings

HELLO: list[Any] = [{"role": "user", "content": "How are you today?"}]


@pytest.fixture(scope="module")
def client(server: ModelServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as client:
        yield client


def streamed(client: openai.OpenAI, **options: Any) -> tuple[list[str], list[str], Any]:
    """Texts and finish reasons by choice, and the usage."""
    n = options.get("n", 1)
    texts, reasons, usage = [""] * n, [""] * n, None
    with client.chat.completions.create(
        messages=HELLO, stream=True, stream_options={"include_usage": True}, **options
    ) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    return texts, reasons, usage


def running_rows(server: ModelServerProcess) -> int:
    response = httpx.get(server.base_url.removesuffix("/v1") + "/health", trust_env=False)
    rows: int = response.json()["running_rows"]
    return rows


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["base", "prompted", "best", "endless"]
    assert client.models.retrieve("best").owned_by == "prefloop"


def test_whole_and_streamed_replies_are_the_sampler_s(client: openai.OpenAI, language_model: Any) -> None:
    model, renderer = language_model
    settings = SamplingSettings(temperature=0.9, top_p=0.95, max_response_tokens=20)
    prompt = renderer.context_ids([Message(role="user", text="How are you today?")])
    (samples,) = TorchSampler(model, renderer, "v").sample([prompt], 3, settings, seed=5)
    expected = [renderer.decode(sample.ids) for sample in samples]
    options: dict[str, Any] = {
        "model": "base", "n": 3, "seed": 5, "temperature": 0.9, "top_p": 0.95, "max_tokens": 20,
    }  # fmt: skip
    whole = client.chat.completions.create(messages=HELLO, **options)
    assert [choice.message.content for choice in whole.choices] == expected
    assert [choice.finish_reason for choice in whole.choices] == [sample.finish_reason for sample in samples]
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len(prompt)
    assert whole.usage.completion_tokens == sum(len(sample.ids) for sample in samples)
    texts, reasons, usage = streamed(client, **options)
    assert texts == expected
    assert reasons == [sample.finish_reason for sample in samples]
    assert usage == whole.usage


def test_seeds(client: openai.OpenAI) -> None:
    def reply(seed: int | None) -> str | None:
        return client.chat.completions.create(model="base", messages=HELLO, seed=seed).choices[0].message.content

    assert reply(1) == reply(1) != reply(2)
    assert reply(None) != reply(None)


def test_stop_strings(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "base", "seed": 3, "max_completion_tokens": 40}
    ((plain,), _, _) = streamed(client, **options)
    assert len(plain) > 12
    stop = plain[8:12]  # four characters span tokens
    ((text,), (reason,), usage) = streamed(client, stop=["never so", stop], **options)
    assert (text, reason) == (plain[: plain.index(stop)], "stop")
    assert usage.completion_tokens < 40
    whole = client.chat.completions.create(messages=HELLO, stop=stop, **options)
    assert whole.choices[0].message.content == text


def test_the_snapshot_s_prompt_and_settings(client: openai.OpenAI, language_model: Any) -> None:
    model, renderer = language_model
    turns = [
        Message(role="system", text="You are fine."),
        Message(role="user", text="How are you?"),
        Message(role="user", text="How are you today?"),
    ]
    settings = SamplingSettings(temperature=0.0, max_response_tokens=8)
    ((sample,),) = TorchSampler(model, renderer, "v").sample([renderer.context_ids(turns)], 1, settings, seed=0)
    reply = client.chat.completions.create(model="prompted", messages=HELLO)
    assert reply.choices[0].message.content == renderer.decode(sample.ids)
    content: Any = [{"type": "text", "text": "How are "}, {"type": "text", "text": "you today?"}]
    parts = client.chat.completions.create(model="prompted", messages=[{"role": "user", "content": content}])
    assert parts.choices[0].message.content == reply.choices[0].message.content


def test_best_of_k_is_what_the_preference_model_picks(client: openai.OpenAI, served_folder: Any) -> None:
    options: dict[str, Any] = {"seed": 9, "max_tokens": 12}
    candidates = client.chat.completions.create(model="base", messages=HELLO, n=8, **options)
    texts = [choice.message.content or "" for choice in candidates.choices]
    scorer = PreferenceModel.load(served_folder / "snapshots" / "pm")
    question = Message(role="user", text="How are you today?")
    scores = scorer.score([[question, Message(role="assistant", text=text)] for text in texts])
    expected = [texts[max(range(k, k + 4), key=scores.__getitem__)] for k in (0, 4)]
    best = client.chat.completions.create(model="best", messages=HELLO, n=2, **options)
    assert [choice.message.content for choice in best.choices] == expected
    assert best.usage is not None
    assert best.usage.model_extra is not None
    assert candidates.usage is not None
    assert best.usage.model_extra["sampled_tokens"] == candidates.usage.completion_tokens
    assert best.usage.completion_tokens < candidates.usage.completion_tokens
    assert streamed(client, model="best", n=2, **options)[0] == expected


def test_scores(server: ModelServerProcess, served_folder: Any) -> None:
    turns = [Message(role="user", text="How are you?"), Message(role="assistant", text="I am fine.")]
    expected = PreferenceModel.load(served_folder / "snapshots" / "pm").score([turns])
    body = {"model": "pm", "conversations": [[{"role": turn.role, "content": turn.text} for turn in turns]]}
    response = httpx.post(server.base_url + "/scores", json=body, trust_env=False)
    assert response.json()["scores"] == pytest.approx(expected, abs=1e-5)
    body["conversations"][0].pop()  # type: ignore[attr-defined]
    response = httpx.post(server.base_url + "/scores", json=body, trust_env=False)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("Conversation 0 must end with the assistant turn")


def test_a_long_conversation_loses_its_oldest_turns(client: openai.OpenAI) -> None:
    turns: list[Any] = []
    for _ in range(20):
        turns += [
            {"role": "user", "content": "How are you today?"},
            {"role": "assistant", "content": "I am fine, you."},
        ]
    raw = client.chat.completions.with_raw_response.create(
        model="base", messages=[*turns, *HELLO], temperature=0.0, max_tokens=16
    )
    reply = raw.parse()
    dropped = int(raw.headers["x-prefloop-dropped-turns"])
    assert dropped > 0
    assert dropped % 2 == 0, "a kept conversation begins with the person"
    assert reply.usage.model_extra["dropped_turns"] == dropped
    assert reply.usage.prompt_tokens <= 256 - 16
    kept = client.chat.completions.create(
        model="base", messages=[*turns[dropped:], *HELLO], temperature=0.0, max_tokens=16
    )
    assert kept.choices[0].message.content == reply.choices[0].message.content
    assert kept.usage is not None
    assert kept.usage.model_extra == {"sampled_tokens": kept.usage.completion_tokens, "dropped_turns": 0}


@pytest.mark.parametrize(
    ("changes", "error", "param", "part"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model", "no model 'nobody' here; the names served are: base"),
        ({"model": "pm"}, openai.NotFoundError, "model", "no model 'pm' here"),
        ({"temperature": -1}, openai.BadRequestError, "temperature", "'temperature' is wrong"),
        ({"temperature": "hot"}, openai.BadRequestError, "temperature", "'temperature' is wrong"),
        ({"top_p": 0}, openai.BadRequestError, "top_p", "greater than 0"),
        ({"n": 0}, openai.BadRequestError, "n", "greater than or equal to 1"),
        ({"n": 1000}, openai.BadRequestError, "n", "less than or equal to 128"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens", "greater than or equal to 1"),
        ({"messages": []}, openai.BadRequestError, "messages", "at least 1"),
        ({"messages": [{"role": "king", "content": "x"}]}, openai.BadRequestError, "messages", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, openai.BadRequestError, "messages", "messages.0.content' is missing"),
        ({"stop": [""]}, openai.BadRequestError, "stop", "must not be empty"),
        ({"stop": ["x"] * 17}, openai.BadRequestError, "stop", "17 stop strings are more than the 16 allowed"),
        ({"logprobs": True}, openai.BadRequestError, "logprobs", "not supported"),
        ({"messages": [{"role": "user", "content": "☃" * 300}]}, openai.BadRequestError, "messages", "shorten it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_refusals(
    client: openai.OpenAI,
    changes: dict[str, Any],
    error: type[openai.APIStatusError],
    param: str,
    part: str,
    stream: bool,
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**({"model": "base", "messages": HELLO, "stream": stream} | changes))
    body: Any = caught.value.body
    assert part in body["message"]
    assert body["message"].count(".") <= 3
    assert (body["param"], body["type"]) == (param, "invalid_request_error")


def test_bodies_and_paths_that_are_none(server: ModelServerProcess) -> None:
    headers = {"Content-Type": "application/json"}
    with httpx.Client(base_url=server.base_url, headers=headers, trust_env=False) as http:
        for response, status, message in (
            (http.post("/chat/completions", content=b"{rubbish"), 400, "The body is not valid JSON"),
            (http.post("/chat/completions", content=b"[]"), 400, "The body must be a JSON object"),
            (http.post("/chat/completions", content=b"\xff\xfe"), 400, "The body is "),
            (http.get("/nowhere"), 404, "There is no /v1/nowhere here."),
            (http.get("/chat/completions"), 405, "/v1/chat/completions has no GET."),
        ):
            assert response.status_code == status
            assert response.json()["error"]["message"].startswith(message)


async def test_many_streams_at_once(server: ModelServerProcess) -> None:
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as client:

        async def reply(seed: int) -> str:
            stream = await client.chat.completions.create(
                model="base", messages=HELLO, seed=seed, max_tokens=24, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        alone = [await reply(seed) for seed in (0, 1)]
        together = await asyncio.gather(*(reply(seed) for seed in range(64)))
    assert together[:2] == alone, "a reply does not depend on what else is running"
    assert len(set(together)) > 60


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_rows(server: ModelServerProcess, stream: bool) -> None:
    """The replies would go on for 50,000 tokens, at a millisecond or more each."""
    body = {"model": "endless", "messages": HELLO, "n": 2, "stream": stream}
    with httpx.Client(base_url=server.base_url, trust_env=False, timeout=60) as http:
        if stream:
            with http.stream("POST", "/chat/completions", json=body) as response:
                chunks = response.iter_bytes()  # dropping the iterator would close the stream
                next(chunks)
                assert running_rows(server) == 2
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/chat/completions", json=body, timeout=0.2)
    deadline = time.monotonic() + 20
    while running_rows(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running_rows(server) == 0


def test_administration_needs_the_token(server: ModelServerProcess) -> None:
    address = server.base_url.removesuffix("/v1") + "/admin/reload"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        response = httpx.post(address, headers=headers, trust_env=False)
        assert response.status_code == 401
        assert "token" in response.json()["error"]["message"]
    assert server.reload() == {"added": [], "retired": []}
