"""From where on a number of the evidence counts against somebody.

Set by hand; `benchmarks/bench_diagnosis.py` counts how often they are right.
"""

CHANCE = 0.5
BARELY_LEARNED = 0.56
"""A PM whose accuracy on training pairs is below this, and may be chance, has learned next to nothing of them."""
BARELY_AGREES = 0.6
"""Two PMs of one kind of data order three quarters of pairs alike or more."""
LENGTH_RULES = 0.75
"""Correlation of score and length within a prompt from which length alone says most of the score."""
SAVES_NATS = 0.2
"""Nats a token: a model that reads its own template has no such gain from another one."""
CLIPPED = 0.25
"""Share of clipped ratios; PPO steps of a sound size clip a few percent."""
MOVED = 0.3
"""Nats a token that any one batch moved the policy."""
FAR_NATS = 20.0
"""Nats a reply that nobody needs who has not even gained half of what the best of 16 gains."""
LOST_NATS = 50.0
"""Nats a reply: what is left of the start is nothing, and a PM that likes it has never seen the like."""
WORSE = 0.4
"""Deviations by which a start is worse than the answers that the PM learned from; 0 for the model they came from."""
STARVED = 0.4
"""Deviations by which the score rises further on training prompts than it surely does on others; batches are noisy."""
OFTEN = 32
"""Replies to each training prompt over a run, from which on batches hold the same prompts again: their rise is no noise
of prompts then, and any that is surely above the rise on others counts. The paper's runs have one reply or a few."""
EXPLAINED = 0.1
"""Share of the returns' variance: a value model that explains less is as good as none. It counts only against a run
that gained nothing: healthy ones begin below 0 too, and the smallest policies gain something."""
STILL = 0.02
"""Nats a reply: nothing was learned that anybody could see."""
LEAST_BATCHES = 4
"""Batches of a run from which on what it did not do is held against anybody."""
LEAST_LEARNED_BATCHES = 8
"""The same for what policy and value model have not learned; the value model is judged by the last half of these."""
FAR = 0.3
"""Share of replies beyond 99% of the PM's training data from which on they are of another kind."""
