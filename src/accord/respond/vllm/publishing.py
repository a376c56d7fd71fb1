"""What a vLLM server samples from: the weights it was started with, or those published to it."""

from __future__ import annotations

import json
import logging
import uuid
from pathlib import Path
from typing import Any

from accord.errors import SettingsError, WorkError
from accord.respond.http import RefusedError
from accord.respond.vllm.client import VllmClient

log = logging.getLogger(__name__)

PREFIX = "accord-"
SHAPE = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
DEV_MODE = "VLLM_SERVER_DEV_MODE=1"


class Publisher:
    """The adapter or the whole weights that a run published last.

    `model` is the name to request: that of the adapter, or of the base. Whole weights replace the
    base's in place: the server reads them from a folder, which it must see, and says by a version
    which it has. `root` is the folder or name that it was started with.
    """

    def __init__(self, client: VllmClient, base: str, root: str | None) -> None:
        self.client, self.base, self.model, self.root = client, base, base, root
        self._run_id, self._number = uuid.uuid4().hex[:8], 0
        self._folder: Path | None = None
        self._version: str | None = None  # of whole weights

    @property
    def takes_weights(self) -> bool:
        """Whether the server replaces its weights on request."""
        return self._served_version() is not None

    def require_taking_weights(self) -> None:
        """Raise SettingsError where the server does not replace its weights."""
        if not self.takes_weights:
            raise SettingsError(
                f"The vLLM server at {self.client.url} does not replace its weights. Start it with "
                f"the environment variable {DEV_MODE} (vLLM 0.32 or later; on a trusted network "
                f"only), train with `lora`, or use sampler.kind=local."
            )

    def restore_started(self) -> None:
        """Load the weights that the server was started with, where another run has left its own."""
        version = self._served_version()
        if version is None or not version.startswith(PREFIX) or self.root is None:
            return
        log.warning(
            "The vLLM server at %s holds the weights of another run: it loads those of %s again. "
            "Let one run at a time publish to a server.",
            self.client.url,
            self.root,
        )
        self._load_weights(self.root, "default")

    def publish(self, folder: Path) -> None:
        """Make the server sample from the adapter or the model in a folder, from the next request
        on. Raises SettingsError where it refuses, WorkError where it fails."""
        self._number += 1
        name = f"{PREFIX}{self._run_id}-{self._number}"
        if (folder / "adapter_config.json").is_file():
            self._load_adapter(folder, name)
        else:
            self._check_shape(folder)
            self._load_weights(str(folder.resolve()), name)
            self._version = name
        self._folder = folder

    def publish_again(self) -> None:
        """Publish what was published last, to a server that was started again."""
        if self._folder is not None:
            self.model = self.base  # its adapters are gone
            self.publish(self._folder)

    @property
    def is_published(self) -> bool:
        return self._folder is not None

    def is_current(self) -> bool:
        """Whether the server has the whole weights that were published last, if any were. An
        adapter has a name of its own, without which a request is refused."""
        return self._version is None or self._served_version() == self._version

    def close(self) -> None:
        """Give the server back what it was started with."""
        if self.model != self.base:
            self._unload(self.model)
            self.model = self.base
        if self._version is not None and self.root is not None:
            try:
                self._load_weights(self.root, "default")
            except (SettingsError, WorkError) as error:
                log.warning("The run's weights stay on the server: %s", error)
        self._folder = self._version = None

    def _load_adapter(self, folder: Path, name: str) -> None:
        body = {"lora_name": name, "lora_path": str(folder.resolve())}
        try:
            self.client.command("/v1/load_lora_adapter", body)
        except RefusedError as refused:
            # "already loaded": the answer to an earlier attempt was lost.
            if "already" not in refused.message:
                raise SettingsError(
                    f"The vLLM server at {self.client.url} does not load the adapter {folder} "
                    f"(status {refused.status}: {refused.message}). {_lora_remedy(refused)}"
                ) from refused
        old, self.model = self.model, name
        if old != self.base:
            self._unload(old)

    def _unload(self, name: str) -> None:
        try:
            self.client.command("/v1/unload_lora_adapter", {"lora_name": name})
        except (RefusedError, WorkError) as error:  # it only takes a slot on the server
            log.warning("The adapter %s stays on the server: %s", name, error)

    def _check_shape(self, folder: Path) -> None:
        """Raise SettingsError where the server was started with a model of another shape, whose
        engine would not survive the weights; nothing where its folder is not on this machine."""
        configs = [_read_config(folder), {} if self.root is None else _read_config(Path(self.root))]
        for name in SHAPE:
            new, started = (config.get(name) for config in configs)
            if new is not None and started is not None and new != started:
                raise SettingsError(
                    f"{folder} has {name}={new}, and the vLLM server at {self.client.url} was "
                    f"started with {self.root}, which has {name}={started}. Start it with the "
                    "model that the run starts from."
                )

    def _load_weights(self, folder: str, version: str) -> None:
        """Have the server read all weights from a folder. Requests under way end first; keys and
        values of the old weights are removed."""
        self.require_taking_weights()
        reload = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        try:
            self.client.command("/pause?mode=wait", {})
            try:
                self.client.command("/collective_rpc", reload)
                self.client.command("/reset_prefix_cache", {})
                self.client.command("/update_weight_version", {"new_version": version})
            finally:
                self.client.command("/resume", {})
        except RefusedError as refused:
            raise SettingsError(
                f"The vLLM server at {self.client.url} does not load the weights in {folder} "
                f"(status {refused.status}: {refused.message}). It must see the same folder, and "
                f"serve a model of the same shape. Start it again, and run the same command again."
            ) from refused

    def _served_version(self) -> str | None:
        """The version of the weights on the server; None where it reports none."""
        try:
            version = self.client.get("/weight_info").get("weight_version")
        except RefusedError:
            return None
        return version if isinstance(version, str) else None


def _read_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json; empty where it can't be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _lora_remedy(refused: RefusedError) -> str:
    """The remedy for a refused adapter, by the server's message."""
    message = refused.message.lower()
    if "rank" in message:
        return "Start the server with a --max-lora-rank that is at least lora.r."
    if "no adapter found" in message:
        return "The server must see the same folder: run it on this machine, or share the disk."
    if message == "not found" or "detail" in message or "lora" not in message:
        return (
            "Start the server with --enable-lora and the environment variable "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
        )
    return "Look at the server's log."
