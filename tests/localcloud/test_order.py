from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from costguard.localcloud.errors import ApiError
from costguard.localcloud.options import Options
from costguard.localcloud.order import read_order, read_page
from tests.localcloud.world import JANUARY_MS, USER_PUBLIC_KEY, order

OPTIONS = Options(home=Path("/h"), min_timer_lead_s=60.0)


def test_order_with_the_least_in_it() -> None:
    """What is not named has its usual value, and a key loses its comment."""
    read = read_order(
        {"name": "n", "gpu": "A10", "ssh_public_key": USER_PUBLIC_KEY + " me@home", "tag": None},
        OPTIONS,
        JANUARY_MS,
    )
    assert (read.tag, read.gpu_count, read.stop_at_ms, read.max_price_micros) == ("", 1, None, None)
    assert read.ssh_public_key == USER_PUBLIC_KEY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu": "H100"}, "gpu: 'H100' is not on offer; there are: RTX 3090, A10, A100"),
        ({"gpu": None}, "gpu"),
        ({"gpu_count": 0}, "gpu_count: must be 1 to 8"),
        ({"gpu_count": True}, "gpu_count"),
        ({"gpu_count": "2"}, "gpu_count"),
        ({"name": ""}, "name: must be a text"),
        ({"name": 7}, "name"),
        ({"name": "x" * 201}, "name: longer than 200"),
        ({"tag": 7}, "tag"),
        ({"image": []}, "image"),
        ({"ssh_public_key": None}, "ssh_public_key"),
        ({"ssh_public_key": "ssh-ed25519"}, "ssh_public_key: expected one line"),
        ({"ssh_public_key": "ssh-dss AAAA"}, "ssh_public_key: expected one line"),
        ({"ssh_public_key": "ssh-ed25519 ####"}, "not base64"),
        ({"ssh_public_key": "ssh-rsa " + USER_PUBLIC_KEY.split()[1]}, "not of type ssh-rsa"),
        ({"stop_at": "soon"}, "stop_at: must be a time"),
        ({"stop_at": True}, "stop_at"),
        ({"stop_at": JANUARY_MS + 59_999}, "stop_at: .* less than 60 s ahead"),
        ({"max_price_yuan_per_hour": "cheap"}, "max_price_yuan_per_hour"),
        ({"disk": 50}, "unknown key 'disk'"),
    ],
)
def test_wrong_order_names_its_key(changes: dict[str, Any], message: str) -> None:
    """Each mistake is a bad_request that names the key and what was wrong."""
    with pytest.raises(ApiError, match=message) as refused:
        read_order(order(**changes), OPTIONS, JANUARY_MS)
    assert (refused.value.status, refused.value.code) == (400, "bad_request")


def test_stop_time_at_the_least_lead_is_taken() -> None:
    """The platform's least lead itself is far enough."""
    at_ms = JANUARY_MS + 60_000
    assert read_order(order(stop_at=at_ms), OPTIONS, JANUARY_MS).stop_at_ms == at_ms


@pytest.mark.parametrize("text", ["0", "-1", "x", ""])
def test_wrong_page_is_refused(text: str) -> None:
    """Pages are whole numbers from 1 on."""
    with pytest.raises(ApiError, match="page"):
        read_page(text)
