"""YAML as accord reads it: plain values, the line of each key, and nothing silently dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from accord.errors import SettingsError
from accord.settings.reading.yaml_lines import load_yaml, parse_value, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # YAML 1.1 requires a dot and a signed exponent in a float, and so reads these as text.
        ("1e-5", 1e-5),
        ("1E5", 100_000.0),
        ("-3e2", -300.0),
        ("1.5e+3", 1500.0),
        (".5", 0.5),
        ("3", 3),
        ("10_000", 10_000),
        ("0x1f", 31),
        ("off", False),
        ("yes", True),
        ("~", None),
        ('"1e-5"', "1e-5"),
        # Traps of YAML 1.1: a sexagesimal number, a date, an octal number.
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("007", "007"),
        ("1.2.3", "1.2.3"),
        ("~/models/a", "~/models/a"),
        ("{r: 8}", {"r": 8}),
        ("[1, a]", [1, "a"]),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    parsed = parse_value(text, source="test")
    assert parsed == value
    assert type(parsed) is type(value)


def test_each_key_has_its_line() -> None:
    values = read_yaml("a: 1\n\nb:\n  c: 2\n  d:\n    - e\n    - {f: 3}\n", source="x.yaml")
    assert values.values == {"a": 1, "b": {"c": 2, "d": ["e", {"f": 3}]}}
    assert str(values.source_of(("a",))) == "x.yaml:1"
    assert str(values.source_of(("b", "c"))) == "x.yaml:4"
    assert str(values.source_of(("b", "d", 1))) == "x.yaml:7"
    assert str(values.source_of(("b", "d", 1, "f"))) == "x.yaml:7"
    # A key that was never written has the source of the table that would hold it.
    assert str(values.source_of(("b", "nowhere"))) == "x.yaml:3"


def test_merge_keys_bring_values_and_lines() -> None:
    text = "base: &b\n  p: 1\n  q: 2\nuse:\n  <<: *b\n  q: 3\n"
    values = read_yaml(text, source="x.yaml")
    assert values.values["use"] == {"p": 1, "q": 3}
    assert str(values.source_of(("use", "p"))) == "x.yaml:2"
    assert str(values.source_of(("use", "q"))) == "x.yaml:6"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3 gives the key 'a' a second time (first on line 1)"),
        ("a:\n  b: 1\n  b: 2", "x.yaml:3 gives the key 'b' a second time (first on line 2)"),
        ("a: 1\nb: [1", "x.yaml:2 is not YAML"),
        ("a:\n\tb: 1", "Indent with spaces"),
        ("on: 3", "x.yaml:1 has the key 'on', which YAML reads as True. Put it in quotes."),
        ("- a\n- b", "must hold keys and values such as `seed: 1`, not a list"),
        ("a: !!python/object:os.system 1", "Only plain text and numbers are read"),
        ("a: &x [*x]", "an anchor that contains itself"),
        ("a: 1\n---\nb: 2", "Keep one document a file"),
        ("? [a]\n: b", "has a list or table as a key"),
        ("a: " + "9" * 5000, "x.yaml:1 holds a number that can't be read"),
    ],
)
def test_text_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_yaml(text, source="x.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_anchors_that_multiply_are_refused() -> None:
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(SettingsError, match="expands to too many values"):
        read_yaml("\n".join(lines), source="x.yaml")


def test_a_comment_on_the_command_line_is_not_dropped() -> None:
    with pytest.raises(SettingsError, match="takes '#2' for a comment"):
        parse_value("run #2", source="'title=run #2' on the command line")
    assert parse_value("'run #2'", source="here") == "run #2"
    assert parse_value("run#2", source="here") == "run#2"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no settings file .*none\.yaml"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match="is a folder"):
        load_yaml(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: 1\ntitle: Bär".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"latin\.yaml:2 holds a byte that is not UTF-8"):
        load_yaml(latin)


def test_an_empty_file_holds_no_settings(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing yet\n")
    assert load_yaml(path).values == {}


def test_half_a_character_is_refused() -> None:
    for text in ('seed: "\\ud800"', '"\\udfff": 1', 'a: [{b: "\\ud800 x"}]'):
        with pytest.raises(SettingsError, match=r"f\.yaml holds half a character"):
            read_yaml(text, source="f.yaml")
