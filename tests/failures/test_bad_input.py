"""User errors, one test each: the exit code, and a message that says what to do.

Errors that need no model are tested beside the code: a port in use in tests/cli/test_serve.py, an
unknown `$NAME` in tests/settings/test_recipe.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from accord.cli.entry import run
from tests.failures.commands import GOOD, SFT, Fails, write

# Data


def test_a_missing_file(fails: Fails) -> None:
    write([GOOD], "row.jsonl")
    assert fails(*SFT).startswith("rows.jsonl does not exist. Did you mean row.jsonl?")


def test_broken_json_at_a_line(fails: Fails) -> None:
    write(['{"prompt": "a", "completion": '])
    # The value is missing at the end of the line, after its 30 characters.
    message = fails(*SFT)
    assert message.startswith(
        "rows.jsonl has 1 rows, none of which can be used as sft: 1 not valid JSON (rows.jsonl:1) "
        "(the first: Expecting value at character 3"
    )
    assert message.endswith("Correct the rows, or give another data set.")


def test_wrong_columns(fails: Fails) -> None:
    write([{"prompt": "a", "score": 1}])
    message = fails(*SFT)
    assert message.startswith("rows.jsonl has the columns prompt, score; sft need prompt, ")


def test_an_empty_data_set(fails: Fails) -> None:
    write([])
    assert fails(*SFT) == "rows.jsonl holds no rows. Give a data set with at least one."


def test_no_row_that_can_be_read(fails: Fails) -> None:
    write([{"prompt": "a", "completion": " "}, {"prompt": "", "completion": "c"}])
    message = fails(*SFT)
    assert message.startswith("rows.jsonl has 2 rows, none of which can be used as sft: ")
    assert "1 an empty response (rows.jsonl:1); 1 an empty prompt (rows.jsonl:2)" in message


def test_no_row_within_the_limits(fails: Fails) -> None:
    write([{"prompt": "word " * 100, "completion": "b"}] * 3)
    message = fails(*SFT, "max_length=16")
    assert message.startswith(
        "None of the 3 rows can be used: 3 × the prompt has more than 15 tokens. "
        "The limits are max_length=16"
    )


def test_conversations_without_a_chat_template(fails: Fails, workdir: Path) -> None:
    (workdir / "m/chat_template.jinja").unlink()
    write([{"prompt": [{"role": "user", "content": "hi"}], "completion": "b"}])
    message = fails(*SFT)
    assert message.startswith("The rows are conversations, but the tokenizer has no chat template.")
    assert "plain text" in message
    write([GOOD])  # plain text needs no chat template
    assert run([*SFT[:4], "output_dir=plain", "max_steps=1"]) == 0


# Settings


def test_an_unknown_key(fails: Fails) -> None:
    assert fails(*SFT, "learning_rat=1").endswith("Did you mean `learning_rate`?")


def test_a_key_of_another_tool(fails: Fails) -> None:
    assert "Axolotl's `num_epochs` is `num_train_epochs` here." in fails(*SFT, "num_epochs=3")


def test_a_value_of_the_wrong_type(fails: Fails) -> None:
    message = fails(*SFT, "learning_rate=high")
    assert "`learning_rate` must be a number greater than 0, not 'high'" in message


@pytest.mark.parametrize("method", ["grop", "dp0", ""])
def test_an_unknown_method(fails: Fails, method: str) -> None:
    message = fails("train", method, *SFT[2:])
    assert message.startswith(f"There is no method {method!r}. ")
    assert "`sft`, `reward`, `dpo`" in message


def test_no_room_for_a_prompt(fails: Fails) -> None:
    settings = ["reward_model=m", "max_length=20", "max_new_tokens=20"]
    assert fails("train", "ppo", *SFT[2:5], *settings) == (
        "max_new_tokens=20 leaves no room for a prompt within max_length=20. "
        "Raise max_length, or lower max_new_tokens."
    )


def test_a_file_where_the_output_folder_must_be(fails: Fails) -> None:
    write([GOOD], "out")
    message = fails(*SFT, code=1)
    assert message.startswith(
        "Could not write out/.accord-lock: a part of the path is a file, not "
    )


# Models


def test_a_missing_model(fails: Fails) -> None:
    write([GOOD])
    message = fails(*SFT[:2], "model=./mm", *SFT[3:])
    assert message == "No model folder './mm'. Did you mean 'm'? Check the path of `model`."


def test_a_model_without_a_tokenizer(fails: Fails, workdir: Path) -> None:
    write([GOOD])
    for file in [*(workdir / "m").glob("tokenizer*")]:
        file.unlink()
    assert fails(*SFT).startswith("m holds a model but no tokenizer (none of tokenizer.json, ")


def test_weights_in_pickle_are_not_opened(fails: Fails, workdir: Path) -> None:
    write([GOOD])
    (workdir / "m/model.safetensors").unlink()
    # Loaded as pickle, this would make the folder `opened`.
    (workdir / "m/pytorch_model.bin").write_bytes(b"cos\nmkdir\n(S'opened'\ntR.")
    message = fails(*SFT)
    assert message.startswith("m has no safetensors weights (only pytorch_model.bin, which is ")
    assert "safe_serialization=True" in message
    assert not (workdir / "opened").exists()


# Responses


def write_answers(name: str, prompts: list[str]) -> None:
    write([{"prompt": p, "model": name, "responses": [{"text": "x"}] * 2} for p in prompts], name)


def test_best_of_n_with_too_few_responses(fails: Fails) -> None:
    write_answers("a.jsonl", ["p"])
    write(["stages:", "- {stage: select, responses: a.jsonl, n: 4, model_name: b}"], "r.yaml")
    assert fails("run", "r.yaml") == (
        "a.jsonl has 2 responses to a prompt, too few for best-of-4. "
        "Sample with num_responses=4 or more."
    )


def test_an_arena_without_a_shared_prompt(fails: Fails) -> None:
    write_answers("a.jsonl", ["p", "q"])
    write_answers("b.jsonl", ["r"])
    contestants = "[{name: a, responses: a.jsonl}, {name: b, responses: b.jsonl}]"
    message = fails("arena", f"contestants={contestants}", "output_dir=out")
    assert message.startswith("The contestants have answered no prompt in common.")
