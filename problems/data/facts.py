"""Ten sentences on as many topics, each with a paraphrase that means the same in other words."""

from __future__ import annotations

# What LanguageModel's `queries` calls them.
NAME = "facts"
FACTS: tuple[tuple[str, str], ...] = (
    (
        "Water boils at one hundred degrees Celsius.",
        "A kettle begins to bubble once its contents are as hot as 212 Fahrenheit.",
    ),
    (
        "The heart pumps blood through the body.",
        "Circulation is driven by a muscle inside our chest.",
    ),
    (
        "Paris is the capital of France.",
        "French ministers have their offices in a city on the river Seine.",
    ),
    (
        "Shakespeare wrote the play Hamlet.",
        "An author from Stratford gave us that tragedy about a Danish prince.",
    ),
    (
        "Plants turn sunlight into sugar.",
        "Green leaves make sweet food out of what shines on them.",
    ),
    (
        "The Second World War ended in 1945.",
        "Germany and Japan surrendered to their Allied enemies after six years of fighting.",
    ),
    (
        "Light travels faster than sound.",
        "We see a flash before its thunder can be heard.",
    ),
    (
        "Higher interest rates slow inflation.",
        "When central banks make loans dear, prices climb less quickly.",
    ),
    (
        "Bees make honey from the nectar of flowers.",
        "What insects gather at blossoms becomes a thick syrup in their hive.",
    ),
    (
        "Mount Everest is the highest mountain on Earth.",
        "No peak anywhere rises above that one between Nepal and Tibet.",
    ),
)


def sentences() -> list[str]:
    """Each sentence followed by its paraphrase."""
    return [each for pair in FACTS for each in pair]
