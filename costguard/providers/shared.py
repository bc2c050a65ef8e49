"""What several adapters do alike: card names, price limits, SSH lines, words in images."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, TypeVar

from costguard.core.money import yuan_screen
from costguard.core.power import Power, PowerRead
from costguard.core.tariff import Tariff
from costguard.errors import UserError
from costguard.providers.base import (
    Absent,
    CreateRequest,
    InstanceView,
    NoCapacity,
    Provider,
    Refused,
)
from costguard.providers.units import price_micros

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from costguard.core.moment import Moment
    from costguard.providers.base import ImageInfo, Quote

Thing = TypeVar("Thing")
BILLING_S = {"second": 1, "minute": 60, "hour": 3_600}
_SIZE = re.compile(r"(?<=[\s_-])(\d+)GB?\b")
_NOISE = re.compile(r"NVIDIA|GEFORCE|TESLA|RTX|[\s_-]+")


def card(name: str) -> str:
    """A card's name without what platforms write differently: `NVIDIA GeForce RTX 4090` → 4090.

    A memory size keeps its number alone (`4090_48G`, `RTX 4090 48GB`); an `A10G` stays one.
    """
    return _NOISE.sub("", _SIZE.sub(r"\1", name.upper())) or name.upper()


def pick_card(
    wanted: str | None, things: Iterable[Thing], name_of: Callable[[Thing], str], platform: str
) -> Thing:
    """The one thing on offer that is the card `wanted`; Refused with the names there are.

    The platform's own id first, then the common name, then the only one that begins like it:
    an A100 of two sizes is a question to the person, not a guess.
    """
    found = list(things)
    names = ", ".join(sorted(name_of(thing) for thing in found)) or "none"
    if wanted is None:
        raise Refused(f"{platform}: no GPU is named; name one of: {names}")
    rules: tuple[Callable[[str], bool], ...] = (
        lambda name: name == wanted,
        lambda name: card(name) == card(wanted),
        lambda name: card(name).startswith(card(wanted)),
    )
    for rule in rules:
        fitting = [thing for thing in found if rule(name_of(thing))]
        if len({name_of(thing) for thing in fitting}) == 1:
            return fitting[0]
        if fitting:
            several = ", ".join(sorted({name_of(thing) for thing in fitting}))
            raise Refused(f"{platform}: {wanted!r} may be any of {several}; name one of them")
    raise Refused(f"{platform}: no GPU type {wanted!r} here; there are: {names}")


def accept(request: CreateRequest, quote: Quote, platform: str) -> None:
    """Nothing if the quote may be rented; NoCapacity without stock, Refused above the limit."""
    limit = request.max_price_micros_per_hour
    price = quote.tariff.price_micros_per_hour
    if limit is not None and price > limit:
        raise Refused(
            f"{platform}: {quote.gpu} costs {yuan_screen(price)} an hour, "
            f"above the limit of {yuan_screen(limit)}"
        )
    if not quote.in_stock:
        raise NoCapacity(f"{platform}: {quote.gpu} is sold out at the moment")


def here(request: CreateRequest, places: Sequence[str], platform: str) -> None:
    """Nothing if the request's region is one that this account's table is for; else Refused."""
    if request.region is not None and not places:
        raise Refused(
            f"{platform}: it has no regions to choose from; leave `region` out of the job"
        )
    if request.region is not None and request.region not in places:
        raise Refused(
            f"{platform}: region {request.region!r} is not the one of this account's table "
            f"({', '.join(places)}): change it there, under [providers.{platform}]"
        )


def need_image(request: CreateRequest, platform: str) -> str:
    """The image of a request, which these platforms cannot rent without."""
    if not request.image:
        raise Refused(
            f"{platform}: no image is named; `costguard images --provider {platform}` lists them"
        )
    return request.image


def has_words(image: ImageInfo, words: str) -> bool:
    """Whether an image's own text holds all the words."""
    text = f"{image.id} {image.name} {image.kind} {image.says}".lower()
    return all(word in text for word in words.lower().split())


def made_view(instance_id: str, request: CreateRequest, quote: Quote, now: Moment) -> InstanceView:
    """An instance just made, of which only the id is known: nothing is assumed of its power."""
    return InstanceView(
        id=instance_id,
        tag=request.tag,
        gpu=quote.gpu,
        read=PowerRead(Power.UNKNOWN, now),
        tariff=quote.tariff,
        ssh=None,
        gpu_count=request.gpu_count,
    )


def ssh_line(line: str) -> tuple[str, int, str]:
    """Host, port and user of a line such as `ssh -p 12345 root@host`; ValueError otherwise."""
    words = shlex.split(line)
    port, target, rest = 22, "", iter(words[1:] if words[:1] == ["ssh"] else words)
    for word in rest:
        if word == "-p":
            port = _port(next(rest, ""))
        elif word.startswith("-p") and word[2:].isdecimal():
            port = _port(word[2:])
        elif word in ("-o", "-i", "-L", "-R", "-D", "-l"):
            next(rest, "")
        elif not word.startswith("-") and not target:
            target = word
    user, _, host = target.rpartition("@")
    if not host or not 0 < port < 65_536:  # also where a port is no number
        raise ValueError("not a line such as ssh -p 12345 root@host")
    return host, port, user or "root"


