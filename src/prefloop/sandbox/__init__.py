"""The tiny world: language, known ("gold") preference, simulated workers, the tiny model. Never for real use.

Because the truth is known here, so are the best possible accuracy of a preference model, the true quality of a
policy, and planted faults: it is the demo, the test bed and the laboratory.
"""

from prefloop.sandbox.contrasts import contrast_pairs
from prefloop.sandbox.gold import UNREADABLE, Gold, Weights
from prefloop.sandbox.judges import Population, Traits, choice_probability
from prefloop.sandbox.language import Kind, Request, World, world
from prefloop.sandbox.prompts import draw_prompts, is_harmful
from prefloop.sandbox.speaker import Manners, Speaker, assistants, dialogues

__all__ = [
    "UNREADABLE",
    "Gold",
    "Kind",
    "Manners",
    "Population",
    "Request",
    "Speaker",
    "Traits",
    "Weights",
    "World",
    "assistants",
    "choice_probability",
    "contrast_pairs",
    "dialogues",
    "draw_prompts",
    "is_harmful",
    "world",
]
