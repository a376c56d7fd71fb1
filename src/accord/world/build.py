"""The files of a world: prompts, demonstrations, a corpus, and an untrained model."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

from accord.data.write import write_jsonl
from accord.errors import SettingsError
from accord.lm.scratch import save_untrained, train_tokenizer, untrained_model
from accord.records import prompt_json
from accord.settings.stages import WorldSettings
from accord.world.corpus import draw_text
from accord.world.demonstrations import demonstrate
from accord.world.tasks import Task, draw_task
from accord.world.vocabulary import WORD_CLASS

MAX_LENGTH = 512
WEIGHT_SCALE, EMBEDDING_SCALE = 0.06, 0.3
"""Standard deviations of the untrained weights. At this width, attention learns to copy a word from
the prompt within about 300,000 tokens; with the usual 0.02 it has not started to by then."""
_ATTEMPTS = 2000
_TOKENIZER_TEXTS = 4000
_WORD_WEIGHT = 60
"""Number of copies of each slot word in the tokenizer's texts, so that it becomes one token."""


def build_world(settings: WorldSettings) -> None:
    """Write corpus.jsonl, demonstrations.jsonl, train_prompts.jsonl, test_prompts.jsonl and model/.

    A test prompt's combination of slot words occurs in no other file, though each word does.
    Train prompts differ from each other and from all others. All files are a function of the
    seed, byte for byte. Raises SettingsError when more prompts are requested than the world has.
    """
    folder = Path(settings.output_dir)
    test = distinct_tasks(_random(settings, "test"), settings.test_prompts, "test_prompts")
    held_out = {task.combination for task in test}
    train = distinct_tasks(
        _random(settings, "train"), settings.train_prompts, "train_prompts", held_out
    )
    taken = {task.text for task in train}
    write_jsonl(folder / "test_prompts.jsonl", map(_prompt_row, test))
    write_jsonl(folder / "train_prompts.jsonl", map(_prompt_row, train))

    rng = _random(settings, "demonstrations")
    draw = _task_drawer(rng, held_out, taken)
    write_jsonl(
        folder / "demonstrations.jsonl",
        (_demonstration_row(draw(), rng) for _ in range(settings.demonstrations)),
    )
    rng = _random(settings, "corpus")
    draw = _task_drawer(rng, held_out, taken)
    write_jsonl(
        folder / "corpus.jsonl", ({"text": draw_text(draw, rng)} for _ in range(settings.corpus))
    )
    texts = _tokenizer_texts(settings, held_out)
    tokenizer = train_tokenizer(texts, settings.vocab_size, MAX_LENGTH)
    model = untrained_model(
        "llama",
        model_config(settings),
        tokenizer,
        seed=settings.seed,
        embedding_scale=EMBEDDING_SCALE,
    )
    save_untrained(model, tokenizer, folder / "model")


def distinct_tasks(
    rng: random.Random,
    count: int,
    key: str,
    held_out: Container[tuple[str, ...]] = frozenset(),
) -> list[Task]:
    """Tasks with different texts, without held-out combinations.

    `key` is the setting that requests them. Raises SettingsError when the world has no more.
    """
    tasks: dict[str, Task] = {}
    for _ in range(count):
        task = _new_task(rng, held_out, tasks, key)
        tasks[task.text] = task
    return list(tasks.values())


def _random(settings: WorldSettings, purpose: str) -> random.Random:
    """A separate random stream for each file, so that one file's size does not change another."""
    return random.Random(f"accord world {settings.seed} {purpose}")


def _task_drawer(
    rng: random.Random, held_out: Container[tuple[str, ...]], taken: Container[str]
) -> Callable[[], Task]:
    return lambda: _new_task(rng, held_out, taken, "train_prompts")


def _new_task(
    rng: random.Random, held_out: Container[tuple[str, ...]], taken: Container[str], key: str
) -> Task:
    for _ in range(_ATTEMPTS):
        task = draw_task(rng)
        if task.combination not in held_out and task.text not in taken:
            return task
    raise SettingsError(
        f"`{key}` asks for more prompts than the embedded world has: {_ATTEMPTS} draws in a row "
        "were already taken. Ask for fewer train_prompts and test_prompts."
    )


def _prompt_row(task: Task) -> dict[str, Any]:
    return {"prompt": prompt_json(task.prompt), "meta": {"kind": task.kind}}


def _demonstration_row(task: Task, rng: random.Random) -> dict[str, Any]:
    return {"prompt": prompt_json(task.prompt), "completion": demonstrate(task, rng)}


def _tokenizer_texts(
    settings: WorldSettings, held_out: Container[tuple[str, ...]]
) -> Iterator[str]:
    rng = _random(settings, "tokenizer")
    draw = _task_drawer(rng, held_out, frozenset())
    for _ in range(_TOKENIZER_TEXTS):
        yield draw_text(draw, rng)
        yield demonstrate(draw(), rng)
    for word in WORD_CLASS:
        yield f" {word}" * _WORD_WEIGHT


def model_config(settings: WorldSettings) -> dict[str, Any]:
    """The configuration of a Llama that is large enough for the world."""
    return {
        "hidden_size": settings.hidden_size,
        "intermediate_size": -(-settings.hidden_size * 8 // 24) * 8,
        "num_hidden_layers": settings.num_hidden_layers,
        "num_attention_heads": settings.num_attention_heads,
        "num_key_value_heads": settings.num_attention_heads,
        "max_position_embeddings": MAX_LENGTH,
        "initializer_range": WEIGHT_SCALE,
        "tie_word_embeddings": True,
    }
