"""What a preference model must beat, and what it cannot: a regression on words, and the agreement of two workers.

Knows texts and judgments, no preference model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from prefloop.errors import DataError
from prefloop.schema import Interval, Message, Noun, PreferencePair
from prefloop.stats import accuracy_ceiling, raw_agreement
from prefloop.stats.intervals import Labels

__all__ = ["Agreement", "TfidfRegression", "worker_agreement"]

_MOST_TERMS = 100_000  # of words and pairs of words: bounds memory, and more change nothing


class TfidfRegression:
    """Logistic regression on the difference of two replies' TF-IDF vectors of words and pairs of words. A `Scorer`.

    It sees the replies alone, never the context, so what it gets right needs no understanding of the request.

    Errors:
        DataError: fewer than two pairs, or no word that two of the replies have.
    """

    def __init__(self, pairs: Sequence[PreferencePair]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        if len(pairs) < 2:
            raise DataError(f"A TF-IDF regression needs 2 training pairs, not {len(pairs)}; keep more for training.")
        vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=_MOST_TERMS)
        try:
            vectors.fit([text for pair in pairs for text in (pair.chosen, pair.rejected)])
        except ValueError:  # an empty vocabulary
            raise DataError(
                f"No word stands in two of the replies of {len(pairs)} pairs; add training pairs."
            ) from None
        chosen, rejected = (vectors.transform([getattr(p, side) for p in pairs]) for side in ("chosen", "rejected"))
        # Every second difference is turned round, so that both classes are there: without an intercept that changes
        # nothing else.
        signs = np.where(np.arange(len(pairs)) % 2 == 0, 1.0, -1.0)
        regression = LogisticRegression(fit_intercept=False, max_iter=1000)
        regression.fit((chosen - rejected).multiply(signs[:, None]).tocsr(), signs)
        self._vectors: Any = vectors
        self._weights = regression.coef_[0]

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """Log-odds of the last turn of each conversation."""
        values: list[float] = (self._vectors.transform([c[-1].text for c in conversations]) @ self._weights).tolist()
        return values


class Agreement(Noun):
    """How far two workers agree on the evaluated comparisons, and what that leaves for any model."""

    two_workers: Interval = Field(description="share of pairs of judgments of one comparison that prefer the same side")
    ceiling: Interval = Field(
        description="no scorer is expected to agree with a worker more often: (1 + sqrt(2 two_workers - 1)) / 2"
    )
    model: Interval | None = Field(None, description="accuracy of the model on the same judgments")


def worker_agreement(pairs: Sequence[PreferencePair], clusters: Labels, seed: int = 0) -> Agreement:
    """Agreement of different workers on the comparisons that several of them judged.

    Errors:
        DataError: no comparison was judged by two workers; the sentence says why.
    """
    known = [i for i, pair in enumerate(pairs) if pair.worker_id and pair.comparison_id and pair.chosen_side]
    if not known:
        raise DataError("No judgment names its worker (imports do not), so the agreement ceiling is unknown.")
    try:
        agreed = raw_agreement(
            [pairs[i].comparison_id for i in known],
            [float(pairs[i].chosen_side == "a") for i in known],
            [clusters[i] for i in known],
            seed=seed,
        )
    except DataError:
        raise DataError(
            "No comparison was judged by two workers, so the agreement ceiling is unknown; set a study's overlap to "
            "0.1 or more."
        ) from None
    return Agreement(two_workers=agreed, ceiling=accuracy_ceiling(agreed))


def judged_twice(pairs: Sequence[PreferencePair]) -> list[int]:
    """Places of the judgments whose comparison another judgment shares."""
    counts: dict[str, int] = {}
    for pair in pairs:
        counts[pair.comparison_id] = counts.get(pair.comparison_id, 0) + bool(pair.worker_id and pair.chosen_side)
    return [i for i, p in enumerate(pairs) if p.comparison_id and p.worker_id and counts[p.comparison_id] >= 2]
