"""Marks on settings: which of them identify the work, and which name its inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic.fields import FieldInfo

from accord.errors import SettingsError
from accord.settings.base import (
    InputPath,
    MayGrow,
    NotIdentity,
    PathByName,
    Settings,
    SettingsTable,
    has_mark,
)
from accord.settings.groups import GrpoSettings
from accord.settings.identity import (
    growing_keys,
    identity_settings,
    identity_values,
    input_paths,
)
from accord.settings.iterate import IterateSettings
from accord.settings.preferences import DpoSettings
from accord.settings.reading.allowed import tables_of
from accord.settings.reading.load import build
from accord.settings.stage_kinds import METHOD_SETTINGS, STAGE_SETTINGS
from accord.settings.stages import CompareSettings, EvaluateSettings
from accord.settings.training import TrainSettings

TRAIN = {"model": "m", "dataset": "d", "output_dir": "o"}
# Texts that are names, though their descriptions say where the default name comes from.
NAMES = ("name", "model_name")


def all_classes() -> list[type[Settings]]:
    """Every class of settings of a stage or method, and of the tables in them."""
    classes: dict[type[Settings], None] = {}
    pending = [c for c in STAGE_SETTINGS.values() if not isinstance(c, dict)] + [
        *METHOD_SETTINGS.values()
    ]
    while pending:
        settings_class = pending.pop()
        if settings_class not in classes:
            classes[settings_class] = None
            for field in settings_class.model_fields.values():
                pending += tables_of(field.annotation)
    return list(classes)


CLASSES = all_classes()


def is_text(annotation: Any) -> bool:
    return annotation is str or any(is_text(inner) for inner in get_args(annotation))


def path_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Settings whose name or description says that they hold a path."""
    path_key = re.compile(r"(^|_)(model|dataset|file|dir)$")
    path_words = re.compile(r"\b(file|files|folder|folders|store|jsonl)\b")
    for settings_class in CLASSES:
        for key, field in settings_class.model_fields.items():
            if key in NAMES or not is_text(field.annotation):
                continue
            if path_key.search(key) or path_words.search(field.description or ""):
                yield f"{settings_class.__name__}.{key}", field


@pytest.mark.parametrize(("name", "field"), list(path_fields()))
def test_a_setting_with_a_path_is_marked_as_input_or_output(name: str, field: FieldInfo) -> None:
    marks = [mark for mark in (InputPath, PathByName, NotIdentity) if has_mark(field, mark)]
    assert len(marks) == 1, f"{name} needs one of InputPath, PathByName and NotIdentity"


@pytest.mark.parametrize("settings_class", CLASSES)
def test_a_field_that_is_declared_again_repeats_its_marks(settings_class: type[Settings]) -> None:
    for base in settings_class.__mro__[1:]:
        if not issubclass(base, Settings):
            continue
        for key, field in base.model_fields.items():
            for mark in (InputPath, PathByName, NotIdentity, MayGrow):
                redeclared = settings_class.model_fields[key]
                assert has_mark(redeclared, mark) == has_mark(field, mark), (
                    f"{settings_class.__name__}.{key} has other marks than {base.__name__}.{key}"
                )


def test_settings_of_how_a_run_is_carried_out_are_not_part_of_the_identity() -> None:
    settings = TrainSettings(**TRAIN)
    other = settings.model_copy(
        update={
            "output_dir": "p",
            "save_steps": 3,
            "save_total_limit": 2,
            "logging_steps": 9,
            "resume": False,
            "device": "cpu",
            "max_tokens_per_forward": 64,
        }
    )
    assert identity_settings(other) == identity_settings(settings)
    faster = settings.model_copy(update={"learning_rate": 1.0})
    assert identity_settings(faster) != identity_settings(settings)


def test_a_loss_on_the_whole_pass_depends_on_its_size() -> None:
    for loss_type, depends in (("sigmoid", False), ("aot", True), (["sft", "bco_pair"], True)):
        whole = DpoSettings(**TRAIN, loss_type=loss_type)
        split = whole.model_copy(update={"max_tokens_per_forward": 64})
        assert (identity_settings(whole) != identity_settings(split)) == depends
        assert "max_tokens_per_forward" not in identity_settings(whole)


