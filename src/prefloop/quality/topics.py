"""Openings by what they are about: clusters of words. Knows texts, no tranches and no store.

TF-IDF of words, reduced to a few dozen dimensions (latent semantic analysis), then k-means. Topics are a way to look
at the data, not categories of it: their number is a choice, and an opening that fits nowhere is put somewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from prefloop.schema import Interval
from prefloop.stats import wilson

_MOST_OPENINGS, _LEAST_OPENINGS = 5000, 60
_MOST_TOPICS, _OPENINGS_A_TOPIC = 12, 30
_WORDS, _EXAMPLES = 6, 3


@dataclass(frozen=True)
class Clustering:
    """Topics, most openings first, and the topic of each opening that was clustered."""

    topics: list[tuple[tuple[str, ...], list[int], Interval]] = field(default_factory=list)
    """Most telling words, codes of the most typical openings, share."""
    topic: dict[int, int] = field(default_factory=dict)
    """Code of an opening -> place in `topics`."""
    unknown: str = ""


def cluster_openings(texts: Mapping[int, str], seed: int) -> Clustering:
    """Clusters at most 5,000 openings, evenly over all that were kept."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    codes = list(texts)
    codes = codes[:: max(len(codes) // _MOST_OPENINGS, 1)][:_MOST_OPENINGS]
    few = f"{len(codes)} different openings are too few for topics; {_LEAST_OPENINGS} are needed."
    if len(codes) < _LEAST_OPENINGS:
        return Clustering(unknown=few)
    vectors = TfidfVectorizer(stop_words="english", sublinear_tf=True, min_df=2, max_df=0.5, max_features=8000)
    try:
        table = vectors.fit_transform([texts[code] for code in codes])
    except ValueError:  # no word in two of them
        return Clustering(unknown=f"No word stands in two of {len(codes)} openings, so they have no common topics.")
    filled = np.flatnonzero(np.asarray(table.sum(axis=1)).ravel())
    count = min(_MOST_TOPICS, len(filled) // _OPENINGS_A_TOPIC)
    if count < 2 or table.shape[1] < 3:
        return Clustering(unknown=f"Only {len(filled)} of {len(codes)} openings share telling words, too few.")
    table, codes = table[filled], [codes[place] for place in filled]
    dimensions = min(50, table.shape[1] - 1)
    reduced = normalize(TruncatedSVD(dimensions, random_state=seed).fit_transform(table))
    means = KMeans(count, n_init=4, random_state=seed).fit(reduced)
    names, overall = vectors.get_feature_names_out(), np.asarray(table.mean(axis=0)).ravel()
    found = []
    for number in range(count):
        members = np.flatnonzero(means.labels_ == number)
        if len(members) == 0:
            continue
        telling = np.argsort(overall - np.asarray(table[members].mean(axis=0)).ravel())[:_WORDS]
        near = members[np.argsort(((reduced[members] - means.cluster_centers_[number]) ** 2).sum(axis=1))]
        words = tuple(str(names[place]) for place in telling)
        found.append((members, words, [codes[place] for place in near[:_EXAMPLES]]))
    found.sort(key=lambda one: -len(one[0]))
    topic = {codes[place]: number for number, (members, _, _) in enumerate(found) for place in members.tolist()}
    return Clustering(
        [(words, examples, wilson(len(members), len(codes))) for members, words, examples in found], topic
    )
