"""Upload a saved model to the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import yaml
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from accord.errors import ModelError, RequestError, WorkError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_BASE = "base_model_name_or_path"
_CARD, _ADAPTER = "README.md", "adapter_config.json"


def create_repository(name: str, *, private: bool) -> None:
    """Create the model repository OWNER/NAME, if there is none.

    Raises RequestError without a token, for a name that the hub does not accept, without
    permission, and for a public repository where a private one is asked for; WorkError without
    network.
    """
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} is no name of a repository on the hub. Write OWNER/NAME, such as "
            f"ada/my-model."
        )
    if get_token() is None:
        raise RequestError(
            f"There is no Hugging Face token, so {name} can't be uploaded. Log in with "
            f"`hf auth login`, or set HF_TOKEN to a token that may write."
        )
    api = HfApi()
    with _hub_errors(name):
        api.create_repo(name, private=private, exist_ok=True)
        if private and not api.model_info(name).private:  # it existed before
            raise RequestError(
                f"{name} is public on the hub, and a private upload was asked for. Name another "
                f"repository; or ask for a public one (`--public`, or hub_private_repo=false)."
            )


def upload_model(
    folder: Path, name: str, *, private: bool = True, base_model: str | None = None
) -> str:
    """Upload a saved model, in `folder` or its `model/`, to the repository OWNER/NAME; returns its
    address.

    Files of pickles and what lies in subfolders are not uploaded. `base_model` is the hub name of
    an adapter's base, in place of the folder that it was trained on. Raises as
    `create_repository`; and ModelError for a folder without a model that others could load.
    """
    folder = _model_folder(folder)
    contents = _changed_files(folder, base_model)
    operations = [
        CommitOperationAdd(file.name, contents.get(file.name, str(file)))
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix not in _PICKLES and not file.name.startswith(".")
    ]
    create_repository(name, private=private)
    with _hub_errors(name):
        commit = HfApi().create_commit(
            name, operations=operations, commit_message="Upload a model trained with accord"
        )
    return str(getattr(commit, "repo_url", "") or f"https://huggingface.co/{name}")


def _model_folder(folder: Path) -> Path:
    for candidate in (folder, folder / "model"):
        has_config = any((candidate / n).is_file() for n in ("config.json", _ADAPTER))
        if has_config and any(candidate.glob("*.safetensors")):
            return candidate
    inner = sorted(p.parent for p in folder.glob("*/model") if p.is_dir())  # a recipe's stages
    hint = f" Did you mean {inner[-1]}?" if inner else ""
    raise ModelError(
        f"{folder} holds no saved model: neither it nor its model/ has a configuration and "
        f"safetensors weights.{hint} Name the folder of a finished run, or its model/."
    )


def _changed_files(folder: Path, base_model: str | None) -> dict[str, bytes]:
    """The files whose uploaded content differs: the paths of this machine are left out of the
    card's metadata and of an adapter's configuration."""
    contents: dict[str, bytes] = {}
    config: dict[str, Any] = {}
    if (folder / _ADAPTER).is_file():
        config = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))
        base = base_model or str(config.get(_BASE))
        if not _NAME.fullmatch(base) or (base_model is None and Path(base).exists()):
            raise ModelError(
                f"The adapter in {folder} is on {base}, a folder that nobody else has. Name the "
                f"same model on the hub with --base-model OWNER/NAME; or merge the adapter with "
                f"`accord merge {folder} --output-dir FOLDER`, and upload that."
            )
        if base_model is not None:
            config[_BASE] = base_model
            contents[_ADAPTER] = json.dumps(config, indent=2, sort_keys=True).encode()
    elif base_model is not None and not _NAME.fullmatch(base_model):
        raise RequestError(f"{base_model!r} is no name on the hub. Write OWNER/NAME.")
    card = folder / _CARD
    if card.is_file():
        contents[_CARD] = _public_card(card.read_text(encoding="utf-8"), base_model).encode()
    return contents


def _public_card(text: str, base_model: str | None) -> str:
    """A card whose metadata names the base as on the hub, or not at all."""
    if not text.startswith("---\n"):
        return text
    front, _, rest = text.removeprefix("---\n").partition("\n---\n")
    try:
        metadata = yaml.safe_load(front)
    except yaml.YAMLError:
        return text
    if not isinstance(metadata, dict):
        return text
    base = base_model or metadata.get("base_model")
    if isinstance(base, str) and _NAME.fullmatch(base) and (base_model or not Path(base).exists()):
        metadata["base_model"] = base
    else:
        metadata.pop("base_model", None)
        metadata.pop("base_model_relation", None)
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).rstrip()
    return f"---\n{front}\n---\n{rest}"


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turns the hub's errors into accord's, and shows no progress bars."""
    disable_progress_bars()
    try:
        yield
    except HFValidationError as error:
        raise RequestError(f"The hub does not accept the name {name}: {error}") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise RequestError(
                f"The hub refuses to write to {name} ({status}): the token may not, or is no "
                f"longer valid. Log in with `hf auth login` as {name.partition('/')[0]} or a "
                f"member of it, with a token that may write."
            ) from error
        raise WorkError(f"The hub failed to take {name}: {error}. Try again later.") from error
    except (httpx2.HTTPError, OfflineModeIsEnabled, OSError) as error:
        raise WorkError(
            f"The hub can't be reached to upload {name}: {str(error).rstrip('.')}. Check the "
            f"network (and that HF_HUB_OFFLINE is not set), and try again."
        ) from error
    finally:
        enable_progress_bars()
