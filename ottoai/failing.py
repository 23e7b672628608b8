"""Client addresses that keep failing (401, 404, a wrong X-Dev-Key): whoever guesses passwords, keys, tokens or paths is
slowed down.

A failure of a request without valid credentials counts against its address; past its rate `web.throttle` refuses such
requests. Each process counts for itself, and forgets those that failed longest ago.
"""

import ipaddress
from collections import OrderedDict
from functools import lru_cache
from hashlib import sha256
from typing import Final

from ottoai.gcra import Bucket, Standing, Table, bucket, now
from ottoai.rates import Rate

ADDRESSES: Final = 10_000  # some 300 bytes each
TRUSTED: Final = 1_000  # passwords that were right lately


class Failing:
    """The addresses that failed lately."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._table = Table(ADDRESSES)
        self._trusted: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._table)

    def standing(self, address: str) -> Standing:
        """How an address stands; it is over its rate while `wait` is not 0."""
        return self._table.look(self._bucket(address), now())

    def count(self, address: str) -> None:
        """One more failure."""
        self._table.charge([self._bucket(address)], now())

    def heed(self, address: str, password: str, *, right: bool) -> None:
        """Remember whether a password was right: one that was is taken from this address however often others fail."""
        digest = _digest(address, password)
        self._trusted.pop(digest, None)
        if right:
            self._trusted[digest] = None
            if len(self._trusted) > TRUSTED:
                self._trusted.popitem(last=False)

    def trusts(self, address: str, password: str) -> bool:
        """Whether a password was right when it last came from this address."""
        return _digest(address, password) in self._trusted

    def _bucket(self, address: str) -> Bucket:
        return bucket("address", self._rate, network(address))


@lru_cache(1_024)
def network(address: str) -> str:
    """What one client has of the address space: of IPv6 a /64, within which it may take any address it likes."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped or ipaddress.ip_network((int(parsed), 64), strict=False))
    return address


def _digest(address: str, password: str) -> bytes:
    return sha256(ascii((address, password)).encode()).digest()
