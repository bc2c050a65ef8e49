"""What a hub says of a model: its files with their sizes and hashes, and where each one is.

Hugging Face and its mirrors: `GET /api/models/NAME/revision/REV?blobs=true` lists `siblings` with
`size`, `blobId` (git's sha1) and, for large files, `lfs.sha256`; a file is at
`/NAME/resolve/REV/FILE`. ModelScope: `GET /api/v1/models/NAME/repo/files?Revision=…&Recursive=true`
lists `Data.Files` with `Path`, `Size`, `Sha256`; a file is at
`/api/v1/models/NAME/repo?Revision=…&FilePath=…`. Both answer with redirects to storage that takes
`Range`. No token is ever sent.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

HUGGING_FACE = "https://huggingface.co"
MODEL_SCOPE = "https://www.modelscope.cn"
LISTING_TIMEOUT_S = 30.0
LISTING_BYTES_MAX = 64 * 2**20
USER_AGENT = "costguard-trainer"
WANTED = re.compile(r"[^/]+\.(safetensors|json|jinja|txt|model)")
"""Weights, configs and tokenizers at the top; no other format of the same weights, no folder."""


class HubError(Exception):
    """The hub could not be asked, or does not have the model; the text says which."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a model. `sha256` is None where the hub has only git's hash of a small file."""

    path: str
    url: str
    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class Hub:
    """A place that models come from."""

    name: str
    endpoint: str

    def list_files(self, model: str, revision: str | None) -> tuple[str, list[RemoteFile]]:
        """(revision, files that are needed to load the model); raises HubError."""
        ask = _ask_modelscope if self.name == "modelscope" else _ask_hugging_face
        revision, files = ask(self.endpoint, model, revision)
        files = [file for file in files if WANTED.fullmatch(file.path)]
        if not any(file.path == "config.json" for file in files):
            raise HubError(f"{self.endpoint} has no config.json in {model}")
        if not any(file.path.endswith(".safetensors") for file in files):
            raise HubError(f"{self.endpoint} has no .safetensors in {model}")
        return revision, files


def hubs(source: str | None) -> list[Hub]:
    """Which hubs to ask, in order: the named one alone, else both, the likelier first.

    HF_ENDPOINT names Hugging Face or a mirror of it and then has the first word, unless
    USE_MODELSCOPE_HUB is set. Without either ModelScope is asked first: it is the one that
    answers quickly from the machines that are rented in China.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    domain = os.environ.get("MODELSCOPE_DOMAIN", "").rstrip("/")
    if domain and "://" not in domain:
        domain = f"https://{domain}"
    hugging_face = Hub("huggingface", endpoint or HUGGING_FACE)
    modelscope = Hub("modelscope", domain or MODEL_SCOPE)
    if source == "huggingface":
        return [hugging_face]
    if source == "modelscope":
        return [modelscope]
    wants_modelscope = os.environ.get("USE_MODELSCOPE_HUB", "").lower() in {"1", "true", "yes"}
    if endpoint and not wants_modelscope:
        return [hugging_face, modelscope]
    return [modelscope, hugging_face]


def open_url(url: str, *, timeout_s: float, first_byte: int = 0) -> Any:
    """The open response to a GET, from `first_byte` on; raises OSError, HTTPError among them."""
    if not url.startswith(("http://", "https://")):
        raise HubError(f"{url} is not an address of the web")
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if first_byte:
        headers["Range"] = f"bytes={first_byte}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked above
    return urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310 - checked above


def _ask_hugging_face(
    endpoint: str, model: str, revision: str | None
) -> tuple[str, list[RemoteFile]]:
    asked = urllib.parse.quote(revision or "main", safe="")
    document = _get_json(f"{endpoint}/api/models/{_quoted(model)}/revision/{asked}?blobs=true")
    commit = str(document.get("sha") or revision or "main")
    files = []
    for item in _list(document.get("siblings")):
        path, lfs = str(item.get("rfilename", "")), item.get("lfs") or {}
        sha256 = lfs.get("sha256") or lfs.get("oid")
        url = f"{endpoint}/{_quoted(model)}/resolve/{commit}/{urllib.parse.quote(path)}"
        git_sha1 = None if sha256 else item.get("blobId")
        files.append(RemoteFile(path, url, int(item.get("size") or 0), sha256, git_sha1))
    return commit, files


def _ask_modelscope(
    endpoint: str, model: str, revision: str | None
) -> tuple[str, list[RemoteFile]]:
    asked = revision or "master"
    query = urllib.parse.urlencode({"Revision": asked, "Recursive": "true"})
    base = f"{endpoint}/api/v1/models/{_quoted(model)}/repo"
    document = _get_json(f"{base}/files?{query}")
    if document.get("Code") != 200:
        raise HubError(f"{endpoint}: {document.get('Message') or document.get('Code')}")
    data = document.get("Data")
    files = []
    for item in _list(data.get("Files") if isinstance(data, dict) else None):
        if item.get("Type") == "tree":
            continue
        path = str(item.get("Path", ""))
        query = urllib.parse.urlencode({"Revision": asked, "FilePath": path})
        size, sha256 = int(item.get("Size") or 0), item.get("Sha256") or None
        files.append(RemoteFile(path, f"{base}?{query}", size, sha256, None))
    return asked, files


def _get_json(url: str) -> dict[str, Any]:
    try:
        with open_url(url, timeout_s=LISTING_TIMEOUT_S) as response:
            document = json.loads(response.read(LISTING_BYTES_MAX))
    except urllib.error.HTTPError as error:
        raise HubError(f"{url} answered {error.code}") from error
    except (OSError, ValueError) as error:
        raise HubError(f"{url}: {error}") from error
    if not isinstance(document, dict):
        raise HubError(f"{url} answered with something else than an object")
    return document


def _list(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _quoted(model: str) -> str:
    return urllib.parse.quote(model, safe="/")
