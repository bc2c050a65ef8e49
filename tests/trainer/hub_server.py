"""A model hub on loopback that speaks Hugging Face's and ModelScope's wire, and can misbehave.

What a client sees: listings as both hubs write them, a redirect from the hub to its storage, byte
ranges, and on demand: connections that break, wrong bytes, ranges that are ignored, errors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMIT = "c0ffee" * 6 + "c0ff"


@dataclass
class HubServer:
    """Serves `files` of the model `name` until it is closed."""

    name: str
    files: dict[str, bytes]
    break_after: dict[str, list[int]] = field(default_factory=dict)
    """For each file, after how many bytes each of its first answers breaks off."""
    spoil: dict[str, int] = field(default_factory=dict)
    """For each file, how many of its first answers have a wrong byte."""
    ignore_ranges: bool = False
    listing_status: int = 200
    ranges: list[tuple[str, str | None]] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    """Bytes sent of each file."""
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    url: str = ""
    """The endpoint, while it runs."""


@contextlib.contextmanager
def running(hub: HubServer) -> Iterator[HubServer]:
    """The hub, answering on loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(hub, self)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(hub: HubServer, handler: BaseHTTPRequestHandler) -> None:
    """Answer one request as the hub would."""
    parts = urllib.parse.urlsplit(handler.path)
    query = urllib.parse.parse_qs(parts.query)
    hub.paths.append(handler.path)
    hub.headers.append(dict(handler.headers))
    if parts.path.startswith("/storage/"):
        _send_file(hub, handler, parts.path.removeprefix("/storage/"))
    elif parts.path.startswith(f"/api/models/{hub.name}/revision/"):
        _send_json(handler, hub.listing_status, _hugging_face(hub))
    elif parts.path == f"/api/v1/models/{hub.name}/repo/files":
        _send_json(handler, hub.listing_status, _modelscope(hub))
    elif parts.path == f"/api/v1/models/{hub.name}/repo":
        _redirect(handler, query["FilePath"][0])
    elif parts.path.startswith(f"/{hub.name}/resolve/{COMMIT}/"):
        _redirect(handler, parts.path.rpartition("/")[2])
    else:
        _send_json(handler, 404, {"error": "not found"})


def _hugging_face(hub: HubServer) -> dict[str, Any]:
    siblings = []
    for name, data in hub.files.items():
        git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        item: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git}
        if name.endswith(".safetensors"):
            sha256 = hashlib.sha256(data).hexdigest()
            item["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 135}
        siblings.append(item)
    return {"id": hub.name, "sha": COMMIT, "siblings": siblings}


def _modelscope(hub: HubServer) -> dict[str, Any]:
    files: list[dict[str, Any]] = [{"Type": "tree", "Path": "assets", "Name": "assets", "Size": 0}]
    files += [
        {
            "Type": "blob",
            "Path": name,
            "Name": name,
            "Size": len(data),
            "Sha256": hashlib.sha256(data).hexdigest(),
            "Revision": COMMIT,
        }
        for name, data in hub.files.items()
    ]
    return {"Code": 200, "Success": True, "Data": {"Files": files}, "Message": ""}


def _send_file(hub: HubServer, handler: BaseHTTPRequestHandler, name: str) -> None:
    data = hub.files[name]
    asked = handler.headers.get("Range")
    hub.ranges.append((name, asked))
    start = 0
    if asked and not hub.ignore_ranges:
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
    if hub.spoil.get(name, 0) > 0:
        hub.spoil[name] -= 1
        data = data[:-1] + bytes([data[-1] ^ 1])
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Length", str(len(data) - start))
    handler.end_headers()
    breaks = hub.break_after.get(name, [])
    body = data[start : start + breaks.pop(0)] if breaks else data[start:]
    handler.wfile.write(body)
    hub.served[name] += len(body)


def _send_json(handler: BaseHTTPRequestHandler, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _redirect(handler: BaseHTTPRequestHandler, name: str) -> None:
    handler.send_response(302)
    handler.send_header("Location", f"/storage/{name}")
    handler.send_header("Content-Length", "0")
    handler.end_headers()
