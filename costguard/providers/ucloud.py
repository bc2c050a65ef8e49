"""UCloud's RPC, which Compshare speaks: how a request is signed, and what its answers mean.

Sources: the signature of UCloud's Python SDK with its test vectors; Compshare's page of error
codes. The codes of wrong keys are UCloud's common ones, from memory: guessed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from costguard.providers.base import (
    AccountRefused,
    AuthRefused,
    Busy,
    NoCapacity,
    ProviderError,
    Refused,
    Unclear,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

LOCK_S = 60.0  # the lock may hold for 10 minutes; a stop must not wait so long to be tried again
NO_CAPACITY = {226604, 8357}
ACCOUNT = {
    226601: "the account is in arrears: pay its open order in the console",
    226602: "the instance has expired: renew it in the console, or let it go",
    8429: "the instance has expired: renew it in the console, or let it go",
    226606: "the account is not verified (实名认证): verify it in the console",
    8095: "the account may have no more instances: release one, or ask for a higher level",
}
AUTH = {170, 171, 172, 173, 174}
SERVICE_ERROR = 8433


def signature(private_key: SecretStr, params: Mapping[str, str]) -> str:
    """What proves a request: SHA-1 of sorted keys and values and the private key, in hex."""
    text = "".join(f"{key}{params[key]}" for key in sorted(params))
    text += private_key.get_secret_value()
    return hashlib.sha1(text.encode()).hexdigest()  # noqa: S324  (the platform's choice)


def judge(body: Mapping[str, Any], what: str) -> ProviderError | None:
    """What the envelope says: None for yes; which no, or Unclear."""
    code, message = body.get("RetCode"), str(body.get("Message") or "")
    if not isinstance(code, int) or isinstance(code, bool):
        return Unclear(f"{what}: no RetCode in the answer")
    if code == 0:
        return None
    said = f"({code} {message})"
    if "InstanceOperationInProgress" in message:
        return Busy(f"{what}: another operation on this instance is under way {said}", LOCK_S)
    if code in NO_CAPACITY:
        return NoCapacity(f"{what}: sold out at the moment {said}")
    if code in ACCOUNT:
        return AccountRefused(f"{what}: {ACCOUNT[code]} {said}")
    if code in AUTH:
        return AuthRefused(
            f"{what}: the keys are wrong, expired or not allowed this: "
            f"make new ones at console.compshare.cn/uaccount/api_manage {said}"
        )
    if code == SERVICE_ERROR:
        return Unclear(f"{what}: the platform itself failed {said}")
    if "region" in message.lower() or "zone" in message.lower():
        return Refused(f"{what}: check `region` and `zone` under [providers.compshare] {said}")
    return Refused(f"{what}: refused {said}")
