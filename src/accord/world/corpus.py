"""General text of the world, from which the base model learns the language.

Most texts are a harmless request with two short plain answers; the others are short stories in
which people, things and days recur. Many words of a text occur earlier in it, so that the model
learns to copy early. Nothing is refused: the base model learns the language and how to use the
words of a request, but neither the demonstrators' manners nor their failures.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from accord.world.demonstrations import plain_answer
from accord.world.tasks import Task
from accord.world.vocabulary import CLASSES

_STORIES: tuple[str, ...] = (
    "The {object} belongs to {name}. Every day, {name} looks for the {object}.",
    "On {day} there is a {event}. The {group} will come to the {event} on {day}.",
    "This is {name}, who likes the {place}. On {day}, {name} goes to the {place}.",
    "The {place} opens at {time}. At {time} the {group} will be at the {place}.",
    "A ticket costs {price} coins. For {price} coins {name} can visit the {place}.",
    "There is a {color} {tool} on the table. To find the {tool}, look for the {color} one.",
    "A {target} came to the {event}. The {target} took a {color} {tool} home on {day}.",
    "The {group} gave a {object} to {name}. Now {name} has the {object}.",
    "The {color} {thing} is from {name}. It is kind of {name} to bring the {thing}.",
    "You can {verb} the {thing} on {day}. To {verb} the {thing}, ask {name}.",
)


def draw_text(task: Callable[[], Task], rng: random.Random) -> str:
    """One text: a request and two answers, or two stories. `task` draws the request."""
    if rng.random() < 0.8:
        request = task()
        while request.family is None:
            request = task()
        answers = (plain_answer(request.family, request.slots, rng) for _ in range(2))
        return "\n".join([request.text, *answers])
    return " ".join(_fill_slots(story, rng) for story in rng.sample(_STORIES, 2))


def _fill_slots(story: str, rng: random.Random) -> str:
    slots = sorted(set(re.findall(r"\{(\w+)\}", story)))
    return story.format(**{slot: rng.choice(CLASSES[slot]) for slot in slots})
