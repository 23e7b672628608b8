"""What texts that people write may hold: the patterns, as JSON Schema and Python read them alike."""

import re
from typing import Final

from ottoai.errors import InvalidInput

# Neither control characters, which no screen shows and of which no column takes a NUL, nor blanks alone.
LINE: Final = r"^(?![\s\S]*[\u0000-\u001f\u007f-\u009f])[\s\S]*\S"
TEXT: Final = r"^(?![\s\S]*[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f])[\s\S]*\S"  # of several lines
# The same, with {company} as the only thing in braces.
TEMPLATE: Final = TEXT.replace(r"[\s\S]*\S", r"(?![\s\S]*\{(?!company\}))(?![\s\S]*(?<!\{company)\})[\s\S]*\S")

_SENTENCES: Final = {
    LINE: "must be one line that is not blank, without control characters",
    TEXT: "must be a text that is not blank, without control characters",
    TEMPLATE: "must be a text that is not blank, without control characters; in braces only {company} may stand",
}


def check(field: str, text: object, pattern: str) -> None:
    """Raise InvalidInput, beginning with the field's name, for a text that is not as its pattern says."""
    if isinstance(text, str) and not re.match(pattern, text):
        raise InvalidInput(f"{field}: {_SENTENCES[pattern]}")
