"""What Clerk's events say: their fields, with Clerk's names, and what follows from each. Pure.

Source: Clerk's guide to its webhooks (`type`, `data`, and `timestamp`, the event's own time) and its catalogue of
events. Of what it tells of a person only the name is read.
"""

from datetime import datetime
from typing import Annotated, ClassVar, Final

import msgspec

from ottoai.domain.roles import role_of
from ottoai.domain.users import Membership, Person, Stamp

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[!-~]*\Z")]  # ids and types are such

MAX_NAME: Final = 200  # characters

# What breaks a tie between events of one millisecond: what is told by the way, then beginning, change and end.
BY_THE_WAY, BEGINNING, CHANGE, END = range(4)


class Ending(msgspec.Struct, frozen=True):
    """Whose access ended, and when. `tenant_id` None: in every tenant; `user_id` None: every user's of the tenant."""

    tenant_id: str | None
    user_id: str | None
    at: datetime


class Organisation(msgspec.Struct, frozen=True):
    """A tenant, as Clerk names it."""

    id: str
    name: str
    stamp: Stamp


class Moment(msgspec.Struct, frozen=True):
    """When an event happened, and which delivery tells of it."""

    at: datetime
    delivery: str

    def stamp(self, rank: int) -> Stamp:
        """Its place among all that is told of the same thing."""
        return f"{round(self.at.timestamp() * 1000):014d}-{rank}-{self.delivery}"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from an event. None of it: the event is of no concern."""

    tenant_id: str | None = None  # the tenant that it is about; None: whichever the person belongs to
    ending: Ending | None = None
    organisation: Organisation | None = None
    membership: Membership | None = None
    person: Person | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of every event that are read."""

    rank: ClassVar[int] = CHANGE

    type: Word
    timestamp: int | None = None

    def facts(self, _moment: Moment) -> Facts:
        """What follows."""
        return Facts()


class Named(msgspec.Struct, frozen=True):
    """What has an id."""

    id: Word


class Org(Named, frozen=True, kw_only=True):
    """An organisation."""

    name: str


class User(Named, frozen=True, kw_only=True):
    """A user."""

    first_name: str | None = None
    last_name: str | None = None
    banned: bool | None = None


class Member(msgspec.Struct, frozen=True):
    """What a membership says of its user."""

    user_id: Word
    first_name: str | None = None
    last_name: str | None = None


class Belonging(msgspec.Struct, frozen=True):
    """That a user belongs to an organisation."""

    organization: Named
    public_user_data: Member
    role: str | None = None


class UserUpdated(Told, frozen=True, kw_only=True):
    """Something about a user has changed: its name, or that it may not sign in."""

    data: User

    def facts(self, moment: Moment) -> Facts:
        """The person; and, if it is banned, the end of its access to every tenant."""
        told = self.data
        person = Person(user_id=told.id, name=_name(told.first_name, told.last_name), stamp=moment.stamp(self.rank))
        return Facts(person=person, ending=Ending(None, told.id, moment.at) if told.banned else None)


class UserCreated(UserUpdated, frozen=True, kw_only=True):
    """There is a new user."""

    rank: ClassVar[int] = BEGINNING


class UserDeleted(Told, frozen=True, kw_only=True):
    """There is no such user any more."""

    data: Named

    def facts(self, moment: Moment) -> Facts:
        """The person is gone, and its access to every tenant ends."""
        user_id = self.data.id
        person = Person(user_id=user_id, name=None, gone=True, stamp=moment.stamp(END))
        return Facts(person=person, ending=Ending(None, user_id, moment.at))


class MembershipUpdated(Told, frozen=True, kw_only=True):
    """A user's role in an organisation has changed."""

    data: Belonging

    def facts(self, moment: Moment) -> Facts:
        """The membership, and the person if a name is told."""
        return self._facts(moment, ended=False)

    def _facts(self, moment: Moment, *, ended: bool) -> Facts:
        tenant_id, user = self.data.organization.id, self.data.public_user_data
        name = _name(user.first_name, user.last_name)
        return Facts(
            tenant_id=tenant_id,
            membership=Membership(
                tenant_id=tenant_id,
                user_id=user.user_id,
                role=role_of(self.data.role),
                member=not ended,
                stamp=moment.stamp(self.rank),
            ),
            person=Person(user_id=user.user_id, name=name, stamp=moment.stamp(BY_THE_WAY)) if name else None,
            ending=Ending(tenant_id, user.user_id, moment.at) if ended else None,
        )


class MembershipCreated(MembershipUpdated, frozen=True, kw_only=True):
    """A user belongs to an organisation from now on."""

    rank: ClassVar[int] = BEGINNING


class MembershipDeleted(MembershipUpdated, frozen=True, kw_only=True):
    """A user does not belong to an organisation any more."""

    rank: ClassVar[int] = END

    def facts(self, moment: Moment) -> Facts:
        """The same, and the end of the user's access to that tenant."""
        return self._facts(moment, ended=True)


class OrganizationUpdated(Told, frozen=True, kw_only=True):
    """Something about an organisation has changed."""

    data: Org

    def facts(self, moment: Moment) -> Facts:
        """The tenant."""
        told = self.data
        named = Organisation(told.id, _name(told.name) or told.id, moment.stamp(self.rank))
        return Facts(tenant_id=told.id, organisation=named)


class OrganizationCreated(OrganizationUpdated, frozen=True, kw_only=True):
    """There is a new organisation."""

    rank: ClassVar[int] = BEGINNING


class OrganizationDeleted(Told, frozen=True, kw_only=True):
    """There is no such organisation any more."""

    data: Named

    def facts(self, moment: Moment) -> Facts:
        """The end of everybody's access to that tenant, which keeps what it has."""
        return Facts(tenant_id=self.data.id, ending=Ending(self.data.id, None, moment.at))


# The end of a session is not among them: tokens are not checked for their session, and revoking all of a user's would
# sign out the user's other devices.
SHAPES: Final[dict[str, type[Told]]] = {
    "user.created": UserCreated,
    "user.updated": UserUpdated,
    "user.deleted": UserDeleted,
    "organizationMembership.created": MembershipCreated,
    "organizationMembership.updated": MembershipUpdated,
    "organizationMembership.deleted": MembershipDeleted,
    "organization.created": OrganizationCreated,
    "organization.updated": OrganizationUpdated,
    "organization.deleted": OrganizationDeleted,
}


def _name(*parts: str | None) -> str | None:
    """A name out of its parts, on one line; None when there is nothing of it."""
    words = " ".join(part for part in parts if part)
    line = "".join(letter if letter.isprintable() else " " for letter in words)
    return " ".join(line.split())[:MAX_NAME].strip() or None
