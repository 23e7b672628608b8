"""Secrets at rest: what tenants share with providers is stored encrypted, with keys that only the processes have."""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from ottoai.errors import StoreUnavailable

# A Fernet token begins with its version, 0x80, and a time that leaves the next bytes zero until the year 2106.
SEALED = "gAAAAA"


class SecretUnreadable(StoreUnavailable):
    """A stored secret cannot be read: SECRET_KEYS lacks the key that it was encrypted with."""


class Vault:
    """Encrypts and decrypts with the keys of SECRET_KEYS (Fernet: AES-128-CBC with HMAC-SHA256)."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = MultiFernet([Fernet(key) for key in keys])

    def seal(self, secret: str) -> str:
        """The secret, encrypted with the first key."""
        return self._keys.encrypt(secret.encode()).decode()

    def open(self, sealed: str) -> str:
        """The secret. Raises SecretUnreadable."""
        try:
            return self._keys.decrypt(sealed).decode()
        except InvalidToken as error:
            raise SecretUnreadable from error

    def reseal(self, stored: str) -> str:
        """What is stored, encrypted with the first key, whichever key it had, or none. Raises SecretUnreadable."""
        return self.seal(self.open(stored) if stored.startswith(SEALED) else stored)
