from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "costguard-system.service"
EXPOSURE_MAX = 20  # of 100, as systemd-analyze counts
HARDENING = {
    "Type": "notify",
    "NotifyAccess": "main",
    "Restart": "on-failure",
    "DynamicUser": "yes",
    "StateDirectory": "costguard",
    "StateDirectoryMode": "0700",
    "UMask": "0077",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "ProtectProc": "invisible",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "CapabilityBoundingSet": "",
    "SystemCallArchitectures": "native",
    "LimitCORE": "0",
}


def settings_of(unit: Path) -> dict[str, str]:
    """The unit's settings; of one that stands twice, the last."""
    lines = unit.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


def test_the_system_unit_gives_the_daemon_nothing_that_it_does_not_need() -> None:
    """Each setting has its reason beside it."""
    settings = settings_of(UNIT)
    assert HARDENING.items() <= settings.items()


def test_the_system_unit_leaves_the_boot_id_readable() -> None:
    """Times before and after a reboot are told apart by it."""
    assert "ProcSubset" not in settings_of(UNIT)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_itself_finds_the_unit_little_exposed() -> None:
    """Judged without installing it."""
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout[-2_000:]


def test_the_container_runs_as_nobody_special_and_is_given_its_secrets_as_files() -> None:
    """No secret in a variable, no capability, a root that is read-only."""
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    daemon = service["services"]["costguard"]
    assert daemon["read_only"] is True
    assert daemon["cap_drop"] == ["ALL"]
    assert daemon["security_opt"] == ["no-new-privileges:true"]
    assert not [name for name in daemon["environment"] if "TOKEN" in name or "KEY" in name]
    assert set(daemon["secrets"]) == set(service["secrets"])
    image = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    users = re.findall(r"^USER (\S+)", image, re.MULTILINE)
    assert users == ["costguard"]
    assert "ARG" not in image


def test_what_the_image_is_built_from_is_there() -> None:
    """And nothing of the surroundings is copied whole."""
    image = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--from)(.+)", image, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert source != "."
            assert (ROOT / source).exists(), source
