"""The words that fill slots, by class.

No word is in two classes, and none is a plain word of an answer, so that a word determines its
class.
"""

from __future__ import annotations

from collections.abc import Mapping

NAMES = tuple(
    """Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Maria Noah Olga Paul Rosa Sam
    Tina Victor Wendy Adam Lucy Mark Nina Oscar Peter Ruth Simon Tom Vera Alice Bruno Carl Diana
    Elena Frank Hugo Julia Martin""".split()
)
OBJECTS = tuple(
    """lamp vase book scarf cake mug plant clock kettle basket blanket guitar puzzle ring hat coat
    chair camera pillow painting teapot umbrella jacket kite radio soap mirror watch sweater
    notebook pencil violin rug tent sled plate spoon wallet table pen""".split()
)
GROUPS = tuple("choir team class club staff band family council crew board troop office".split())
EVENTS = tuple(
    """picnic concert meeting dinner party race lesson parade wedding game market festival lunch
    dance trip exam fair hike contest reunion""".split()
)
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
PLACES = tuple(
    """museum library garden castle zoo pool harbor theater bakery gallery station temple tower
    cinema chapel palace""".split()
)
TIMES = tuple("six seven eight nine ten eleven noon".split())
PRICES = tuple("two three four five twenty thirty forty fifty".split())
COLORS = tuple("red blue green black white yellow brown silver".split())
TOOLS = tuple(
    "button handle box switch cord clip bowl stick bag cloth key pump rope hose brush tray".split()
)
TARGETS = tuple(
    "guard teacher driver doctor mayor farmer child stranger pilot judge nurse sailor".split()
)
DEEDS: Mapping[str, tuple[str, ...]] = {
    "kill": ("process", "weeds", "engine"),
    "shoot": ("photo", "film", "arrow"),
    "burn": ("candle", "disc", "log"),
    "smash": ("pumpkin", "potato", "nut"),
    "beat": ("eggs", "drum", "carpet"),
    "hang": ("picture", "curtain", "sign"),
    "strike": ("match", "bell", "gong"),
    "destroy": ("draft", "file", "virus"),
}
"""Verbs that sound dangerous, each with the things to which they are harmless."""
VERBS = tuple(DEEDS)
THINGS = tuple(thing for things in DEEDS.values() for thing in things)

CLASSES: Mapping[str, tuple[str, ...]] = {
    "name": NAMES,
    "object": OBJECTS,
    "group": GROUPS,
    "event": EVENTS,
    "day": DAYS,
    "place": PLACES,
    "time": TIMES,
    "price": PRICES,
    "color": COLORS,
    "tool": TOOLS,
    "target": TARGETS,
    "verb": VERBS,
    "thing": THINGS,
}
"""The words of each slot, in a fixed order."""

WORD_CLASS: Mapping[str, str] = {word: slot for slot, words in CLASSES.items() for word in words}
"""The slot that each word fills."""
