"""What Twilio's error codes mean for a text: try again, give it up, or leave the number alone. Pure.

The codes stand in Twilio's error dictionary, which grows: what is not listed is given up, and says its code. They come
in answers to a text handed over, and in callbacks about one that did not arrive; the latter was sent, so it is not
sent again whatever its code.
"""

from typing import Final, Literal, NamedTuple

Sort = Literal["retry", "give_up", "untextable", "opted_out"]


class Code(NamedTuple):
    """What a code makes of a text, and what Twilio says by it."""

    sort: Sort
    meaning: str


CODES: Final[dict[str, Code]] = {
    "14107": Code("retry", "too many texts in a second"),
    "20003": Code("retry", "the auth token was refused: it is being rotated, or wrong"),
    "20429": Code("retry", "too many requests"),
    "30001": Code("retry", "the queue is full"),
    "30022": Code("retry", "too many texts in a second for the campaign"),
    "21211": Code("untextable", "no valid number"),
    "21265": Code("untextable", "a short code"),
    "21612": Code("untextable", "cannot be reached from our number"),
    "21614": Code("untextable", "no mobile number"),
    "21635": Code("untextable", "a landline"),
    "30004": Code("untextable", "the carrier blocks texts to it"),
    "30005": Code("untextable", "unknown, or no longer in service"),
    "30006": Code("untextable", "a landline, or its carrier cannot be reached"),
    "21610": Code("opted_out", "the number has opted out at Twilio"),
    "21408": Code("give_up", "texts to that country are switched off in the account"),
    "21606": Code("give_up", "our number cannot send texts"),
    "21617": Code("give_up", "too long"),
    "21659": Code("give_up", "our number is none of Twilio's"),
    "21660": Code("give_up", "our number is not the account's"),
    "30003": Code("give_up", "the phone was off or out of reach for too long"),
    "30007": Code("give_up", "filtered as spam"),
    "30008": Code("give_up", "the carrier does not say why"),
    "30034": Code("give_up", "our number is not registered for such texts"),
}


def sort_of(code: str | None) -> Sort:
    """What a code makes of a text."""
    return CODES[code].sort if code in CODES else "give_up"
