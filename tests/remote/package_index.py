"""A package index on loopback (PEP 503), with wheels made on the spot."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def wheel(name: str, version: str, requires: tuple[str, ...] = (), code: str = "") -> bytes:
    """A pure wheel with one module of that name (PEP 427)."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in files.items()
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        for path, text in files.items():
            made.writestr(path, text)
    return archive.getvalue()


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


class Index:
    """Serves what was added, and knows what was asked of it; `hold` makes it wait for ever."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.hold = threading.Event()
        self.ended = threading.Event()
        folder.mkdir(parents=True)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """As `--index-url` takes it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def add(self, name: str, version: str, requires: tuple[str, ...] = (), code: str = "") -> None:
        """Offers one more wheel."""
        place = self.folder / name.replace("_", "-")
        place.mkdir(exist_ok=True)
        file = f"{name}-{version}-py3-none-any.whl"
        (place / file).write_bytes(wheel(name, version, requires, code))
        links = sorted(path.name for path in place.glob("*.whl"))
        page = "".join(f'<a href="{link}">{link}</a>\n' for link in links)
        (place / "index.html").write_text(f"<html><body>{page}</body></html>")

    def close(self) -> None:
        """Ends the server."""
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, index: Index, *arguments: Any) -> None:
        self._index = index
        super().__init__(*arguments, directory=str(index.folder))

    def do_GET(self) -> None:
        self._index.asked.append(self.path)
        if self._index.hold.is_set():
            self._index.ended.wait()
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output is theirs."""
