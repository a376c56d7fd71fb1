"""results.json has the types that docs/results.md gives, and the page is as generated."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from accord.measure.audits.document import AuditDocument
from accord.measure.measures import results_measures
from accord.report.page import write_report
from accord.report.schema import Results, measure_meaning, results_page
from accord.runs import write_json_atomic
from accord.settings.stages import ReportSettings
from tests.report.test_audits_on_page import FAILED, _audit

PAGE = Path(__file__).parents[2] / "docs/results.md"


def test_the_page_is_as_generated() -> None:
    assert PAGE.read_text(encoding="utf-8") == results_page()


@pytest.fixture(scope="module")
def results(finished_run: ReportSettings, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = finished_run.model_copy(update={"output_dir": str(tmp_path_factory.mktemp("results"))})
    path = Path(run.run) / "audit.json"
    document = AuditDocument("audit", "ppo", (_audit("over_refusal", FAILED),))
    write_json_atomic(path, document.to_json())
    try:
        write_report(run)
    finally:
        path.unlink()
    return json.loads((Path(run.output_dir) / "results.json").read_text())


def test_a_written_file_has_the_documented_types_and_keys(results: dict[str, Any]) -> None:
    TypeAdapter(Results).validate_python(results, strict=True, extra="forbid")
    for key in ("run", "verdict", "audits"):
        with pytest.raises(ValidationError):
            TypeAdapter(Results).validate_python({**results, key: None}, strict=True)


def test_every_key_of_a_model_is_on_the_page(results: dict[str, Any]) -> None:
    page = results_page()
    for key in results["models"][0]:
        assert f"`{key}`" in page


def test_every_measure_has_a_meaning() -> None:
    assert [m.key for m in results_measures() if not measure_meaning(m)] == []
