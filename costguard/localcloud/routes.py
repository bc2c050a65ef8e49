"""Which call of the API is which method of the cloud."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from costguard.localcloud.guest import POWER_OFF_PATH
from costguard.localcloud.order import read_page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from costguard.localcloud.cloud import Cloud

USER = "user"
ADMIN = "admin"
GUEST = "guest"


@dataclass(frozen=True)
class Call:
    """One request, taken apart."""

    instance: str
    query: Mapping[str, str]
    body: Mapping[str, Any]
    guest_token: str


@dataclass(frozen=True)
class Route:
    """One call of the API: who may make it, and what answers it with which status."""

    name: str
    method: str
    pattern: re.Pattern[str]
    who: str
    status: HTTPStatus
    answer: Callable[[Cloud, Call], dict[str, Any]]


def _route(
    name: str,
    method: str,
    path: str,
    answer: Callable[[Cloud, Call], dict[str, Any]],
    *,
    status: HTTPStatus = HTTPStatus.OK,
    who: str = USER,
) -> Route:
    pattern = re.compile(path.replace("{id}", r"(?P<instance>[^/]+)"))
    return Route(name, method, pattern, who, status, answer)


ONE = "/v1/instances/{id}"
CREATED, ACCEPTED = HTTPStatus.CREATED, HTTPStatus.ACCEPTED
ROUTES = (
    _route("offers", "GET", "/v1/offers", lambda cloud, _: cloud.offers()),
    _route(
        "create", "POST", "/v1/instances", lambda cloud, c: cloud.create(c.body), status=CREATED
    ),
    _route(
        "list",
        "GET",
        "/v1/instances",
        lambda cloud, c: cloud.list_page(c.query.get("tag"), read_page(c.query.get("page", "1"))),
    ),
    _route("get", "GET", ONE, lambda cloud, c: cloud.get(c.instance)),
    _route(
        "start", "POST", ONE + "/start", lambda cloud, c: cloud.start(c.instance), status=ACCEPTED
    ),
    _route("stop", "POST", ONE + "/stop", lambda cloud, c: cloud.stop(c.instance), status=ACCEPTED),
    _route("delete", "DELETE", ONE, lambda cloud, c: cloud.release(c.instance)),
    _route(
        "timer", "PUT", ONE + "/stop_timer", lambda cloud, c: cloud.set_timer(c.instance, c.body)
    ),
    _route("wallet", "GET", "/v1/wallet", lambda cloud, _: cloud.wallet()),
    _route("bill", "GET", "/v1/bill", lambda cloud, c: cloud.bill(c.query.get("instance"))),
    _route(
        "power_off",
        "POST",
        POWER_OFF_PATH,
        lambda cloud, c: cloud.power_off(c.guest_token),
        status=ACCEPTED,
        who=GUEST,
    ),
    _route("faults", "GET", "/admin/faults", lambda cloud, _: cloud.faults(), who=ADMIN),
    _route("faults", "PUT", "/admin/faults", lambda cloud, c: cloud.set_faults(c.body), who=ADMIN),
    _route("truth", "GET", "/admin/truth", lambda cloud, _: cloud.truth(), who=ADMIN),
)


def find(method: str, path: str) -> tuple[Route | None, str, bool]:
    """The route, the instance id in the path, and whether the path exists for another method."""
    exists = False
    for route in ROUTES:
        match = route.pattern.fullmatch(path)
        if match is not None:
            if route.method == method:
                return route, match.groupdict().get("instance", ""), True
            exists = True
    return None, "", exists
