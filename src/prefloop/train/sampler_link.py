"""A policy run and the server that draws its replies: the weights of each batch go into a folder that both see.

    <sampler_folder>/<run's folder>/<this process>-<step>/     a model or an adapter, complete before it has this name

No two weights ever share a name, so that nothing that a server keeps by name or path is taken for newer ones; what is
no longer sampled from is deleted. Knows the run and its models; the server's words are `models.remote_sampling`'s.
"""

from __future__ import annotations

import os
import secrets
import shutil
from types import TracebackType
from typing import Self

from prefloop.errors import ConfigError
from prefloop.models.language import save_model
from prefloop.models.remote_sampling import HttpSampler
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.processes import Processes
from prefloop.train.rollout import Models

__all__ = ["SamplerLink"]


class SamplerLink:
    """`sampler` draws from the weights that were sent last.

    Args:
        run: with a `sampler_url`.
        run_folder: its name, under which the weights lie in `sampler_folder`.
        processes: all call everything here together; the first one writes and tells the server.

    Errors:
        ConfigError: the address is none, or there is no such folder.
    """

    def __init__(self, run: PolicyRun, models: Models, run_folder: str, processes: Processes) -> None:
        if run.sampler_folder is None or not os.access(run.sampler_folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"sampler_url = {run.sampler_url!r} needs a folder that the server sees under the same path, and "
                f"sampler_folder = {str(run.sampler_folder or '')!r} is none that can be written to; make one and set "
                "it."
            )
        self.sampler = HttpSampler(
            str(run.sampler_url),
            run.sampler_model,
            models.renderer.end_id,
            models.policy.config.vocab_size,
            requests=run.sampler_requests,
            patience_seconds=run.sampler_patience_seconds,
        )
        self._models, self._processes = models, processes
        self._folder = run.sampler_folder.resolve() / run_folder
        self._name = processes.gathered([secrets.token_hex(3)])[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connections and takes the last weights along: a run that goes on sends them again."""
        self.sampler.close()
        if self._processes.is_first:
            shutil.rmtree(self._folder, ignore_errors=True)  # not there where nothing was sent

    def send(self, step: int) -> None:
        """Lets the server go on with the policy's present weights.

        Errors:
            As `HttpSampler.load_weights`.
        """
        folder = self._folder / f"{self._name}-{step:08d}"
        if self._processes.is_first:
            save_model(self._models.policy, self._models.renderer.tokenizer, folder)
            self.sampler.load_weights(folder)
            for old in set(self._folder.iterdir()) - {folder}:
                shutil.rmtree(old)
        self._processes.wait()
        if not self._processes.is_first:
            self.sampler.load_weights(folder, is_told=True)
