"""`schema.Sampler` over a server elsewhere: token ids go out, replies come back with the engine's log-probabilities.

The words are those of vLLM's server, which ours speaks too (`engine.completions`). Each prompt is a request with a seed
of its own, so that a run that was broken off asks for the same again. A server that goes away is waited for, and given
its weights again before it is asked for what is missing. Knows HTTP and folders of weights; knows no training.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from prefloop.client import api_root, refusal, trusts_environment
from prefloop.errors import ConfigError, ModelError, UnavailableError
from prefloop.models.adapters import is_adapter
from prefloop.models.token_draw import row_key
from prefloop.schema import FinishReason, Sample, SamplingSettings

__all__ = ["KEY_VARIABLE", "HttpSampler"]

KEY_VARIABLE = "PREFLOOP_SAMPLER_KEY"
"""Environment variable of the server's key, sent as a bearer token; settings are written down, a key should not be."""

_ENDINGS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
_CONNECT_SECONDS = 10.0
_KEEP_ALIVE_SECONDS = 3.0  # servers close a connection that is idle for five seconds
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0
_GATEWAY_FAULTS = (502, 503, 504)  # what stands before a server that is starting


class _GoneError(Exception):
    """The server is away, or is not what it was; it may come back."""


class HttpSampler:
    """Samples from the weights that it last told the server to load.

    Args:
        base_url: the server's address, with or without the final /v1.
        model: the name under which the server lists its model.
        end_id: the token that ends a reply, and the only one.
        vocabulary: ids of the policy are below it.
        requests: prompts asked for at once.
        patience_seconds: how long a server that is away is waited for.
        timeout_seconds: for the replies to one prompt, and for loading weights.

    Errors:
        ConfigError: the address is none.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        end_id: int,
        vocabulary: int,
        *,
        requests: int = 64,
        patience_seconds: float = 300.0,
        timeout_seconds: float = 1800.0,
    ) -> None:
        self.base_url = api_root(base_url).removesuffix("/v1")
        self._model, self._end_id, self._vocabulary = model, end_id, vocabulary
        self._requests, self._patience_seconds = requests, patience_seconds
        self._served_name = model
        self._folder: Path | None = None
        key = os.environ.get(KEY_VARIABLE)
        self._client = httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=requests, keepalive_expiry=_KEEP_ALIVE_SECONDS),
            trust_env=trusts_environment(self.base_url),
        )

    def close(self) -> None:
        """Closes all connections."""
        self._client.close()

    @property
    def version(self) -> str:
        """Names the weights in use."""
        return "" if self._folder is None else self._folder.name

    def load_weights(self, folder: Path, *, is_told: bool = False) -> None:
        """Goes on with the weights of a folder that the server sees under the same path: a model's or an adapter's.

        An adapter is loaded under a name of its own and the one before it is dropped: vLLM keeps what it computed of a
        prompt by the adapter's name.

        Args:
            is_told: another process has told the server already.

        Errors:
            UnavailableError: the server does not answer.
            ConfigError: it has no such routes, or lists no such model.
            ModelError: it cannot load these weights.
        """
        before = self._served_name
        self._folder = Path(folder)
        self._served_name = f"{self._model}-{self._folder.name}" if is_adapter(folder) else self._model
        if is_told:
            return
        self._patiently(self._load)
        if before not in (self._model, self._served_name):
            self._patiently(partial(self._drop, before))

    def sample(
        self, prompt_ids: Sequence[Sequence[int]], n: int, settings: SamplingSettings, seed: int
    ) -> list[list[Sample]]:
        """`n` samples for each prompt; the same arguments ask the server for the same.

        Errors:
            UnavailableError: the server went away and stayed away.
            ModelError: it refused a prompt, or gave something else than replies of this policy.
        """
        found: dict[int, list[Sample]] = {}

        def ask(place: int) -> list[Sample] | _GoneError:
            try:
                return self._ask(prompt_ids[place], n, settings, row_key(seed, place) >> 1)
            except _GoneError as error:
                return error

        deadline, pause_seconds = time.monotonic() + self._patience_seconds, _FIRST_PAUSE_SECONDS
        while missing := [place for place in range(len(prompt_ids)) if place not in found]:
            with ThreadPoolExecutor(self._requests, "sampler") as pool:
                answers = list(pool.map(ask, missing))
            found |= {
                place: one for place, one in zip(missing, answers, strict=True) if not isinstance(one, _GoneError)
            }
            fault = next((one for one in answers if isinstance(one, _GoneError)), None)
            if fault is None:
                break
            if len(found) > len(prompt_ids) - len(missing):  # it gets on
                deadline, pause_seconds = time.monotonic() + self._patience_seconds, _FIRST_PAUSE_SECONDS
            elif time.monotonic() + pause_seconds > deadline:
                raise self._away(fault)
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
            self._patiently(self._load)  # a server that was started again has the weights that it started with
        return [found[place] for place in range(len(prompt_ids))]

    def _ask(self, prompt: Sequence[int], n: int, settings: SamplingSettings, seed: int) -> list[Sample]:
        body: dict[str, Any] = {
            "model": self._served_name,
            "prompt": list(prompt),
            "n": n,
            "seed": seed,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.top_k,
            "max_tokens": settings.max_response_tokens,
            # Nothing of the server's own defaults, a model's generation_config.json say, may change the distribution.
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": True,
            "stop_token_ids": [self._end_id],
            "logprobs": 1,
            "return_token_ids": True,
        }
        response = self._send("POST", "/v1/completions", body)
        if response.status_code == 404 or response.status_code >= 500:
            raise _GoneError(refusal(response.status_code, response.content))
        if response.status_code != 200:
            raise ModelError(
                f"{self.base_url} refused to sample from {self._served_name!r}: "
                f"{refusal(response.status_code, response.content)}"
            )
        try:
            choices = sorted(response.json()["choices"], key=lambda choice: int(choice["index"]))
            given = [
                (
                    [int(token) for token in choice["token_ids"]],
                    [float(logp) for logp in choice["logprobs"]["token_logprobs"]],
                    str(choice["finish_reason"]),
                )
                for choice in choices
            ]
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"{self.base_url}/v1/completions gives no token ids with their log-probabilities "
                f"({type(error).__name__}: {error}); take prefloop's model server, or a vLLM with return_token_ids."
            ) from None
        if len(given) != n:
            raise ModelError(f"{self.base_url} gave {len(given)} replies to a prompt, and {n} were asked for.")
        return [self._checked(*one) for one in given]

    def _checked(self, ids: list[int], logps: list[float], reason: str) -> Sample:
        if not ids or len(ids) != len(logps) or not all(map(math.isfinite, logps)):
            raise ModelError(
                f"{self.base_url} gave a reply of {len(ids)} tokens with {sum(map(math.isfinite, logps))} finite "
                "log-probabilities, and each token needs one; look at the weights that it serves."
            )
        if not all(0 <= token < self._vocabulary for token in ids):
            raise ModelError(
                f"{self.base_url} gave the token {max(ids)}, and the policy's ids end at {self._vocabulary - 1}: it "
                "samples from another model; serve the policy there."
            )
        if reason not in _ENDINGS or (reason == "stop" and ids[-1] != self._end_id):
            raise ModelError(
                f"{self.base_url} ended a reply at the token {ids[-1]} for the reason {reason!r}, and replies end at "
                f"{self._end_id} or at the limit; switch off what else ends replies there."
            )
        return Sample(ids, logps, _ENDINGS[reason])

    def _load(self) -> None:
        folder, is_whole = str(self._folder), self._served_name == self._model
        if self._folder is not None and is_whole:
            self._order("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}})
            self._order("/reset_prefix_cache", {})
        elif not is_whole and self._served_name not in self._names():
            self._order("/v1/load_lora_adapter", {"lora_name": self._served_name, "lora_path": folder})
        names = self._names()
        if self._served_name not in names:
            raise ConfigError(
                f"{self.base_url} serves no {self._served_name!r} but {', '.join(names) or 'nothing'}; set "
                "sampler_model to the name under which it serves the policy."
            )

    def _drop(self, adapter: str) -> None:
        if adapter in self._names():  # not where the server was started again
            self._order("/v1/unload_lora_adapter", {"lora_name": adapter})

    def _names(self) -> list[str]:
        response = self._send("GET", "/v1/models")
        if response.status_code in _GATEWAY_FAULTS:
            raise _GoneError(refusal(response.status_code, response.content))
        try:
            return [str(entry["id"]) for entry in response.json()["data"]]
        except (ValueError, TypeError, KeyError):
            raise ConfigError(
                f"{self.base_url} is no OpenAI-compatible server "
                f"(/v1/models: {refusal(response.status_code, response.content)}); check sampler_url and the key."
            ) from None

    def _order(self, route: str, body: dict[str, Any]) -> None:
        """A POST that changes what is served."""
        response = self._send("POST", route, body)
        if response.status_code == 200:
            return
        said = refusal(response.status_code, response.content)
        if response.status_code in _GATEWAY_FAULTS:
            raise _GoneError(said)
        if response.status_code in (401, 403, 404, 405):
            raise ConfigError(
                f"{self.base_url} does not take weights over {route} ({said}); start `prefloop model-server "
                "--weights-folder`, or vLLM with VLLM_SERVER_DEV_MODE=1 and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, where "
                f"{self._folder} is seen under the same path."
            )
        raise ModelError(
            f"{self.base_url} cannot load {self._folder} ({said}); let it see that folder, and serve the policy's own "
            "base model there."
        )

    def _send(self, method: str, route: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            return self._client.request(method, route, json=body)
        except httpx.HTTPError as error:
            raise _GoneError(str(error) or type(error).__name__) from None

    def _patiently(self, action: Any) -> None:
        """Does it as soon as the server answers."""
        deadline, pause_seconds = time.monotonic() + self._patience_seconds, _FIRST_PAUSE_SECONDS
        while True:
            try:
                action()
                return
            except _GoneError as error:
                if time.monotonic() + pause_seconds > deadline:
                    raise self._away(error) from None
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _away(self, fault: _GoneError) -> UnavailableError:
        return UnavailableError(
            f"The sampling server at {self.base_url} does not answer ({fault}), for {self._patience_seconds:g} seconds "
            "now; start it again, and go on with --resume where the run had begun."
        )
