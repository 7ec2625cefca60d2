"""The snapshots that are served right now: their weights, decoding threads and preference models.

Snapshots with the same weights share one decoding thread, so an example prompt or other sampling settings cost no
memory; adapters over one base share its weights, each with a decoding thread of its own. A reload builds what is new
beside what is served and swaps it in whole; a retired snapshot finishes the replies that it has begun. Beside the
manifest stand the weights that a training run elsewhere samples from, under names of their own. torch and the models
are imported where a model is loaded, so that the module can be imported without them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from prefloop.engine.decoding import DecodingThread
from prefloop.engine.manifest import model_path, read_manifest
from prefloop.errors import ModelError, NotFoundError
from prefloop.schema import Message, Scorer, Snapshot

if TYPE_CHECKING:
    from prefloop.render import Renderer

__all__ = ["Assistant", "Registry", "Reloaded", "ServedScorer"]

T = TypeVar("T")


class _Weights(NamedTuple):
    """A language model in service."""

    renderer: Renderer
    window_tokens: int
    vocabulary: int
    thread: DecodingThread
    base: Any  # the model without its adapter
    base_path: str


class ServedScorer:
    """A preference model in service; one batch at a time."""

    def __init__(self, snapshot: Snapshot, path: str, scorer: Scorer) -> None:
        self.snapshot = snapshot
        self.path = path
        self._scorer = scorer
        self._lock = threading.Lock()

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """Raw scores of the last assistant turn of each conversation. Blocks; call it in a thread."""
        with self._lock:
            return self._scorer.score(conversations)

    def renamed(self, snapshot: Snapshot) -> ServedScorer:
        """The same model under another entry of the manifest."""
        other = ServedScorer(snapshot, self.path, self._scorer)
        other._lock = self._lock
        return other


@dataclass(frozen=True)
class Assistant:
    """A policy snapshot in service."""

    snapshot: Snapshot
    renderer: Renderer
    window_tokens: int
    vocabulary: int
    thread: DecodingThread
    scorer: ServedScorer | None

    @cached_property
    def own_stop(self) -> tuple[str, ...]:
        """Stop strings of the layout."""
        return self.renderer.reply_stops()


class Reloaded(NamedTuple):
    """Names that a reload brought and took away."""

    added: list[str]
    retired: list[str]


@dataclass
class _Served:
    """One state of the registry, swapped whole."""

    assistants: dict[str, Assistant] = field(default_factory=dict)
    scorers: dict[str, ServedScorer] = field(default_factory=dict)
    weights: dict[str, _Weights] = field(default_factory=dict)

    def names(self) -> dict[str, str]:
        """Hash by name, of everything served."""
        hashes = {name: assistant.snapshot.hash for name, assistant in self.assistants.items()}
        return hashes | {name: scorer.snapshot.hash for name, scorer in self.scorers.items()}


class Registry:
    """Loads what a manifest lists, and follows it when told to.

    Args:
        manifest: a JSON list of snapshots; relative paths in it are relative to its folder.
        device: where models are put; "auto" takes a CUDA device where there is one.
        max_rows: replies that one set of weights decodes at once; others wait.
        max_cache_tokens: bound on rows times tokens of a key-value cache.

    Errors:
        DataError: the manifest is wrong.
        ModelError: a model cannot be loaded, or a best-of-k snapshot names no preference model of the manifest.
    """

    def __init__(
        self, manifest: Path, *, device: str = "auto", max_rows: int = 128, max_cache_tokens: int = 1 << 19
    ) -> None:
        self.manifest = Path(manifest)
        self._device = device
        self._max_rows, self._max_cache_tokens = max_rows, max_cache_tokens
        self._lock = threading.Lock()
        self._served = _Served()
        self._listed: list[Snapshot] = []
        self._sampled: dict[str, str] = {}  # weights of runs elsewhere: folder by name
        self.reload()

    def reload(self) -> Reloaded:
        """Reads the manifest again; on an error everything stays as it was."""
        with self._lock:
            before = self._served.names()
            self._swap(read_manifest(self.manifest), self._sampled)
            after = self._served.names()
            return Reloaded(
                [name for name in after if before.get(name) != after[name]],
                [name for name in before if after.get(name) != before[name]],
            )

    def serve_weights(self, name: str, path: Path) -> None:
        """Serves the weights of a folder under a name that no snapshot has, in the place of those that had it.

        Errors:
            ModelError: they cannot be loaded, or the name is a snapshot's; everything stays as it was.
        """
        with self._lock:
            if any(snapshot.name == name for snapshot in self._listed):
                raise ModelError(
                    f"{name!r} is the name of a snapshot that is served here; load the weights as another."
                )
            self._swap(self._listed, self._sampled | {name: str(path)}, fresh=str(path))

    def drop_weights(self, name: str) -> None:
        """Ends what `serve_weights` began.

        Errors:
            NotFoundError: there are no such weights.
        """
        with self._lock:
            if name not in self._sampled:
                raise NotFoundError(
                    f"No weights were loaded as {name!r}; there are: {', '.join(self._sampled) or 'none'}."
                )
            self._swap(self._listed, {key: path for key, path in self._sampled.items() if key != name})

    def assistants(self) -> list[Assistant]:
        """All policy snapshots in service."""
        return list(self._served.assistants.values())

    def assistant(self, name: str) -> Assistant:
        """The policy snapshot of a name or id.

        Errors:
            NotFoundError: none is served under it.
        """
        return _find(self._served.assistants, name, "model", lambda entry: entry.snapshot.id)

    def scorer(self, name: str) -> ServedScorer:
        """The preference model of a name or id.

        Errors:
            NotFoundError: none is served under it.
        """
        return _find(self._served.scorers, name, "preference model", lambda entry: entry.snapshot.id)

    @property
    def running_rows(self) -> int:
        """Replies that are being waited for, over all models."""
        return sum(weights.thread.running_rows for weights in self._served.weights.values())

    def close(self) -> None:
        """Ends all decoding threads after the replies that they have begun."""
        with self._lock:
            served, self._served = self._served, _Served()
        _close(served.weights, {})

    def _swap(self, listed: list[Snapshot], sampled: dict[str, str], fresh: str | None = None) -> None:
        """Serves these from now on; on an error everything stays as it was. `fresh`: a folder that is read again."""
        old, new = self._served, _Served()
        reusable = {path: weights for path, weights in old.weights.items() if path != fresh}
        try:
            self._fill(new, old, reusable, listed)
            for name, path in sampled.items():
                if path not in new.weights:
                    new.weights[path] = reusable.get(path) or self._load_weights(
                        path, (*new.weights.values(), *reusable.values())
                    )
                snapshot = Snapshot(name=name, hash=Path(path).name, path=path)
                new.assistants[name] = _assistant(snapshot, new.weights[path], None)
        except BaseException:
            _close(new.weights, old.weights)
            raise
        self._served, self._listed, self._sampled = new, listed, sampled
        _close(old.weights, new.weights)

    def _fill(
        self, new: _Served, old: _Served, reusable: Mapping[str, _Weights], snapshots: Sequence[Snapshot]
    ) -> None:
        for snapshot in (s for s in snapshots if s.kind == "preference_model"):
            path = model_path(self.manifest, snapshot)
            known = next((s for s in (*new.scorers.values(), *old.scorers.values()) if s.path == path), None)
            if known is not None:
                new.scorers[snapshot.name] = known.renamed(snapshot)
            else:
                new.scorers[snapshot.name] = ServedScorer(snapshot, path, _load_scorer(path, self._torch_device))
        for snapshot in (s for s in snapshots if s.kind == "policy"):
            scorer = _scorer_of(snapshot, new.scorers)
            path = model_path(self.manifest, snapshot)
            if path not in new.weights:
                known_weights = (*new.weights.values(), *reusable.values())
                new.weights[path] = reusable.get(path) or self._load_weights(path, known_weights)
            new.assistants[snapshot.name] = _assistant(snapshot, new.weights[path], scorer)

    def _load_weights(self, path: str, known: Sequence[_Weights]) -> _Weights:
        from prefloop.models.adapters import adapted, adapter_base, is_adapter
        from prefloop.models.language import load_language_model, load_tokenizer
        from prefloop.models.sampling import BatchDecoder
        from prefloop.render import Renderer

        base_path = adapter_base(path) if is_adapter(path) else path
        base = next((one.base for one in known if one.base_path == base_path), None)
        if base is None:
            base = load_language_model(base_path).model
            base.to(self._torch_device).requires_grad_(False)
        model = base if base_path == path else adapted(base, path)
        renderer = Renderer(load_tokenizer(path))
        decoder = BatchDecoder(model, renderer.end_id, max_rows=self._max_rows, max_cache_tokens=self._max_cache_tokens)
        thread = DecodingThread(decoder, Path(path).name)
        return _Weights(renderer, decoder.window_tokens, model.config.vocab_size, thread, base, base_path)

    @cached_property
    def _torch_device(self) -> str:
        import torch

        if self._device != "auto":
            return self._device
        return "cuda" if torch.cuda.is_available() else "cpu"


def _close(weights: Mapping[str, _Weights], kept: Mapping[str, _Weights]) -> None:
    for path, one in weights.items():
        if kept.get(path) is not one:
            one.thread.close()


def _assistant(snapshot: Snapshot, weights: _Weights, scorer: ServedScorer | None) -> Assistant:
    return Assistant(snapshot, weights.renderer, weights.window_tokens, weights.vocabulary, weights.thread, scorer)


def _load_scorer(path: str, device: str) -> Scorer:
    from prefloop.models.preference import PreferenceModel

    return PreferenceModel.load(path).to(device)


def _scorer_of(snapshot: Snapshot, scorers: Mapping[str, ServedScorer]) -> ServedScorer | None:
    if snapshot.best_of_k == 1:
        return None
    for scorer in scorers.values():
        if snapshot.preference_model_id in (scorer.snapshot.id, scorer.snapshot.name):
            return scorer
    raise ModelError(
        f"Snapshot {snapshot.name!r} picks the best of {snapshot.best_of_k} with the preference model "
        f"{snapshot.preference_model_id!r}, which the manifest does not list; add it."
    )


def _find(entries: Mapping[str, T], name: str, noun: str, id_of: Callable[[T], str]) -> T:
    for key, entry in entries.items():
        if name in (key, id_of(entry)):
            return entry
    known = ", ".join(entries) or "none"
    raise NotFoundError(f"There is no {noun} {name!r} here; the names served are: {known}.")
