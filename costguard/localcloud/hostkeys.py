"""SSH keys: an instance's host key, and the check of a user's public key."""

from __future__ import annotations

import base64
import binascii

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
)
LENGTH_BYTES = 4  # RFC 4251 section 5: a string is its length in four bytes, then its bytes


def generate() -> tuple[str, str]:
    """A new Ed25519 key: the private half in OpenSSH's format, the public one as one line.

    paramiko reads such keys but makes none; cryptography is what it is built on.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return private.decode(), public.decode()


def check_public_key(line: str) -> str:
    """The public key as "type base64" without its comment; ValueError if it is not one."""
    words = line.split()
    if len(words) < 2 or words[0] not in KEY_TYPES:
        raise ValueError(f"expected one line of an SSH public key: {', '.join(KEY_TYPES)}")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the SSH public key's second word is not base64") from None
    name_end = LENGTH_BYTES + int.from_bytes(blob[:LENGTH_BYTES], "big")
    if blob[LENGTH_BYTES:name_end] != words[0].encode() or len(blob) <= name_end:
        raise ValueError(f"the SSH public key's data is not of type {words[0]}")
    return f"{words[0]} {words[1]}"