def test_how_a_server_is_reached_is_not_part_of_the_identity() -> None:
    values = {**TRAIN, "lora": {}, "reward_model": "r"}
    sampler = {"kind": "vllm", "url": "http://h:1", "timeout": 3.0}
    settings = build(GrpoSettings, {**values, "sampler": sampler}, where="x")
    assert identity_settings(settings)["sampler"] == {"kind": "vllm", "model": None}

    rewards: list[dict[str, Any]] = [
        {"kind": "judge", "base_url": "http://h/v1", "model": "m", "timeout": 1.0, "max_calls": 3},
        {"kind": "length", "at_most": 9},
    ]
    settings = build(GrpoSettings, {**TRAIN, "rewards": rewards}, where="x")
    judge, length = identity_settings(settings)["rewards"]
    assert judge["base_url"] == "http://h/v1"
    assert not {"timeout", "retries", "max_calls", "api_key_env"} & set(judge)
    assert length["at_most"] == 9


def test_a_judge_without_an_endpoint_has_the_identity_that_it_always_had() -> None:
    settings = build(CompareSettings, {"responses": ["r"], "output_dir": "o"}, where="x")
    judge = identity_settings(settings)["judge"]
    assert (judge["timeout"], judge["max_concurrent"]) == (120.0, 8)


def test_the_training_table_of_rounds_is_reduced_like_training_settings() -> None:
    train = {"method": "dpo", "beta": 0.2, "save_steps": 4, "eval_dataset": "e", "bf16": True}
    settings = build(IterateSettings, {**TRAIN, "train": train}, where="x")
    expected = {"method": "dpo", "beta": 0.2, "eval_dataset": "e", "bf16": True}
    assert identity_settings(settings)["train"] == expected
    assert "e" in input_paths(settings)
    assert growing_keys(settings) == ["rounds"]
    assert "rounds" not in identity_settings(settings)


def test_plain_values_of_an_earlier_version_compare_with_settings() -> None:
    settings = EvaluateSettings(contestants=[], output_dir="o", reference="m")
    saved = {**settings.model_dump(mode="json"), "output_dir": "p", "seed": 9}
    assert identity_values(saved, EvaluateSettings) == identity_settings(settings)
    # A key that this version does not know is a difference.
    assert identity_values({**saved, "new": 1}, EvaluateSettings) != identity_settings(settings)


def test_a_setting_that_was_removed_is_refused_with_its_reason() -> None:
    values = {"contestants": [], "output_dir": "o", "reference": "m", "seed": 1}
    with pytest.raises(SettingsError) as caught:
        build(EvaluateSettings, values, where="evaluate")
    assert str(caught.value) == (
        "evaluate: `seed` is not a key (evaluate). It had no effect and is gone: leave it out."
    )


def test_every_mark_of_a_table_names_classes_of_settings() -> None:
    marks = [
        mark
        for settings_class in CLASSES
        for field in settings_class.model_fields.values()
        for mark in field.metadata
        if isinstance(mark, SettingsTable)
    ]
    assert marks
    assert all(issubclass(c, Settings) for mark in marks for c in mark.classes.values())


def test_input_paths_in_tables_and_lists() -> None:
    rewards: list[dict[str, Any]] = [
        {"kind": "reward_model", "model": ["r", "s"]},
        {"kind": "python", "function": "score.py:f"},
        {"kind": "python", "name": "g", "function": "json.decoder:JSONDecoder"},
        {"kind": "python", "name": "h", "function": "no_such_module:f"},
    ]
    settings = build(GrpoSettings, {**TRAIN, "rewards": rewards}, where="x")
    model, dataset, *sources = input_paths(settings)
    assert (model, dataset) == ("m", "d")
    assert sources[:3] == ["r", "s", "score.py"]
    assert sources[3].endswith("json/decoder.py")
    assert sources[4] == "no_such_module"


OFF_BY_DEFAULT = [
    ("ppo", "overlong_buffer"),
    ("rloo", "overlong_buffer"),
    ("grpo", "dynamic_sampling_max_rounds"),
]


@pytest.mark.parametrize(("method", "key"), OFF_BY_DEFAULT)
def test_an_option_that_is_off_leaves_the_identity_of_earlier_versions(
    method: str, key: str
) -> None:
    settings_class = METHOD_SETTINGS[method]
    assert key not in identity_settings(settings_class(**TRAIN, reward_model="r"))
    assert identity_settings(settings_class(**TRAIN, reward_model="r", **{key: 3}))[key] == 3
