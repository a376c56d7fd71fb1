"""Uploading a model: what is sent, under which conditions, and what each error says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import yaml
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from accord.errors import ModelError, RequestError, WorkError
from accord.lm.hub import create_repository, upload_model
from accord.lm.load import load_causal, save_model
from tests.lm.toys import save_toy, with_adapters

CARD = "---\nlibrary_name: transformers\nbase_model: {base}\ntags:\n- accord\n---\n\n# A model\n"


class FakeHub:
    """The hub's API, with one repository that may exist before."""

    def __init__(self) -> None:
        self.repositories: dict[str, bool] = {}
        self.files: dict[str, Any] = {}
        self.error: Exception | None = None

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
        if self.error:
            raise self.error
        assert exist_ok
        self.repositories.setdefault(name, private)

    def model_info(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.repositories[name])

    def create_commit(self, name: str, *, operations: Any, commit_message: str) -> Any:
        assert name in self.repositories
        for operation in operations:
            content = operation.path_or_fileobj
            self.files[operation.path_in_repo] = (
                content if isinstance(content, bytes) else Path(content).read_bytes()
            )
        return SimpleNamespace(repo_url=f"https://hub.example/{name}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr("accord.lm.hub.HfApi", lambda: fake)
    monkeypatch.setattr("accord.lm.hub.get_token", lambda: "hf_token")
    return fake


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A run's folder with its model."""
    lm = load_causal(save_toy(tmp_path / "toy"))
    save_model(lm, tmp_path / "run" / "model", card=CARD.format(base=tmp_path / "toy"))
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    return tmp_path / "run"


def card_metadata(hub: FakeHub) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(hub.files["README.md"].decode().split("---")[1])
    return values


def test_a_model_is_uploaded_private_with_its_card_and_nothing_else(
    hub: FakeHub, model: Path
) -> None:
    (model / "model" / "optimizer.pt").write_bytes(b"pickle")
    (model / "model" / ".cache").write_bytes(b"hidden")
    assert upload_model(model, "ada/cats") == "https://hub.example/ada/cats"
    assert hub.repositories == {"ada/cats": True}
    files = {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert files <= set(hub.files)
    assert not {"optimizer.pt", ".cache", "metrics.jsonl"} & set(hub.files)
    weights = (model / "model" / "model.safetensors").read_bytes()
    assert hub.files["model.safetensors"] == weights
    # The base is a folder here: its path would mean nothing on the hub.
    assert card_metadata(hub) == {"library_name": "transformers", "tags": ["accord"]}
    assert hub.files["README.md"].decode().endswith("# A model\n")


def test_the_models_own_folder_may_be_named_too(hub: FakeHub, model: Path) -> None:
    upload_model(model / "model", "ada/cats", private=False)
    assert hub.repositories == {"ada/cats": False}


def test_a_base_on_the_hub_stays_in_the_card(hub: FakeHub, model: Path) -> None:
    (model / "model" / "README.md").write_text(CARD.format(base="org/base"))
    upload_model(model, "ada/cats")
    assert card_metadata(hub)["base_model"] == "org/base"


def test_an_adapter_on_a_folder_needs_the_bases_name_on_the_hub(
    hub: FakeHub, tmp_path: Path
) -> None:
    base = save_toy(tmp_path / "toy")
    lm = with_adapters(load_causal(base), seed=0)
    save_model(lm, tmp_path / "adapter", card=CARD.format(base=base))
    with pytest.raises(ModelError, match=r"nobody else has.*--base-model.*accord merge"):
        upload_model(tmp_path / "adapter", "ada/cats")
    assert hub.repositories == {}  # refused before anything is created
    upload_model(tmp_path / "adapter", "ada/cats", base_model="org/base")
    config = json.loads(hub.files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "org/base"
    assert card_metadata(hub)["base_model"] == "org/base"
    local = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert local["base_model_name_or_path"] == base  # the folder itself is unchanged


def test_a_public_repository_takes_no_private_upload(hub: FakeHub, model: Path) -> None:
    hub.repositories["ada/cats"] = False
    with pytest.raises(RequestError, match="is public on the hub"):
        upload_model(model, "ada/cats")
    assert hub.files == {}
    upload_model(model, "ada/cats", private=False)


def test_without_a_token_the_remedy_is_named(
    hub: FakeHub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accord.lm.hub.get_token", lambda: None)
    with pytest.raises(RequestError, match=r"no Hugging Face token.*hf auth login.*HF_TOKEN"):
        upload_model(model, "ada/cats")


@pytest.mark.parametrize("name", ["cats", "a/b/c", "/tmp/cats", "ada/", "ada/my cats"])
def test_a_name_that_is_none_is_refused(hub: FakeHub, name: str) -> None:
    with pytest.raises(RequestError, match="OWNER/NAME"):
        create_repository(name, private=True)


def test_a_folder_without_a_model_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no saved model"):
        upload_model(tmp_path, "ada/cats")
    (tmp_path / "dpo" / "model").mkdir(parents=True)  # a stage of a recipe
    with pytest.raises(ModelError, match=r"Did you mean .*dpo\?"):
        upload_model(tmp_path, "ada/cats")


def http_error(status: int) -> HfHubHTTPError:
    request = httpx2.Request("POST", "https://huggingface.co/api/repos/create")
    return HfHubHTTPError("no", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (http_error(401), RequestError, "hf auth login"),
        (http_error(403), RequestError, "refuses to write to ada/cats"),
        (http_error(500), WorkError, "failed to take"),
        (httpx2.ConnectError("no route"), WorkError, "can't be reached"),
        (OfflineModeIsEnabled("offline"), WorkError, "HF_HUB_OFFLINE"),
    ],
)
def test_what_the_hub_says_is_said_with_a_remedy(
    error: Exception, kind: type[Exception], message: str, hub: FakeHub, model: Path
) -> None:
    hub.error = error
    with pytest.raises(kind, match=message):
        upload_model(model, "ada/cats")
