"""Deliver what the outbox holds: coalesced, in quiet hours only what costs, until it is taken."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from costguard.notify import texts
from costguard.notify.base import Message, Undelivered
from costguard.notify.collect import add_morning, collect
from costguard.notify.kinds import URGENT
from costguard.notify.quiet import is_quiet
from costguard.store.database import StoreUnavailable
from costguard.store.models import Delivery, Notice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from zoneinfo import ZoneInfo

    from costguard.notify.channels import Channel
    from costguard.settings import NotifySettings
    from costguard.store.database import Store

log = logging.getLogger("costguard.notify")

RETRY_S = (15, 30, 60, 120, 300, 600, 1_800)
GIVE_UP_AFTER_MS = 24 * 3_600_000  # not for what is urgent: that is tried for ever
BATCH_MAX = 50


@dataclass(frozen=True, slots=True)
class Waiting:
    """One notice that waits for one channel."""

    notice_id: int
    kind: str
    at_ms: int
    next_ms: int
    attempts: int
    facts: dict[str, Any]

    @property
    def is_urgent(self) -> bool:
        """Whether it is told at any hour."""
        return self.kind in URGENT


class Outbox:
    """Called again and again by a chore; never by two at a time."""

    def __init__(
        self,
        store: Store,
        channels: Callable[[], Sequence[Channel]],
        settings: Callable[[], NotifySettings],
        zone: ZoneInfo,
    ) -> None:
        self._store = store
        self._channels = channels
        self._settings = settings
        self._zone = zone
        # What a channel took while the database could not be written: not to be sent again.
        self._unmarked: dict[str, dict[int, int]] = {}

    def run(self, now_ms: int) -> int:
        """Collect what is new and send what is due; how many messages the channels took."""
        channels, settings = self._channels(), self._settings()
        names = [channel.name for channel in channels]
        try:
            with self._store.write() as session:
                collect(session, names, now_ms)
                add_morning(session, names, self._zone, settings.morning_minute, now_ms)
        except StoreUnavailable as error:
            log.warning("nothing new can be told: %s", error)
        return sum(self._serve(channel, settings, now_ms) for channel in channels)

    def _serve(self, channel: Channel, settings: NotifySettings, now_ms: int) -> bool:
        try:
            self._mark_what_was_taken(channel.name)
            batch = self._due(channel.name, settings, now_ms)
        except StoreUnavailable as error:
            log.warning("channel %s: %s", channel.name, error)
            return False
        if not batch:
            return False
        message, packed = pack(batch, channel)
        try:
            channel.sender.send(message, now_ms)
        except Undelivered as error:
            self._failed(channel.name, packed, str(error), error.retry_after_s, now_ms)
            return False
        except Exception as error:  # noqa: BLE001  (one broken channel must not end the others)
            # Not the error's text, nor its traceback: either may hold the channel's address.
            self._failed(channel.name, packed, type(error).__name__, None, now_ms)
            return False
        self._unmarked.setdefault(channel.name, {}).update(
            dict.fromkeys((each.notice_id for each in packed), now_ms)
        )
        try:
            self._mark_what_was_taken(channel.name)
        except StoreUnavailable as error:
            log.warning("channel %s: sent, and to be marked so later: %s", channel.name, error)
        return True

    def _due(self, channel: str, settings: NotifySettings, now_ms: int) -> list[Waiting]:
        """What to send now: nothing, or everything that waits and may be told at this hour."""
        query = (
            select(Delivery, Notice)
            .join(Notice, Delivery.notice_id == Notice.id)
            .where(Delivery.channel == channel, Delivery.state == "waiting")
            .order_by(Notice.id)
        )
        with self._store.read() as session:
            waiting = [
                Waiting(
                    row.notice_id,
                    notice.kind,
                    notice.at_ms,
                    row.next_ms,
                    row.attempts,
                    json.loads(notice.data_json),
                )
                for row, notice in session.execute(query)
            ]
        if is_quiet(now_ms, self._zone, settings.quiet_minutes):
            waiting = [each for each in waiting if each.is_urgent]
        waiting.sort(key=lambda each: (not each.is_urgent, each.notice_id))
        ready = [each for each in waiting if each.next_ms <= now_ms]
        held_ms = 1_000 * settings.coalesce_s
        is_time = any(each.is_urgent or each.next_ms + held_ms <= now_ms for each in ready)
        retried = any(each.attempts > 0 for each in ready)
        # Whatever waits goes along: what one notice finds out of the channel holds for the others.
        return waiting[:BATCH_MAX] if is_time or retried else []

    def _mark_what_was_taken(self, channel: str) -> None:
        taken = self._unmarked.get(channel)
        if not taken:
            return
        with self._store.write() as session:
            for notice_id, at_ms in taken.items():
                session.execute(
                    update(Delivery)
                    .where(Delivery.notice_id == notice_id, Delivery.channel == channel)
                    .values(state="sent", sent_ms=at_ms, error=None, attempts=Delivery.attempts + 1)
                )
        del self._unmarked[channel]

    def _failed(
        self,
        channel: str,
        batch: Sequence[Waiting],
        why: str,
        retry_after_s: int | None,
        now_ms: int,
    ) -> None:
        log.warning("channel %s did not take a message: %s", channel, why)
        try:
            with self._store.write() as session:
                for each in batch:
                    row = session.get_one(Delivery, (each.notice_id, channel))
                    wait_s = RETRY_S[min(row.attempts, len(RETRY_S) - 1)]
                    row.attempts += 1
                    row.error = why
                    row.next_ms = now_ms + 1_000 * max(wait_s, retry_after_s or 0)
                    if now_ms - each.at_ms > GIVE_UP_AFTER_MS and not each.is_urgent:
                        row.state = "given_up"
        except StoreUnavailable as error:
            log.warning("channel %s: %s", channel, error)


def pack(batch: Sequence[Waiting], channel: Channel) -> tuple[Message, list[Waiting]]:
    """One message with as many of the notices as have room in it, and which those are."""
    _ = texts.translator(channel.lang)
    packed: list[Waiting] = []
    lines: list[str] = []
    room = channel.sender.max_bytes - 200  # the title, and a word on what had no room
    for each in batch:
        text = texts.line(each.kind, each.facts, _, channel.lang)
        size = len(text.encode())
        if size > room and packed:
            break
        lines.append(text if size <= room else text.encode()[:room].decode(errors="ignore") + "…")
        packed.append(each)
        room -= size + 1
    if len(packed) < len(batch):
        lines.append(texts.more(len(batch) - len(packed), _))
    urgent = any(each.is_urgent for each in packed)
    heading = texts.title([each.kind for each in packed], urgent, _)
    return Message(heading, "\n".join(lines)), packed
