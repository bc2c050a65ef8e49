"""Published OpenAPI documents, to hold requests and fakes against; none of it is kept here.

They are looked for beside the repository, in `../shared/reference/openapi`, or where
COSTGUARD_OPENAPI says. Without them the fakes go on unchecked, and a test says so.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

ROOT = Path(__file__).resolve().parents[2]
URI = "urn:openapi"


def folder() -> Path:
    """Where the documents are, if they are anywhere."""
    named = os.environ.get("COSTGUARD_OPENAPI")
    return Path(named) if named else ROOT.parent / "shared" / "reference" / "openapi"


@cache
def document(name: str) -> dict[str, Any] | None:
    """One document, or None where the folder is not there."""
    path = folder() / name
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8")
    found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


class OpenApi:
    """One platform's document; every check passes where there is none."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.document = document(name)
        self.checked = 0

    def request(self, method: str, path: str, query: dict[str, str], body: Any) -> None:
        """AssertionError unless the document allows this request."""
        if self.document is None:
            return
        place, operation = self._operation(method, path)
        known = {self._resolved(p)["name"] for p in operation.get("parameters", ())}
        assert set(query) <= known, f"{method} {path} knows no {set(query) - known}"
        content = operation.get("requestBody", {}).get("content")
        if content is None:
            assert body is None, f"{method} {path} takes no body"
        else:
            self._check([*place, "requestBody", "content", "application/json", "schema"], body)

    def answer(self, method: str, path: str, status: int, body: Any) -> None:
        """AssertionError unless the document allows this answer."""
        if self.document is None:
            return
        place, operation = self._operation(method, path)
        responses = operation["responses"]
        key = str(status) if str(status) in responses else "default"
        assert key in responses, f"{method} {path} answers no {status}"
        found = self._resolved(responses[key])
        for kind in found.get("content", {}):
            if "$ref" in responses[key]:
                at = responses[key]["$ref"].removeprefix("#/").split("/")
            else:
                at = [*place, "responses", key]
            self._check([*at, "content", kind, "schema"], body)

    def _operation(self, method: str, path: str) -> tuple[list[str], dict[str, Any]]:
        assert self.document is not None
        parts = path.rstrip("/").split("/")
        for known, operations in self.document["paths"].items():
            wanted = known.split("/")
            if len(wanted) == len(parts) and method.lower() in operations:
                pairs = zip(wanted, parts, strict=True)
                if all(a == b or a.startswith("{") for a, b in pairs):
                    return ["paths", known, method.lower()], operations[method.lower()]
        raise AssertionError(f"the document has no {method} {path}")

    def _resolved(self, thing: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in thing:
            found: Any = self.document
            for step in thing["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            thing = found
        return thing

    def _check(self, place: list[str], body: Any) -> None:
        resource = Resource.from_contents(self.document, default_specification=DRAFT202012)
        registry: Registry[Any] = Registry().with_resource(URI, resource)
        pointer = "/".join(step.replace("~", "~0").replace("/", "~1") for step in place)
        schema = {"$ref": f"{URI}#/{pointer}"}
        errors = list(Draft202012Validator(schema, registry=registry).iter_errors(body))
        assert not errors, f"{place}: {errors[0].message} at {list(errors[0].absolute_path)}"
        self.checked += 1
