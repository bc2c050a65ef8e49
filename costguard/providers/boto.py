"""The one way to AWS, through boto3: a call is made once, and a secret never leaves through it.

What `wire` is to the platforms that speak plain HTTP. boto3 is asked not to repeat anything, and
to keep its debug log to itself: it holds signatures and the key's id.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from costguard.errors import UserError
from costguard.providers.base import (
    Absent,
    AccountRefused,
    AuthRefused,
    Busy,
    NoCapacity,
    ProviderError,
    Refused,
    Unclear,
)
from costguard.providers.declared import ms_option, proxies_of, secret_of
from costguard.providers.wire import (
    READ_TIMEOUT_MS,
    BackOff,
    Dates,
    forms_of,
    seconds_of,
    seconds_up,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

BUSY_RETRY_S = 5.0
AUTH = {
    "AuthFailure",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "UnauthorizedOperation",
    "AccessDenied",
    "AccessDeniedException",
}
ACCOUNT = {
    "PendingVerification": "the account is not verified yet: AWS does that by itself",
    "OptInRequired": "the account is not verified or not signed up for EC2",
    "Blocked": "the account is blocked, for arrears or otherwise: see the console",
    "VcpuLimitExceeded": "the account's quota of such machines is used up: ask for more",
    "InstanceLimitExceeded": "the account's quota of such machines is used up: ask for more",
}
ABSENT = {
    "InvalidInstanceID.NotFound",
    "InvalidInstanceID.Malformed",
    "ResourceNotFoundException",
}
TOO_MANY = {"RequestLimitExceeded", "Throttling", "ThrottlingException", "429"}
NO_CAPACITY = {"InsufficientInstanceCapacity", "InsufficientHostCapacity"}
BUSY = {"IncorrectInstanceState", "IncorrectState", "ConflictException"}


# One for all accounts: it holds no credentials, and reads AWS's descriptions, which takes long.
_SESSION: list[Any] = []
_SESSION_LOCK = threading.Lock()


class BotoWire:
    """Calls to one account in one region."""

    def __init__(self, settings: Mapping[str, Any], region: str) -> None:
        self._settings, self._region = settings, region
        self._keys = [secret_of(settings, key) for key in ("access_key_id", "secret_access_key")]
        clock = settings.get("clock", seconds_up)
        self._back_off, self.dates = BackOff(clock), Dates(clock)
        self._clients: dict[str, Any] = {}

    def __repr__(self) -> str:
        """Where it leads, and nothing of what it carries."""
        return f"BotoWire({self._region!r})"

    def call(
        self,
        service: str,
        name: str,
        what: str,
        options: Mapping[str, Any],
        *,
        urgent: bool = False,
    ) -> Any:
        """One call, made once, its refusals put into our words."""
        client = self._client(service)
        from botocore.exceptions import (  # type: ignore[import-untyped]  # noqa: PLC0415
            BotoCoreError,
            ClientError,
        )
        from botocore.parsers import (  # type: ignore[import-untyped]  # noqa: PLC0415
            ResponseParserError,
        )

        if not urgent:
            self._back_off.check(what)
        failed: ProviderError
        try:
            answer = getattr(client, name)(**options)
        except ClientError as error:
            failed = self._judge(error.response, what)
        except (BotoCoreError, ResponseParserError, OSError) as error:
            failed = Unclear(f"{what}: no answer ({type(error).__name__})")
        else:
            self._back_off.passed()
            headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            self.dates.hear(str(headers.get("date", "")))
            return answer
        failed.args = tuple(self._redact(str(arg)) for arg in failed.args)
        raise failed  # outside: without the request in it

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            try:
                import boto3  # type: ignore[import-untyped]  # noqa: PLC0415  (an extra)
                from botocore.config import Config  # type: ignore[import-untyped]  # noqa: PLC0415
            except ImportError:
                raise UserError(
                    "missing_package",
                    "AWS needs the package boto3, and it is not installed",
                    "[providers.aws]",
                    'pip install "costguard[aws]"',
                ) from None
            for noisy in ("boto3", "botocore", "urllib3"):
                logging.getLogger(noisy).setLevel(logging.WARNING)
            read_s = ms_option(self._settings, "read_timeout_s", READ_TIMEOUT_MS) / 1_000
            key_id, key = self._keys
            config = Config(
                connect_timeout=5,
                read_timeout=read_s,
                retries={"total_max_attempts": 1},
                proxies=proxies_of(self._settings),
            )
            with _SESSION_LOCK:  # making clients is not thread-safe
                if not _SESSION:
                    _SESSION.append(boto3.session.Session())
                self._clients[service] = _SESSION[0].client(
                    service,
                    region_name=self._region,
                    endpoint_url=self._settings.get("base_url"),
                    aws_access_key_id=key_id.get_secret_value(),
                    aws_secret_access_key=key.get_secret_value(),
                    config=config,
                )
        return self._clients[service]

    def _redact(self, text: str) -> str:
        for form in forms_of([key.get_secret_value() for key in self._keys]):
            text = text.replace(form, "***")
        return text

    def _judge(self, response: Mapping[str, Any], what: str) -> ProviderError:
        error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
        code, message = str(error.get("Code") or ""), str(error.get("Message") or "")
        status = int(meta.get("HTTPStatusCode") or 0)
        said = f"({status} {code} {message})"
        if code in TOO_MANY or status == 429:
            told = seconds_of(str(meta.get("HTTPHeaders", {}).get("retry-after", "")))
            return self._back_off.refused(what, told)
        if code in NO_CAPACITY:
            return NoCapacity(f"{what}: nothing of that kind is free at the moment {said}")
        if code in ABSENT:
            return Absent(f"{what}: there is no such thing {said}")
        if status // 100 != 4 or not code or code.isdecimal():
            return Unclear(f"{what}: {status}")
        if code in AUTH:
            return AuthRefused(
                "aws: the access key is wrong, expired or not allowed this: make one in "
                f"IAM > Users > Security credentials, with EC2 rights {said}"
            )
        if code in ACCOUNT:
            return AccountRefused(f"aws: {ACCOUNT[code]} {said}")
        if code in BUSY:
            return Busy(f"{what}: it cannot be done in the present state {said}", BUSY_RETRY_S)
        if "region" in message.lower() or "zone" in message.lower():
            return Refused(f"aws: check `region` under [providers.aws] {said}")
        return Refused(f"{what}: refused {said}")
