"""Pseudonyms of identifiers: HMAC-SHA256 with a key that stays outside every run (SE-08)."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from medvit.errors import DataError

KEY_VARIABLE = "MEDVIT_PSEUDO_KEY_FILE"
KEY_BYTES = 32


@dataclass(frozen=True, slots=True, repr=False)
class Pseudonymiser:
    """Turns identifiers into 32 hex digits: the first 128 bits of HMAC-SHA256 (RFC 2104) of kind and identifier.

    `key_id` (8 hex digits) may be recorded; the key never is, so that a list of identifiers cannot be tried out.
    """

    key: bytes

    @property
    def key_id(self) -> str:
        """Return the first 8 hex digits of the key's SHA-256."""
        return hashlib.sha256(self.key).hexdigest()[:8]

    def __call__(self, kind: str, *parts: str) -> str:
        """Return the pseudonym of `parts` as a `kind` ("patient", "study", ...); different kinds never collide."""
        message = "\0".join((kind, *parts)).encode("utf-8", "surrogateescape")
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()[:32]


def key_path() -> Path:
    """Return where the key lives: `MEDVIT_PSEUDO_KEY_FILE`, else `~/.config/medvit/pseudonym.key`."""
    named = os.environ.get(KEY_VARIABLE, "")
    return Path(named).expanduser() if named else Path.home() / ".config" / "medvit" / "pseudonym.key"


def load() -> Pseudonymiser:
    """Return the pseudonymiser of this user's key, making the key once (mode 0600).

    Raises:
        DataError: the key cannot be made, is not 32 bytes, or others may read it.
    """
    path = key_path()
    try:
        if not path.exists():
            _create(path)
        mode, key = stat.S_IMODE(path.stat().st_mode), path.read_bytes()
    except OSError as error:
        raise DataError(
            f"pseudonym key: cannot be read or made ({error.strerror}); set {KEY_VARIABLE} to a file you may write"
        ) from error
    if mode & 0o077:
        raise DataError(f"pseudonym key: the file has mode {mode:04o}, expected 0600; run chmod 600 on it")
    if len(key) != KEY_BYTES:
        raise DataError(
            f"pseudonym key: the file has {len(key)} bytes, expected {KEY_BYTES}; restore it from your backup"
        )
    return Pseudonymiser(key)


def _create(path: Path) -> None:
    """Write a fresh key under another name and link it into place, so that two first runs agree on one key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        return  # another process was first: its key counts
    finally:
        draft.unlink(missing_ok=True)
