"""`python -m trainer chat`: talk to a model with its adapter, or hold an interview with it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import interview
from trainer.adapter import Adapter, find_adapter
from trainer.download import locate
from trainer.exits import FINISHED, USAGE, Refusal
from trainer.flag_table import PASSED_OVER
from trainer.flags import (
    Parser,
    add_model_flags,
    add_switch,
    at_least,
    check_system,
    check_template,
    wanted_model,
)
from trainer.progress import say, warn
from trainer.serve import Answerer, Sampling, load, prepare_process
from trainer.template import QWEN_DEFAULT_SYSTEM

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

NOT_HIRED = 3
"""The exit code of an interview with fewer right answers than --pass_percent asks for."""


def run_chat(argv: list[str]) -> int:
    """FINISHED, or NOT_HIRED; answers go to stdout, everything else to stderr."""
    options = _parser().parse(argv)
    _check(options)
    questions = interview.read_questions(options.interview) if options.interview else None
    adapter = find_adapter(options.adapter_name_or_path) if options.adapter_name_or_path else None
    if options.with_base and adapter is None:
        raise Refusal(USAGE, "--with_base needs an adapter", hint="add --adapter_name_or_path")
    quantised = _quantised(options, adapter)
    known = adapter or Adapter(Path())
    system = known.default_system if options.default_system is None else options.default_system
    if adapter:
        warn(f"adapter: {adapter.path}; base in {'NF4' if quantised else 'bf16'}")
    if system != QWEN_DEFAULT_SYSTEM:
        warn(f"system prompt: {system}")
    prepare_process()
    answerer = load(
        locate(wanted_model(options)),
        adapter,
        quantised=quantised,
        double_quantization=known.double_quantization,
    )
    sampling = _sampling(options, interviewing=questions is not None)
    if questions is not None:
        return _interview(answerer, questions, system, sampling, options)
    talk(answerer, _lines(), system, sampling, stream=options.stream_output)
    return FINISHED


def talk(
    answerer: Answerer, lines: Iterable[str], system: str, sampling: Sampling, *, stream: bool
) -> None:
    """Answer each line until there is none; `clear` forgets what was said, `exit` ends."""
    turns: list[tuple[str, str]] = []
    for line in lines:
        question = line.strip()
        if question in {"exit", "quit"}:
            break
        if question == "clear":
            turns.clear()
            warn("forgotten")
        elif question:
            try:
                told = _print if stream else None
                answer = answerer.answer(turns, question, system, sampling, told)
            except KeyboardInterrupt:  # ends this answer, not the conversation
                warn("\nstopped")
                continue
            say("" if stream else answer)
            turns.append((question, answer))


def _interview(
    answerer: Answerer,
    questions: list[interview.Question],
    system: str,
    sampling: Sampling,
    options: argparse.Namespace,
) -> int:
    def ask(question: interview.Question) -> str:
        said = system if question.system is None else question.system
        return answerer.answer(question.history, question.question, said, sampling)

    base = None
    if options.with_base:
        with answerer.without_adapter():
            base = interview.hold(questions, ask)
    tuned = interview.hold(questions, ask)
    if options.json:
        say(json.dumps(interview.as_json(tuned, base), ensure_ascii=False, allow_nan=False))
    else:
        say("\n".join(interview.as_table(tuned, base)))
    percent = 100 * interview.count_right(tuned) / len(tuned)
    return FINISHED if percent >= options.pass_percent else NOT_HIRED


def _lines() -> Iterator[str]:
    """What a person types or a pipe holds; Ctrl-C and Ctrl-D between questions end it."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    warn("ask; `clear` forgets what was said, `exit` ends, Ctrl-C stops an answer")
    try:
        while True:
            yield input("> ")
    except (EOFError, KeyboardInterrupt):
        say("")


def _print(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def _sampling(options: argparse.Namespace, *, interviewing: bool) -> Sampling:
    """What the flags say; an interview takes the likeliest answer unless told otherwise."""
    temperature = options.temperature
    if temperature is None:
        temperature = 0.0 if interviewing else 0.7
    return Sampling(
        temperature=temperature if options.do_sample else 0.0,
        top_p=options.top_p,
        top_k=options.top_k,
        repetition_penalty=options.repetition_penalty,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
    )


def _quantised(options: argparse.Namespace, adapter: Adapter | None) -> bool:
    """As the flag says, else as the adapter was trained, else not."""
    if options.quantization_bit is not None:
        return True
    return bool(adapter and adapter.quantised)


def _check(options: argparse.Namespace) -> None:
    check_template(options.template)
    check_system(options.default_system or "")
    bounds = {
        "temperature": (0.0, 10.0),
        "top_p": (1e-6, 1.0),
        "repetition_penalty": (0.1, 10.0),
        "pass_percent": (0.0, 100.0),
    }
    for name, (least, most) in bounds.items():
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and least <= value <= most):
            raise Refusal(USAGE, f"--{name} {value} is not between {least:g} and {most:g}")
    if options.quantization_bit not in {None, 4}:
        hint = "use 4 (NF4), or leave it out"
        raise Refusal(USAGE, f"--quantization_bit {options.quantization_bit}", hint=hint)
    if options.interview is None and (options.json or options.with_base):
        raise Refusal(USAGE, "--json and --with_base are for an interview", hint="add --interview")
    for name in _PASSED_OVER:
        if getattr(options, name) is not None:
            warn(f"--{name} is passed over: {PASSED_OVER[name]}")


_PASSED_OVER = ("flash_attn", "trust_remote_code", "use_fast_tokenizer", "low_cpu_mem_usage")


def _parser() -> Parser:
    parser = Parser(prog="python -m trainer chat", allow_abbrev=False)
    what = parser.add_argument_group("who answers")
    add_model_flags(what)
    text = "an adapter, or a run's --output_dir"
    what.add_argument("--adapter_name_or_path", help=text)
    what.add_argument("--template", default="qwen", help="qwen")
    what.add_argument("--finetuning_type", default="lora", choices=("lora",))
    what.add_argument("--quantization_bit", type=int, help="4: NF4; else as it was trained")
    text = "the system prompt; else the one it was trained with"
    what.add_argument("--default_system", help=text)
    how = parser.add_argument_group("how")
    add_switch(how, "--stream_output", "each piece as it comes", default=True)
    add_switch(how, "--do_sample", "false: always the likeliest", default=True)
    how.add_argument("--temperature", type=float, help="0: always the likeliest (0.7)")
    how.add_argument("--top_p", type=float, default=0.9)
    how.add_argument("--top_k", type=at_least(0), default=50)
    how.add_argument("--repetition_penalty", type=float, default=1.0)
    how.add_argument("--max_new_tokens", type=at_least(1), default=512)
    how.add_argument("--seed", type=at_least(0), help="the same answers each time")
    test = parser.add_argument_group("interview")
    test.add_argument("--interview", type=Path, help="questions with what is a right answer")
    add_switch(test, "--with_base", "ask the base without the adapter too, for comparison")
    add_switch(test, "--json", "one JSON document, nothing else")
    text = f"fewer right answers than this: exit code {NOT_HIRED}"
    test.add_argument("--pass_percent", type=float, default=100.0, help=text)
    passed_over = parser.add_argument_group("passed over, with a notice")
    for name in _PASSED_OVER:
        passed_over.add_argument(f"--{name}", nargs="?", const="true")
    return parser
