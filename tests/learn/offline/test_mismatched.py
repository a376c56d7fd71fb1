"""KTO's mismatched responses: which prompts they follow, and their log-ratios."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.learn.offline.mismatched import append_mismatched, mismatched_groups
from accord.lm.digest import rows_digest
from accord.lm.forward import response_logps
from accord.lm.packing import pack
from accord.lm.tokens import encode_chunks
from accord.lm.tokens.encode import Encoding, Limits
from accord.lm.tokens.encode_chunks import encode_in_chunks
from accord.lm.tokens.token_rows import count_labels, target_counts, token_counts
from accord.records import Ranking, Record
from accord.settings.preferences import KtoSettings
from tests.learn.offline.kto_rows import labelled_rows, log_probs_and_ratios
from tests.learn.toys.models import causal_lm
from tests.learn.toys.settings import REQUIRED
from tests.lm.models import VOCABULARY
from tests.lm.toys import random_groups, toy_tokenizer


def test_every_prompt_gets_a_response_to_a_different_prompt() -> None:
    groups = labelled_rows(*(True, False) * 5)
    groups[3] = replace(groups[3], prompt=groups[2].prompt)
    groups[4] = replace(groups[4], prompt=groups[2].prompt)
    prompts_of_response = {
        response: {g.prompt for g in groups if g.responses[0] == response}
        for (response,) in (g.responses for g in groups)
    }
    first_responses = set()
    for seed in range(20):
        settings = KtoSettings(**REQUIRED, seed=seed)
        mismatched = mismatched_groups(groups, settings)
        assert [g.prompt for g in mismatched] == [g.prompt for g in groups]
        for group in mismatched:
            assert group.prompt not in prompts_of_response[group.responses[0]]
        assert mismatched == mismatched_groups(groups, settings)
        first_responses.add(mismatched[0].responses)
    assert len(first_responses) > 3  # the seed decides


def test_the_seed_chooses_among_a_rows_responses() -> None:
    groups = [
        replace(g, labels=(True, False)) for g in random_groups([(3, (2, 5))] * 40, VOCABULARY)
    ]
    lengths = [len(g.responses[0]) for g in mismatched_groups(groups, KtoSettings(**REQUIRED))]
    assert 8 < lengths.count(2) < 32  # 40 fair draws: mean 20, deviation 3.2


def test_a_mismatched_response_is_cut_to_the_length_limit() -> None:
    groups = random_groups([(7, (2,)), (2, (9,))], VOCABULARY)
    mismatched = mismatched_groups(groups, KtoSettings(**REQUIRED, max_length=10))
    assert [len(g.responses[0]) for g in mismatched] == [3, 2]
    assert mismatched[0].responses[0] == groups[1].responses[0][:3]


def test_rows_of_a_single_prompt_have_no_mismatched_responses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    groups = [replace(g, prompt=(5, 6)) for g in labelled_rows(True, False, True)]
    with caplog.at_level(logging.WARNING):
        assert mismatched_groups(groups, KtoSettings(**REQUIRED)) == []
    assert "All rows have the same prompt" in caplog.text
    assert mismatched_groups(groups[:1], KtoSettings(**REQUIRED)) == []
    assert mismatched_groups([], KtoSettings(**REQUIRED)) == []


def test_rows_on_the_disk_have_the_same_mismatched_responses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))
    monkeypatch.setattr(encode_chunks, "CHUNK_RECORDS", 4)
    words = "a small boat sails over the calm lake and birds sing".split()
    records: list[Record] = [
        Ranking(f"{words[i // 3 % 7]} ", tuple(words[: i % 3 + 2]), tuple(range(i % 3 + 2)))
        for i in range(19)
    ]
    tokenizer = toy_tokenizer()
    encoding = Encoding(tokenizer, Limits(100), frozenset({2}), desirable_from=0.5)
    groups, _ = encoding.encode(records)
    stored, _ = encode_in_chunks(records, encoding, processes=1)
    assert list(stored) == groups
    labels = [label for group in groups for label in group.labels]
    assert count_labels(stored) == count_labels(groups) == (len(labels), sum(labels))
    digests = set()
    for seed in range(3):
        settings = KtoSettings(**REQUIRED, seed=seed, max_length=5)
        expected = mismatched_groups(groups, settings)
        mismatched = mismatched_groups(stored, settings)
        appended = append_mismatched(stored, mismatched)
        for rows, of_list in (
            (mismatched, expected),
            (appended, append_mismatched(groups, expected)),
        ):
            assert list(rows) == list(of_list)
            assert [*token_counts(rows)] == [group.num_tokens for group in of_list]
            assert [*target_counts(rows)] == [group.num_targets for group in of_list]
            assert rows[2:4] == list(of_list[2:4])
            assert rows[-1] == of_list[-1]
            digests.add(rows_digest(rows))
    assert len(digests) == 6


@pytest.mark.parametrize("has_loss_mask", [False, True])
def test_before_a_step_each_row_is_computed_as_if_alone(has_loss_mask: bool) -> None:
    # Of the row's response those tokens that are learned from, of the mismatched one all.
    groups = labelled_rows(True, False, True, False)
    if has_loss_mask:
        groups = [
            replace(g, loss_mask=(tuple(i % 2 == 0 for i in range(len(g.responses[0]))),))
            for g in groups
        ]
    settings = KtoSettings(**REQUIRED)
    mismatched = mismatched_groups(groups, settings)
    lm, reference = causal_lm(5), causal_lm(0)
    ref_logps, ratios = log_probs_and_ratios(groups, mismatched, lm, reference, [3, 0, 2], settings)
    for ratio, i in zip(ratios, (3, 0, 2), strict=True):
        with torch.no_grad():
            expected_logps = response_logps(reference, pack([groups[i]]))
            batch = pack([mismatched[i]])
            expected_ratio = (response_logps(lm, batch) - response_logps(reference, batch)).sum()
        torch.testing.assert_close(ref_logps[i], expected_logps, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ratio, expected_ratio, rtol=1e-4, atol=1e-5)


@dataclass
class ThreadPair:
    """Two processes that gather each other's values, as threads."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))
    values: dict[int, Mapping[Any, Any]] = field(default_factory=dict)

    def process(self, rank: int) -> Any:
        def all_gather(value: Mapping[Any, Any]) -> list[Any]:
            self.values[rank] = dict(value)
            self.barrier.wait(timeout=30)
            return [self.values[0], self.values[1]]

        members = {"rank": rank, "world_size": 2, "all_gather": staticmethod(all_gather)}
        return type("ThreadProcess", (), members)()


def test_processes_share_the_passes_and_all_get_all_ratios() -> None:
    groups = labelled_rows(*(True, False, False) * 3)
    settings = KtoSettings(**REQUIRED, per_device_train_batch_size=2)
    rows, lm, reference = [8, 1, 1, 5, 0, 3], causal_lm(5), causal_lm(0)
    mismatched = mismatched_groups(groups, settings)
    _, expected = log_probs_and_ratios(groups, mismatched, lm, reference, rows, settings)
    assert expected[1] == expected[2]
    pair, ratios = ThreadPair(), dict[int, Tensor]()

    def compute(rank: int) -> None:
        _, ratios[rank] = log_probs_and_ratios(
            groups, mismatched, lm, reference, rows, settings, pair.process(rank)
        )

    threads = [threading.Thread(target=compute, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    torch.testing.assert_close(ratios[0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ratios[1], ratios[0], rtol=0, atol=0)
    assert set(pair.values[0]) | set(pair.values[1]) == set(rows)
    assert not set(pair.values[0]) & set(pair.values[1])
