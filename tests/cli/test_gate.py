"""`--fail-on`: exit code 3, and no gate that stays open by a slip of the pen."""

import pytest
import typer

from accord.cli.gate import gate, require_known
from accord.errors import RequestError
from accord.measure.audits.audit import Threshold, make_audit
from accord.measure.statistics import Interval


def _audit(name: str, value: Interval):
    return make_audit(
        name,
        group="examples",
        question="Is it so?",
        finding="It is.",
        value=value,
        threshold=Threshold(0.05, 0.10, "an example"),
        count=50,
    )


AUDITS = [_audit("calm", Interval(0.01, 0.0, 0.02)), _audit("length", Interval(0.3, 0.2, 0.4))]


@pytest.mark.parametrize("fail_on", [["fail"], ["length"], ["calm", "warn", "length"]])
def test_a_failing_audit_ends_with_code_3(
    fail_on: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        gate(AUDITS, fail_on)
    assert ended.value.exit_code == 3
    assert capsys.readouterr().err == "--fail-on: length (fail)\n"


@pytest.mark.parametrize("fail_on", [[], ["warn"], ["undecided"], ["calm"]])
def test_others_pass(fail_on: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    gate(AUDITS, fail_on)  # raises nothing
    assert capsys.readouterr().err == ""


def test_an_audit_that_was_not_made_has_not_passed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        gate(AUDITS, ["calm", "jailbreaks"])
    assert "jailbreaks (not measured)" in capsys.readouterr().err


def test_names_are_split_at_commas_and_checked() -> None:
    assert require_known(["fail, length", "calm"], ["calm", "length"]) == ["fail", "length", "calm"]
    assert require_known(None, []) == []
    for name in ("lenght", "pass"):
        with pytest.raises(RequestError, match=f"--fail-on {name} is unknown"):
            require_known([name], ["calm", "length"])
