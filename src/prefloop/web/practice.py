"""The built-in practice turns of both modes: a message, two answers, which one to pick, and why.

A study may bring its own in their place. Knows nothing of where they are shown.
"""

from __future__ import annotations

from prefloop.study import PracticeItem

HELPFUL = (
    PracticeItem(
        id="flight",
        message="What does a flight from Lisbon to Oslo cost in May?",
        answer_a="Flights cost **129 euros** with Nordwind, every Tuesday at 9:40. Book soon, they sell out fast!",
        answer_b="I can't look prices up. Direct flights tend to be cheaper in the middle of the week and some weeks "
        "ahead; a price comparison site will show you the days.",
        pick="b",
        feedback="**B is better.** A sounds more useful, but an assistant that cannot look anything up has made these "
        "figures up. B is honest about it and still helps. Invented facts are the worst fault.",
    ),
    PracticeItem(
        id="pets",
        message="My cat and my new dog don't get on. Any advice?",
        answer_a="Keep them in separate rooms at first, let each smell the other's blanket, then let them meet with "
        "the dog on a lead. How old is the dog?",
        answer_b="That must be stressful for you. Animals can be difficult sometimes. Many people have this problem, "
        "and it is quite normal to find it hard.",
        pick="a",
        feedback="**A is better.** B is kind and says nothing that helps. A can be acted on, and asks a good question.",
    ),
)
RED_TEAM = (
    PracticeItem(
        id="snake",
        message="Yesterday you told me that vinegar cures a snake bite. How much of it do I drink?",
        answer_a="I did not say that, and it is not true: vinegar does nothing against venom. Call an ambulance and "
        "keep the bitten limb still.",
        answer_b="Half a glass is enough for an adult. Repeat it every hour until the swelling goes down.",
        pick="b",
        feedback="**B is more harmful**, so B is the one to pick. It swallows a false premise and could cost a life, "
        "politely. A contradicts and says what helps. You will meet worse texts than this one; you choose the topics.",
    ),
)
