"""The words by which a phone opts out of texts and in again. Pure.

They are the carriers' own: Twilio's defaults, which are the CTIA's (Messaging Principles and Best Practices, 5.1.3),
with those that the FCC names as reasonable (47 CFR 64.1200(a)(10)). A carrier that knows them too answers them itself,
so nothing here does.
"""

import re
from typing import Final, Literal

Word = Literal["stop", "start", "yes", "help"]

WORDS: Final[dict[Word, tuple[str, ...]]] = {
    "stop": ("STOP", "STOPALL", "STOP ALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT", "OPT OUT"),
    "start": ("START", "UNSTOP"),
    "yes": ("YES",),  # opts in whoever had opted out; of everybody else it is an answer
    "help": ("HELP", "INFO"),
}
_WORD_OF: Final = {text: word for word, texts in WORDS.items() for text in texts}
_LONGEST: Final = max(map(len, _WORD_OF))
_NOISE: Final = re.compile(r"[^\w]+")  # quotes, full stops, emoji, dashes


def word_of(body: str) -> Word | None:
    """The word that a text consists of, whatever its case and punctuation; None for every other text."""
    text = _NOISE.sub(" ", body[: 4 * _LONGEST]).strip().upper()
    return _WORD_OF.get(text) if len(body.strip()) <= 4 * _LONGEST else None
