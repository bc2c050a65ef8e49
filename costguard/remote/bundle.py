"""Making `agent.pyz`: everything that runs on the instance, in one file."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from pathlib import Path

import costguard
from costguard.remote.slim import names_used, slim

SHEBANG = b"#!/usr/bin/env python3\n"
MAIN = """\
import sys
from costguard.agent.cli import main
sys.exit(main())
"""
PACKAGES = ("agent", "core")
# The oldest date that a zip can hold: the same sources must give the same bytes.
DATE = (1980, 1, 1, 0, 0, 0)


def build_agent() -> bytes:
    """A zip application: `__main__.py`, costguard's agent and core, and what it uses of pynvml.

    Equal sources give equal bytes, so that an instance that has it already needs no upload.
    Raises FileNotFoundError when nvidia-ml-py is not installed beside costguard.
    """
    archive = io.BytesIO()
    archive.write(SHEBANG)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in sorted(_contents().items()):
            entry = zipfile.ZipInfo(name, DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, whatever built it
            entry.external_attr = 0o644 << 16
            bundle.writestr(entry, content)
    return archive.getvalue()


def _contents() -> dict[str, bytes]:
    root = Path(costguard.__file__).parent
    contents = {"__main__.py": MAIN.encode()}
    contents["costguard/__init__.py"] = (root / "__init__.py").read_bytes()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            contents[f"costguard/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    agent = [text.decode() for name, text in contents.items() if "/agent/" in name]
    pynvml = _pynvml().read_text(encoding="utf-8")
    contents["pynvml.py"] = slim(pynvml, names_used(agent)).encode()
    return contents


def _pynvml() -> Path:
    found = importlib.util.find_spec("pynvml")
    if found is None or found.origin is None:
        raise FileNotFoundError("pynvml is missing: install nvidia-ml-py beside costguard")
    return Path(found.origin)
