"""Sampling resumes from the file of a killed run, whatever bytes that ends with."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from pydantic import ValidationError

from accord.data.write import read_responses
from accord.pipeline.stages.sample import sample
from accord.records import Response
from accord.settings.stages import SampleSettings


@pytest.fixture
def settings(tiny_world: Path, tmp_path: Path) -> SampleSettings:
    return SampleSettings(
        model=str(tiny_world / "model"),
        dataset=str(tiny_world / "test_prompts.jsonl"),
        output_dir=str(tmp_path / "out"),
        num_responses=1,
        max_new_tokens=8,
        batch_size=1,  # four prompts are written at a time
    )


def first_chunk(settings: SampleSettings) -> bytes:
    """The header and the first four rows, as an interrupted run leaves them."""
    assert [progress.done for progress in islice(sample(settings), 2)] == [0, 4]
    return (Path(settings.output_dir) / "responses.partial.jsonl").read_bytes()


def test_line_separators_and_a_character_cut_in_half(settings: SampleSettings) -> None:
    written = first_chunk(settings)
    folder = Path(settings.output_dir)
    header, *rows = [json.loads(line) for line in written.splitlines()]
    # A model may write any character. These are written without escapes, and some functions treat
    # them as line ends.
    rows[0]["responses"][0]["text"] = "a\u2028b\u0085c\u2029d"
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in (header, *rows, rows[0])]
    cut = lines[-1].index("\u2028".encode()) + 1
    partial = folder / "responses.partial.jsonl"
    partial.write_bytes(b"\n".join(lines)[: cut - len(lines[-1])])
    assert next(sample(settings)).done == 4
    assert list(sample(settings))[-1].done == 12
    read = read_responses(folder / "responses.jsonl")
    assert len(read) == 12
    assert read[0].responses[0].text == "a\u2028b\u0085c\u2029d"


@pytest.mark.parametrize("length", [0, 5, -1])
def test_after_a_torn_header_or_chunk_the_chunk_is_sampled_again(
    settings: SampleSettings, length: int
) -> None:
    written = first_chunk(settings)
    header = written.index(b"\n")
    partial = Path(settings.output_dir) / "responses.partial.jsonl"
    for content in (written[:length], written[:header], written[: header + 1]):
        partial.write_bytes(content)
        assert [progress.done for progress in islice(sample(settings), 2)] == [0, 4]
        assert partial.read_bytes() == written


def test_other_settings_start_from_scratch(settings: SampleSettings) -> None:
    first_chunk(settings)
    assert next(sample(settings.model_copy(update={"temperature": 0.5}))).done == 0


def answers(settings: SampleSettings) -> list[Response]:
    for _ in sample(settings):
        pass
    rows = read_responses(f"{settings.output_dir}/responses.jsonl")
    return [r for row in rows for r in row.responses]


@pytest.mark.parametrize("letters", ["", "assistant"])  # those of a marker that is sampled too
def test_stop_strings_end_the_text(settings: SampleSettings, letters: str) -> None:
    settings = settings.model_copy(update={"seed": 10})
    plain = answers(settings)
    counts = Counter(c for r in plain for c in set(r.text) if c in letters or not letters)
    letter = max(counts, key=lambda c: (counts[c], c))
    folder = f"{settings.output_dir}-stopped"
    stopped = answers(settings.model_copy(update={"stop": [letter], "output_dir": folder}))
    for before, after in zip(plain, stopped, strict=True):
        assert after.text == before.text.partition(letter)[0]
        assert after.finished == (before.finished or letter in before.text)
        assert after.settings["stop"] == [letter]
    assert any(letter in r.text for r in plain)


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}])
def test_cuts_reach_the_sampler(settings: SampleSettings, cut: dict[str, float]) -> None:
    changes = {"output_dir": f"{settings.output_dir}-cut", "num_responses": 3}
    texts = [r.text for r in answers(settings.model_copy(update=changes | cut))]
    assert all(len(set(texts[i : i + 3])) == 1 for i in range(0, len(texts), 3))


def test_spaces_of_a_stop_string_are_not_stripped() -> None:
    required = {"model": "m", "dataset": "d", "output_dir": "o"}
    assert SampleSettings(**required, stop=["\n\nHuman: "]).stop == ["\n\nHuman: "]
    with pytest.raises(ValidationError, match="at least 1 character"):
        SampleSettings(**required, stop=[""])