def _port(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def quantum_option(settings: Mapping[str, Any], default: str) -> int:
    """Seconds of the `billing` field: what a power interval is rounded up to."""
    word = str(settings.get("billing", default))
    if word not in BILLING_S:
        raise UserError("bad_config", f"billing = {word!r}", "billing", "second, minute or hour")
    return BILLING_S[word]


def flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested parameters as `Disks.0.Size=60`, truth values as `true` and `false`."""
    if isinstance(value, dict):
        pairs: Sequence[tuple[str, Any]] = list(value.items())
    elif isinstance(value, (list, tuple)):
        pairs = [(str(index), item) for index, item in enumerate(value)]
    elif isinstance(value, bool):
        return {name: "true" if value else "false"}
    else:
        return {} if value is None else {name: str(value)}
    found: dict[str, str] = {}
    for key, item in pairs:
        found |= flat(item, f"{name}.{key}" if name else key)
    return found


def adopted(account: Provider, instance_id: str, now: Moment) -> InstanceView:
    """An instance that somebody made in the console, if it can be kept under a cap.

    Refused, with why, where a stop would not stop its meter; Absent where it is not, or is gone.
    """
    view = account.read(instance_id, now)
    name = account.facts.name
    if view.read.power is Power.RELEASED:
        raise Absent(f"{name}: {instance_id} has been given back")
    if view.unfit is not None:
        raise Refused(f"{name}: {instance_id} cannot be adopted: {view.unfit}")
    return view


def wish(gpu: str | None, count: int = 1) -> CreateRequest:
    """A request for so many cards and nothing else, to ask the price of."""
    return CreateRequest("", "", gpu, count, None, None, "", None, None)


class Known:
    """The last tariff that was told for each instance.

    Many platforms tell the price of what runs alone. Off, an instance must keep the price that it
    will have when it is switched on again: 0 would make its next lease free of charge.
    """

    def __init__(self) -> None:
        self._tariffs: dict[str, Tariff] = {}

    def tariff(self, instance_id: str, told: Tariff | None, ask: Callable[[], Tariff]) -> Tariff:
        """What was told now, else what was told last, else what the platform's price list says."""
        found = told or self._tariffs.get(instance_id) or ask()
        self._tariffs[instance_id] = found
        return found


class PriceBook:
    """Prices that a person copied from the console, for platforms without a price list.

    Refused where there is none: a guessed price would be a wrong cap. What the platform tells of
    the rented instance takes its place as soon as there is one.
    """

    def __init__(
        self,
        platform: str,
        cards: Mapping[str, str],
        settings: Mapping[str, Any],
        quantum_s: int = 1,
        *,
        key: str = "prices_yuan_per_hour",
        minimum_micros: int = 0,
    ) -> None:
        self._platform, self._cards, self._quantum_s = platform, cards, quantum_s
        self._key, self._minimum_micros = key, minimum_micros
        told = settings.get(key) or {}
        try:
            self._micros = {
                self._id(str(name)): price_micros(price) for name, price in told.items()
            }
        except (AttributeError, ValueError):
            raise UserError(
                "bad_config",
                f"{key} is no table of prices",
                f"[providers.{platform}]",
                'for example { "RTX 4090" = 1.98 }',
            ) from None

    def _id(self, name: str) -> str:
        """The platform's id of a card by its common name; what is no such name is an id."""
        alike = [one for one, common in self._cards.items() if card(common) == card(name)]
        return alike[0] if name not in self._cards and len(alike) == 1 else name

    def find(self, wanted: str | None, count: int) -> tuple[str, Tariff]:
        """The platform's id of a card, and the tariff of so many."""
        found, price = self.price(wanted)
        return found, self._tariff(price, count)

    def price(self, wanted: str | None) -> tuple[str, int]:
        """The platform's id of a card, and its price in millionths, as the config has it."""
        ids = {*self._cards, *self._micros}
        wanted = None if wanted is None else self._id(wanted)
        found = pick_card(wanted, ids, lambda one: one, self._platform)
        if found not in self._micros:
            raise Refused(
                f"{self._platform}: it has no price list here, and {self._key} under "
                f"[providers.{self._platform}] has no price of {found!r}: copy the console's"
            )
        return found, self._micros[found]

    @property
    def prices(self) -> Mapping[str, int]:
        """Every price, by the platform's id."""
        return self._micros

    def all(self, count: int) -> list[tuple[str, Tariff]]:
        """Every card that has a price."""
        return [(name, self._tariff(price, count)) for name, price in self._micros.items()]

    def _tariff(self, price: int, count: int) -> Tariff:
        return Tariff(
            price_micros_per_hour=price * count,
            quantum_s=self._quantum_s,
            minimum_micros=self._minimum_micros,
        )
