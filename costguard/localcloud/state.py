"""What the platform knows about one instance, and its form in the store and on the wire."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from costguard.localcloud import meter
from costguard.localcloud.meter import Interval, Rate, format_yuan
from costguard.localcloud.rules import Rules

STARTING = "starting"
RUNNING = "running"
STOPPING = "stopping"
STOPPED = "stopped"
OFF = "off"  # the machine is off and its meter still runs: only ever by a fault
ON = frozenset({STARTING, RUNNING, STOPPING})
LOOPBACK = "127.0.0.1"


@dataclass
class Instance:
    """One rented machine. Fields are changed only under the registry's lock."""

    id: str
    name: str
    tag: str
    gpu: str
    gpu_count: int
    image: str
    region: str
    ssh_public_key: str
    host_private_key: str
    host_key: str
    guest_token: str
    created_at_ms: int
    price_micros_per_hour: int
    disk_price_micros_per_hour: int
    quantum_s: int
    work_dir: str
    status: str = STOPPED
    boots: int = 0
    stop_at_ms: int | None = None
    port: int | None = None
    released_at_ms: int | None = None
    last_error: str | None = None
    intervals: list[Interval] = field(default_factory=list)
    rules: Rules = field(default_factory=Rules)

    @property
    def disk(self) -> Path:
        """The instance's disk: a real path that its SFTP subsystem never leaves."""
        return Path(self.work_dir).parent

    @property
    def is_charging(self) -> bool:
        """True while the compute meter runs."""
        return bool(self.intervals) and self.intervals[-1].ended_at_ms is None

    def open_meter(self, now_ms: int) -> None:
        """Begin a power interval at the price in force, unless one runs."""
        if not self.is_charging:
            price = self.price_micros_per_hour
            opened = meter.open_interval(now_ms, self.quantum_s, price, self.rules)
            self.intervals.append(opened)

    def close_meter(self, now_ms: int) -> None:
        """End the power interval, if one runs."""
        if self.is_charging:
            self.intervals[-1] = meter.close(self.intervals[-1], now_ms)

    def set_price(self, now_ms: int, price_micros_per_hour: int) -> None:
        """Put another price in force; an open interval is split now."""
        self.price_micros_per_hour = price_micros_per_hour
        if self.is_charging:
            self.intervals[-1] = meter.reprice(self.intervals[-1], now_ms, price_micros_per_hour)

    def bill_lines(self, as_of_ms: int) -> list[meter.Line]:
        """The instance's bill as it stood at `as_of_ms`: power intervals, then the disk."""
        lines: list[meter.Line] = []
        for number, interval in enumerate(self.intervals, start=1):
            lines += meter.compute_lines(f"{self.id}/power-{number}", interval, as_of_ms)
        return lines + meter.disk_line(
            f"{self.id}/disk",
            self.created_at_ms,
            self.released_at_ms,
            self.disk_price_micros_per_hour,
            as_of_ms,
        )

    def as_json(self) -> dict[str, Any]:
        """The instance as the API shows it; `ssh` only while it is running."""
        last = self.intervals[-1] if self.intervals else None
        ssh = None
        if self.status == RUNNING:
            ssh = {"host": LOOPBACK, "port": self.port, "user": "root", "host_key": self.host_key}
        return {
            "id": self.id,
            "name": self.name,
            "tag": self.tag,
            "status": self.status,
            "charging": self.is_charging,
            "gpu": self.gpu,
            "gpu_count": self.gpu_count,
            "image": self.image,
            "region": self.region,
            "price_yuan_per_hour": format_yuan(self.price_micros_per_hour),
            "disk_price_yuan_per_hour": format_yuan(self.disk_price_micros_per_hour),
            "billing": self.rules.as_json(self.quantum_s),
            "created_at_ms": self.created_at_ms,
            "charged_since_ms": last.started_at_ms if last else None,
            "charged_until_ms": last.ended_at_ms if last else None,
            "boots": self.boots,
            "stop_at_ms": self.stop_at_ms,
            "ssh": ssh,
            "work_dir": self.work_dir,
        }

    def to_document(self) -> dict[str, Any]:
        """Everything, as JSON types, for the store."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Instance:
        """The instance that `to_document` wrote, this release's or an earlier one's."""
        intervals = [_interval(one) for one in document["intervals"]]
        rules = Rules.from_document(document.get("rules", {}))
        return cls(**{**document, "intervals": intervals, "rules": rules})


def _interval(document: dict[str, Any]) -> Interval:
    rates = tuple(Rate(**rate) for rate in document["rates"])
    rules = Rules.from_document(document.get("rules", {}))
    return Interval(**{**document, "rates": rates, "rules": rules})
