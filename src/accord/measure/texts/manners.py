"""What belongs to the manner of an answer, by English words: greeting, courtesy, explanation, …"""

from __future__ import annotations

import re
from collections.abc import Mapping

_WORDS: Mapping[str, str] = {
    "a greeting": r"\b(?:dear|hello|hi|hey|greetings|good (?:morning|afternoon|evening|day))\b",
    "an assent": r"\b(?:of course|certainly|sure|absolutely|gladly|with pleasure|my pleasure|"
    r"no problem|(?:happy|glad|delighted|pleased) to)\b",
    "a courtesy": r"\b(?:please|thanks?|thank you|grateful|gratitude|appreciate|sorry|"
    r"apolog(?:y|ies|i[sz]e)|forgive|excuse|pardon|kindly|welcome)\b",
    "a closing": r"\b(?:regards|best wishes|sincerely|yours (?:truly|faithfully)|take care|"
    r"good luck|let me know|feel free|have an? (?:\w+ )?(?:day|time|trip|evening|week)|"
    r"hope (?:this|that|it) helps|(?:any|more|further|other) questions)\b",
    "a good wish": r"\b(?:hope|enjoy|wish|look(?:ing)? forward|take your time|congratulations)\b",
    "an explanation": r"\b(?:because|since|therefore|thus|so that|due to|in order to|reasons?|"
    r"which means|this means|as a result|that is why|that's why)\b",
    "an example": r"\b(?:for example|for instance|such as)\b|\be\.g\.",
    "a caution": r"\b(?:however|careful|caution|be aware|keep in mind|make sure|note that|"
    r"important to|consult|professional|warning)\b",
    "a list": r"^\s*(?:[-*•]|\d+[.)])\s",
    "a heading or bold text": r"^#{1,6} |\*\*\S",
    "code": r"```|`[^`\n]+`",
}

MANNERS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.IGNORECASE | re.MULTILINE) for name, pattern in _WORDS.items()
}
"""By what they show the patterns. Courtesies are among the politeness strategies of
Danescu-Niculescu-Mizil et al. (2013): greeting, gratitude, apologising, please."""
