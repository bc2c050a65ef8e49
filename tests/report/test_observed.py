from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from costguard.core.spec import spec_from_json
from costguard.report.observed import Observed, observed
from tests.report.books import Books

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from costguard.store.database import Store

MODEL = "Qwen/Qwen2.5-7B-Instruct"


def of_model(books: Books, model: str = MODEL, provider: str = "autodl") -> Books:
    """The job as one that trains this model on this platform."""
    spec = spec_from_json(books.job.spec_json)
    argv = ("python", "-m", "trainer", "train", "--model_name_or_path", model)
    books.job.spec_json = replace(spec, runs=(replace(spec.runs[0], argv=argv),)).to_json()
    books.instance.provider = provider
    books.session.flush()
    return books


def seen(store: Store, provider: str = "autodl") -> Observed:
    """What the home has observed of the model."""
    with store.read() as session:
        return observed(session, MODEL, provider)


def speed(session: Session, name: str, tokens_per_s: float, **where: str) -> None:
    """A job whose last log line told a speed."""
    books = of_model(Books.open(session, name), **where)
    books.tell("progress", 1, step=1, session_tokens_per_s=1)
    books.tell("progress", 2, step=2, session_tokens_per_s=tokens_per_s)


def test_a_cards_speed_is_the_middle_of_what_runs_last_told(store: Store) -> None:
    """The last line of each, not the first: a card warms up."""
    with store.write() as session:
        for name, tokens_per_s in (("a", 900), ("b", 1_000), ("c", 4_000)):
            speed(session, name, tokens_per_s)
    assert seen(store).tokens_per_s == {"RTX 3090": 1_000}


def test_another_model_says_nothing(store: Store) -> None:
    """Nor does a command of one's own."""
    with store.write() as session:
        speed(session, "a", 900, model="Qwen/Qwen2.5-0.5B")
        Books.open(session, "own")
    assert seen(store) == Observed()


def test_the_platform_on_this_machine_stands_for_itself(store: Store) -> None:
    """Its cards are names: it must not tell how fast a real one is, nor the other way round."""
    with store.write() as session:
        speed(session, "a", 5, provider="local")
        speed(session, "b", 900)
    assert seen(store).tokens_per_s == {"RTX 3090": 900}
    assert seen(store, "local").tokens_per_s == {"RTX 3090": 5}


def test_a_loss_without_a_speed_is_no_speed(store: Store) -> None:
    """LLaMA-Factory's own name for it counts too."""
    with store.write() as session:
        of_model(Books.open(session, "a")).tell("progress", 1, step=1, loss=2.0)
        of_model(Books.open(session, "b", gpu="A10")).tell("progress", 1, throughput=500.5)
    assert seen(store).tokens_per_s == {"A10": 500}


def test_what_came_beside_the_steps_is_told_by_part(store: Store) -> None:
    """Of runs on that platform; phases that mean the same are one part."""
    with store.write() as session:
        books = of_model(Books.open(session))
        running = books.interval()
        for phase, to_s in (("setup", 60), ("start", 70), ("download", 370), ("train", 900)):
            books.run_to(running, to_s, phase=phase)
    assert seen(store).seconds == {"setup": [70], "download": [300]}
    assert seen(store, "chenyu").seconds == {}


def test_hours_that_were_paid_say_nothing_of_how_long_it_took(store: Store) -> None:
    """A tariff by the hour books a whole one at once."""
    with store.write() as session:
        books = of_model(Books.open(session, quantum_s=3_600))
        books.run_to(books.interval(), 60, phase="setup")
    assert seen(store).seconds == {}
