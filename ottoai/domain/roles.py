"""What a user is within a tenant: three roles, and how the words of others become one of them."""

from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What a user may do. None of them contains another: a handler names all that it admits."""

    MEMBER = "member"  # works with calls, leads and tasks
    MANAGER = "manager"  # also settles what concerns the whole company
    SERVICE = "service"  # a program, not a person


# Clerk's own roles; older instances of it say `admin` and `basic_member`.
_KNOWN: Final = {"admin": Role.MANAGER, "basic_member": Role.MEMBER, **{role.value: role for role in Role}}
_PREFIX: Final = "org:"  # in Clerk's webhooks and first kind of session token, not in the second


def role_of(word: str | None) -> Role:
    """The role that a token or a provider names. One that is not known, or none, gives the least: member."""
    return _KNOWN.get((word or "").removeprefix(_PREFIX), Role.MEMBER)
