"""From text to tokens: every loss is counted."""

from __future__ import annotations

from copy import deepcopy

import pytest

from accord.errors import DataError
from accord.lm.packing import pack
from accord.lm.tokens.encode import Limits, encode, encode_prompts
from accord.records import (
    Comparison,
    Demonstration,
    Message,
    PromptOnly,
    Ranking,
    Rating,
    Source,
    Text,
)
from tests.lm.toys import toy_tokenizer

TOKENIZER = toy_tokenizer()
PAD, BOS, EOS = 0, 1, 2  # as scratch.train_tokenizer numbers its special tokens
EOS_IDS = frozenset({EOS})
NO_LIMIT = Limits(max_length=100)  # above any row here
CHAT = (Message("user", "the cat"),)


def tokenized(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def test_an_empty_response_is_dropped_and_counted_with_its_source() -> None:
    source = Source("data/rows.jsonl", 7)  # a line that people read has no folder
    records = [Comparison(CHAT, "sat", "  ", source=source), Demonstration(CHAT, "sat")]
    groups, report = encode(records, TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS)
    assert len(groups) == 1
    assert report.dropped == {"a response is empty": [source]}
    assert "1 dropped: a response is empty (rows.jsonl:7)" in report.summary()
    assert report.to_json()["dropped"] == {"a response is empty": 1}


LONG = "the cat sat on the mat and looked at the door"


def test_a_long_prompt_is_dropped_or_truncated_at_its_start() -> None:
    short, long = Demonstration("the", " cat"), Demonstration(LONG, " cat", Source("f", 2))
    limits = Limits(max_length=50, max_prompt_length=4)
    groups, report = encode([short, long], TOKENIZER, limits, eos_ids=EOS_IDS)
    assert [g.prompt for g in groups] == [tokenized("the")]
    assert report.dropped == {"the prompt has more than 4 tokens": [Source("f", 2)]}

    keep_end = Limits(max_length=50, max_prompt_length=4, long_prompts="keep_end")
    groups, report = encode([short, long], TOKENIZER, keep_end, eos_ids=EOS_IDS)
    assert groups[1].prompt == tokenized(LONG)[-4:]
    assert report.prompts_cut == 1
    assert "1 prompts cut at their start" in report.summary()


def test_a_prompt_always_leaves_room_for_its_response() -> None:
    whole = len(tokenized(LONG + " cat")) + 1
    keep_end = Limits(max_length=whole - 3, long_prompts="keep_end")
    (group,), report = encode([Demonstration(LONG, " cat")], TOKENIZER, keep_end, eos_ids=EOS_IDS)
    assert group.responses == ((*tokenized(" cat"), EOS),)
    assert group.prompt == tokenized(LONG)[3:]
    assert report.prompts_cut == 1
    # A response that may be cut leaves the prompt as long as it can be.
    cut = Limits(len(tokenized(LONG)), long_prompts="keep_end", long_responses="cut")
    (group,), _ = encode([Demonstration(LONG, " cat")], TOKENIZER, cut, eos_ids=EOS_IDS)
    assert len(group.prompt) == len(tokenized(LONG)) - 1
    assert len(group.responses[0]) == 1


def test_a_long_response_is_cut_and_loses_its_eos_or_is_dropped() -> None:
    prompt, n = tokenized("the"), 3
    cut = Limits(max_length=len(prompt) + n, long_responses="cut")
    rows = [Demonstration("the", " " + LONG)]
    (group,), report = encode(rows, TOKENIZER, cut, eos_ids=EOS_IDS)
    assert group.responses == (tokenized(" " + LONG)[:n],)  # no EOS is added
    assert (report.responses_cut, report.eos_added) == (1, 0)
    assert "1 responses cut short (they lost their EOS)" in report.summary()
    assert report.eos_lost == 1

    drop = Limits(max_length=len(prompt) + n)  # the default: a cut response never ends
    both = [Demonstration("the", LONG, Source("f", 3)), Demonstration("the", " a")]
    groups, report = encode(both, TOKENIZER, drop, eos_ids=EOS_IDS)
    assert len(groups) == 1
    assert report.eos_lost == 0
    assert (
        f"1 dropped: prompt and response have more than {3 + len(prompt)} tokens, so the response "
        f"would lose its end (long_responses=cut learns its beginning) (f:3)"
    ) in report.summary()


def test_a_response_of_exactly_the_limit_has_its_eos() -> None:
    limits = Limits(max_length=len(tokenized("the " + LONG)) + 1)
    (group,), report = encode(
        [Demonstration("the", " " + LONG)], TOKENIZER, limits, eos_ids=EOS_IDS
    )
    assert group.responses[0][-1] == EOS
    assert report.responses_cut == 0


def test_responses_equal_after_the_cut_are_dropped() -> None:
    limits = Limits(max_length=len(tokenized("the")) + 3, long_responses="cut")
    records = [Comparison("the", LONG + " yes", LONG + " no"), Demonstration("the", " a")]
    groups, report = encode(records, TOKENIZER, limits, eos_ids=EOS_IDS)
    assert len(groups) == 1
    assert list(report.dropped) == ["its responses are equal after the cut"]
    assert report.responses_cut == 0  # a dropped row's cuts are not counted
    same = [Comparison("the", "a", "a"), Demonstration("the", "a")]
    _, report = encode(same, TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS)
    assert list(report.dropped) == ["its responses are equal"]


def test_a_ranking_of_ties_is_dropped_and_other_ranks_are_unchanged() -> None:
    tied = Ranking("the", (" cat", " dog", " sea"), (0, 0, 0))
    mixed = Ranking("the", (" cat", " dog", " sea"), (1, 0, 1))
    (group,), report = encode([tied, mixed], TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS)
    assert group.ranks == (1, 0, 1)
    assert list(report.dropped) == ["all its responses are tied"]


def test_the_votes_on_a_ranking_make_its_label_unless_each_response_has_one() -> None:
    texts, votes = (" cat", " dog", " sea"), ((0, 1, 2), (2, 0, 1), (1, 2, 0))
    cycle = Ranking("the", texts, (0, 0, 0), votes=votes)
    (group,), _ = encode([cycle], TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS)
    assert (group.ranks, group.votes) == ((0, 0, 0), votes)
    voted = Ranking("the", texts, (0, 1, 2), votes=votes)
    limits = {"eos_ids": EOS_IDS, "desirable_from": 0.5}
    (group,), report = encode([cycle, voted], TOKENIZER, NO_LIMIT, **limits)  # type: ignore[arg-type]
    assert (group.labels, group.votes) == ((True, False), ())
    assert list(report.dropped) == ["all its responses are tied"]


def test_a_demonstration_that_was_cut_when_it_was_sampled_has_no_end() -> None:
    record = Demonstration("the", " cat", finished=False)
    (group,), report = encode([record], TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS)
    assert group.responses == (tokenized(" cat"),)
    assert (report.unfinished, report.eos_added) == (1, 0)


def test_labels_of_ratings_pairs_and_rankings() -> None:
    records = [
        Rating("the", " cat", 4.0, Source("f", 1)),
        Rating("the", " cat", 2.9, Source("f", 2), finished=False),
        Comparison("the", " cat", " dog"),
        # Better than two and worse than none, tied in the middle (one each), worse than two.
        Ranking("the", (" cat", " dog", " sea", " mat"), (0, 1, 1, 2)),
        # Two tied as best beat one each.
        Ranking("the", (" cat", " dog", " sea"), (0, 1, 0)),
        Ranking("the", (" cat", " dog"), (0, 0), Source("f", 6)),
    ]
    groups, report = encode(records, TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS, desirable_from=3.0)
    assert [g.labels for g in groups] == [
        (True,),
        (False,),
        (True, False),
        (True, False),
        (True, False, True),
    ]
    assert groups[0].responses == ((*tokenized(" cat"), EOS),)
    assert groups[1].responses == (tokenized(" cat"),)  # it was cut when it was sampled
    assert groups[3].responses == ((*tokenized(" cat"), EOS), (*tokenized(" mat"), EOS))
    assert groups[3].ranks == (0, 2)
    assert (report.desirable, report.undesirable, report.neither) == (5, 4, 2)
    assert report.dropped == {"all its responses are tied": [Source("f", 6)]}
    assert "5 responses desirable, 4 not" in report.summary()
    assert "2 responses in the middle of their ranking left out" in report.summary()
    unlabelled, report = encode(records, TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS)
    assert all(g.labels == () for g in unlabelled)
    assert len(unlabelled[3].responses) == 4


def test_a_comparison_has_its_order_margin_and_source() -> None:
    record = Comparison("the", " cat", " dog", margin=0.5, source=Source("f", 3))
    (group,), _ = encode([record], TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS)
    assert group.responses == ((*tokenized(" cat"), EOS), (*tokenized(" dog"), EOS))
    assert (group.ranks, group.margin, group.source) == ((0, 1), 0.5, Source("f", 3))


@pytest.mark.parametrize("length", [2, 3, 7, 100])
def test_text_in_pieces_loses_no_token(length: int) -> None:
    groups, report = encode([Text(LONG)], TOKENIZER, Limits(length), eos_ids=EOS_IDS)
    learned = [t for g in groups for t in g.responses[0]]
    assert learned == [*tokenized(LONG), EOS]
    assert all(g.prompt == (BOS,) and g.num_tokens <= length for g in groups)
    assert report.groups == len(groups)
    assert report.used == 1


def test_used_records_and_their_pieces_are_counted_separately() -> None:
    texts = [Text(LONG), Text(""), Text(LONG), Demonstration("the", " cat")]
    n = len(tokenized(LONG)) + 1  # with EOS, in pieces of 6
    groups, report = encode(texts, TOKENIZER, Limits(7), eos_ids=EOS_IDS)
    assert len(groups) == report.groups == 2 * -(-n // 6) + 1
    assert f"3 of 4 rows used, in {len(groups)} pieces, " in report.summary()
    assert report.to_json()["used"] == 3
    assert report.to_json()["groups"] == len(groups)
    _, report = encode([Demonstration("the", " cat")], TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS)
    assert report.summary().startswith("1 of 1 rows used, 4 tokens")


def test_all_rows_dropped_is_an_error_with_reasons() -> None:
    records = [Demonstration("the", ""), Demonstration("the", " "), Demonstration(LONG, "a")]
    limits = Limits(max_length=20, max_prompt_length=2)
    with pytest.raises(DataError) as error:
        encode(records, TOKENIZER, limits, eos_ids=EOS_IDS)
    message = str(error.value)
    assert "None of the 3 rows can be used: 2 × a response is empty; 1 × the prompt" in message
    assert "max_length=20 and max_prompt_length=2" in message
    with pytest.raises(DataError, match="there are no rows"):
        encode([], TOKENIZER, limits, eos_ids=EOS_IDS)


def test_prompts_are_returned_with_their_records() -> None:
    records = [PromptOnly("the", Source("f", 1)), PromptOnly(LONG, Source("f", 2))]
    limits = Limits(max_length=50, max_prompt_length=4)
    ids, used, report = encode_prompts(records, TOKENIZER, limits)
    assert (ids, used) == ([tokenized("the")], records[:1])
    assert report.dropped == {"the prompt has more than 4 tokens": [Source("f", 2)]}
    with pytest.raises(DataError, match="None of the 1 prompts can be used"):
        encode_prompts(records[1:], TOKENIZER, limits)


def test_prompts_alone_have_nothing_to_learn_from() -> None:
    with pytest.raises(DataError, match="f:1: a PromptOnly has no response to learn from"):
        encode([PromptOnly("the", Source("f", 1))], TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS)


def test_equal_responses_of_a_ranking_form_no_pair() -> None:
    record = Ranking("a", ("b c d", "b c e", "f"), (0, 1, 2))
    whole, report = encode([record], TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS)
    assert whole[0].preference_pairs == [(0, 1), (0, 2), (1, 2)]
    assert report.equal_pairs == 0
    both = zip(*whole[0].responses[:2], strict=False)
    shared = next(i for i, (a, b) in enumerate(both) if a != b)
    max_length = len(whole[0].prompt) + shared
    limits = Limits(max_length, None, long_responses="cut")
    cut, report = encode([record], TOKENIZER, limits, eos_ids=EOS_IDS)
    assert cut[0].preference_pairs == [(0, 2), (1, 2)]
    assert report.equal_pairs == 1
    assert "1 pairs of equal responses in rankings left out" in report.summary()
    assert pack(cut).pairs.weights.tolist() == [0.5, 0.5]


def test_an_unfinished_response_loses_no_eos() -> None:
    unfinished = Rating("a", "b c d e f", 1.0, finished=False)
    finished = Rating("a", "b c d e f", 1.0)
    before = len(encode([unfinished], TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS)[0][0].prompt)
    limits = Limits(before + 2, None, long_responses="cut")
    _, report = encode([unfinished, finished], TOKENIZER, limits, eos_ids=EOS_IDS)
    assert (report.responses_cut, report.eos_lost) == (2, 1)
    assert "2 responses cut short (1 of them lost their EOS)" in report.summary()


def test_plain_prompts_beside_a_chat_template_are_remarked_on() -> None:
    rows = [Demonstration("the cat", " sat"), Demonstration(CHAT, "sat"), Text("the cat sat")]
    _, report = encode(rows, TOKENIZER, NO_LIMIT, eos_ids=EOS_IDS)
    assert report.plain_prompts == report.to_json()["plain_prompts"] == 1
    assert "1 prompts are plain text, which is continued as it stands" in report.summary()
    prompts = [PromptOnly("the cat"), PromptOnly("the dog"), PromptOnly(CHAT)]
    assert encode_prompts(prompts, TOKENIZER, NO_LIMIT)[2].plain_prompts == 2
    base = deepcopy(TOKENIZER)  # all tests share it
    base.chat_template = None
    assert encode_prompts(prompts[:2], base, NO_LIMIT)[2].plain_prompts == 0
    assert encode(rows[:1], base, NO_LIMIT, eos_ids=EOS_IDS)[1].plain_prompts == 0
