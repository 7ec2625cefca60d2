"""What a sampler elsewhere is asked, and what is made of its answers: a small server in this process says anything."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import ConfigError, ModelError, UnavailableError
from prefloop.models.remote_sampling import KEY_VARIABLE, HttpSampler
from prefloop.schema import Sample, SamplingSettings

END, VOCABULARY = 2, 100
GOOD = {"index": 0, "token_ids": [7, END], "logprobs": {"token_logprobs": [-0.5, -1.0]}, "finish_reason": "stop"}
SETTINGS = SamplingSettings(max_response_tokens=5)


class Answers:
    """What the server says by route, as (status, body), and what it was asked."""

    def __init__(self) -> None:
        self.by_route: dict[str, tuple[int, Any]] = {
            "/v1/completions": (200, {"choices": [GOOD]}),
            "/v1/models": (200, {"data": [{"id": "rollout"}]}),
        }
        self.asked: list[tuple[str, Any, str | None]] = []
        self.faults = 0  # completions that fail before one goes well


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def url(answers: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")
            answers.asked.append((self.path, body, self.headers.get("Authorization")))
            status, said = answers.by_route.get(self.path, (200, {}))
            if self.path == "/v1/completions" and answers.faults:
                answers.faults -= 1
                status, said = 500, {"error": {"message": "EngineDeadError"}}
            text = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = answer

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def sampler(url: str) -> Iterator[HttpSampler]:
    one = HttpSampler(url + "/v1/", "rollout", END, VOCABULARY, requests=1, patience_seconds=0.5)
    yield one
    one.close()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "one").mkdir()
    return tmp_path / "one"


def routes(answers: Answers) -> list[str]:
    return [route for route, *_ in answers.asked]


def test_what_is_asked_leaves_nothing_to_the_server_s_defaults(sampler: HttpSampler, answers: Answers) -> None:
    found = sampler.sample([[1, 5], [1, 6], [1, 5]], 1, SETTINGS, seed=3)
    assert found == [[Sample([7, END], [-0.5, -1.0], "stop")]] * 3
    bodies = [body for _, body, _ in answers.asked]
    plain = {
        "model": "rollout", "prompt": [1, 5], "n": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 5,
        "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "ignore_eos": True, "stop_token_ids": [END], "logprobs": 1, "return_token_ids": True,
    }  # fmt: skip
    assert {key: value for key, value in bodies[0].items() if key != "seed"} == plain
    seeds = [body["seed"] for body in bodies]
    assert len(set(seeds)) == 3  # equal prompts too get replies of their own
    assert all(0 <= seed < 2**63 for seed in seeds)
    sampler.sample([[1, 5], [1, 6], [1, 5]], 1, SETTINGS, seed=3)
    assert [body["seed"] for _, body, _ in answers.asked[3:]] == seeds


def test_a_key_from_the_environment_is_sent(url: str, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    sampler = HttpSampler(url, "rollout", END, VOCABULARY)
    sampler.sample([[1]], 1, SETTINGS, 0)
    sampler.close()
    assert answers.asked[0][2] == "Bearer secret"


def test_a_whole_model_is_loaded_and_caches_are_emptied(sampler: HttpSampler, answers: Answers, weights: Path) -> None:
    sampler.load_weights(weights)
    assert routes(answers) == ["/collective_rpc", "/reset_prefix_cache", "/v1/models"]
    assert answers.asked[0][1] == {"method": "reload_weights", "kwargs": {"weights_path": str(weights)}}
    assert sampler.version == "one"


def test_adapters_come_under_new_names_and_the_old_one_goes(
    sampler: HttpSampler, answers: Answers, tmp_path: Path
) -> None:
    for name in ("a1", "a2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
        listed = [{"id": "rollout"}]
        answers.by_route["/v1/models"] = (200, {"data": listed})
        answers.asked.clear()
        with pytest.raises(ConfigError, match=f"serves no 'rollout-{name}' but rollout"):
            sampler.load_weights(tmp_path / name)
        assert routes(answers) == ["/v1/models", "/v1/load_lora_adapter", "/v1/models"]
        assert answers.asked[1][1] == {"lora_name": f"rollout-{name}", "lora_path": str(tmp_path / name)}
        answers.by_route["/v1/models"] = (200, {"data": [*listed, {"id": f"rollout-{name}"}]})
        answers.asked.clear()
        sampler.load_weights(tmp_path / name)  # it is there by now; the one before is not, as after a restart
        assert routes(answers) == ["/v1/models"] * 2
    (tmp_path / "a3").mkdir()
    (tmp_path / "a3" / "adapter_config.json").write_text("{}")
    both = [{"id": "rollout-a2"}, {"id": "rollout-a3"}]
    answers.by_route["/v1/models"] = (200, {"data": both})
    sampler.load_weights(tmp_path / "a3")
    assert answers.asked[-1][:2] == ("/v1/unload_lora_adapter", {"lora_name": "rollout-a2"})
    sampler.sample([[1]], 1, SETTINGS, 0)
    assert answers.asked[-1][1]["model"] == "rollout-a3"


def test_a_server_that_fails_gets_its_weights_again_and_is_asked_for_what_is_missing(
    sampler: HttpSampler, answers: Answers, weights: Path
) -> None:
    sampler.load_weights(weights)
    answers.faults = 2
    found = sampler.sample([[1], [2], [3]], 1, SETTINGS, 0)
    assert len(found) == 3
    again = ["/collective_rpc", "/reset_prefix_cache", "/v1/models"]
    assert routes(answers) == again + ["/v1/completions"] * 3 + again + ["/v1/completions"] * 2
    prompts = [body["prompt"] for route, body, _ in answers.asked if route == "/v1/completions"]
    assert prompts == [[1], [2], [3], [1], [2]]


def test_a_server_that_was_told_of_no_weights_keeps_its_own(sampler: HttpSampler, answers: Answers) -> None:
    answers.faults = 1
    assert len(sampler.sample([[1]], 1, SETTINGS, 0)) == 1
    assert routes(answers) == ["/v1/completions", "/v1/models", "/v1/completions"]


def test_one_that_goes_on_failing_is_given_up(sampler: HttpSampler, answers: Answers, weights: Path) -> None:
    sampler.load_weights(weights)
    answers.by_route["/v1/completions"] = (500, {"error": {"message": "EngineDeadError"}})
    with pytest.raises(UnavailableError, match=r"does not answer \(EngineDeadError\), for 0.5 seconds now"):
        sampler.sample([[1]], 1, SETTINGS, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token_ids": None}, "gives no token ids with their log-probabilities .*return_token_ids"),
        ({"logprobs": None}, "gives no token ids with their log-probabilities"),
        ({"logprobs": {"token_logprobs": [None, -1.0]}}, "gives no token ids with their log-probabilities"),
        ({"token_ids": [7, 8, END]}, "3 tokens with 2 finite log-probabilities"),
        ({"token_ids": [], "logprobs": {"token_logprobs": []}}, "0 tokens with 0 finite"),
        ({"token_ids": [VOCABULARY, END]}, "gave the token 100, and the policy's ids end at 99"),
        ({"token_ids": [7, 8]}, "ended a reply at the token 8 for the reason 'stop', and replies end at 2"),
        ({"finish_reason": "abort"}, "for the reason 'abort'"),
    ],
)
def test_an_answer_that_is_no_reply_of_the_policy_is_refused(
    sampler: HttpSampler, answers: Answers, change: dict[str, Any], words: str
) -> None:
    answers.by_route["/v1/completions"] = (200, {"choices": [GOOD | change]})
    with pytest.raises(ModelError, match=words):
        sampler.sample([[1]], 1, SETTINGS, 0)


def test_too_few_replies_and_refusals_are_told(sampler: HttpSampler, answers: Answers, weights: Path) -> None:
    with pytest.raises(ModelError, match="gave 1 replies to a prompt, and 2 were asked for"):
        sampler.sample([[1]], 2, SETTINGS, 0)
    answers.by_route["/v1/completions"] = (400, {"error": {"message": "the context is 8 tokens long"}})
    with pytest.raises(ModelError, match="refused to sample from 'rollout': the context is 8 tokens long"):
        sampler.sample([[1]], 1, SETTINGS, 0)
    answers.by_route["/collective_rpc"] = (404, {"detail": "Not Found"})
    with pytest.raises(ConfigError, match=r"does not take weights over /collective_rpc .*VLLM_SERVER_DEV_MODE=1"):
        sampler.load_weights(weights)
    answers.by_route["/collective_rpc"] = (500, {"error": {"message": "size mismatch"}})
    with pytest.raises(ModelError, match=r"cannot load .*one \(size mismatch\)"):
        sampler.load_weights(weights)
    answers.by_route |= {"/collective_rpc": (200, {}), "/v1/models": (200, b"<html>")}
    with pytest.raises(ConfigError, match="is no OpenAI-compatible server"):
        sampler.load_weights(weights)
    answers.by_route["/v1/models"] = (503, b"starting")
    with pytest.raises(UnavailableError, match="HTTP 503 'starting'"):
        sampler.load_weights(weights)
