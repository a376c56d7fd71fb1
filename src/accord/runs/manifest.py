"""manifest.json: everything that is needed to repeat a run, and how the run ended."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import accord
from accord.errors import StorageError
from accord.runs.atomic import write_json_atomic

Status = Literal["running", "finished", "failed", "interrupted"]
_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "safetensors",
    "datasets",
    "numpy",
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A run's settings, seed, inputs, versions, machine, command and times, and how it ended."""

    settings: Mapping[str, Any]
    seed: int | None
    inputs: Mapping[str, str]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    command: str
    started: str
    finished: str | None = None
    status: Status = "running"
    error: str | None = None
    attempts: list[Mapping[str, Any]] = field(default_factory=list)

    def write(self, folder: str | Path) -> None:
        """Writes `folder`/manifest.json. Raises StorageError when the disk fails."""
        write_json_atomic(Path(folder) / "manifest.json", self)


@contextmanager
def record_run(
    folder: str | Path,
    *,
    settings: Any,
    seed: int | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Iterator[Manifest]:
    """Records the run of the block in `folder`/manifest.json.

    Its status is "running" from the start, and at the end "finished", "failed" (with the error) or
    "interrupted"; after a kill it stays "running". Previous attempts in the same folder are listed
    with their times. `settings` is a Settings or a mapping, `inputs` maps paths to digests.
    """
    folder = Path(folder)
    manifest = Manifest(
        settings=settings if isinstance(settings, Mapping) else settings.model_dump(),
        seed=seed,
        inputs=dict(inputs or {}),
        versions=versions(),
        machine=machine(),
        command=command_line(),
        started=_now(),
        attempts=_previous_attempts(folder),
    )
    manifest.write(folder)
    try:
        yield manifest
    except (KeyboardInterrupt, GeneratorExit):  # GeneratorExit: the caller stopped iterating
        with suppress(StorageError):
            replace(manifest, status="interrupted", finished=_now()).write(folder)
        raise
    except BaseException as error:
        with suppress(StorageError):  # the disk may be what failed: raise the first error
            text = f"{type(error).__name__}: {error}"
            replace(manifest, status="failed", finished=_now(), error=text).write(folder)
        raise
    replace(manifest, status="finished", finished=_now()).write(folder)


def versions() -> dict[str, str]:
    """Versions of accord, Python and the libraries that affect results; imports none of them."""
    versions = {"accord": accord.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def machine() -> dict[str, Any]:
    """The system, the processor's name and cores, memory in bytes, and the GPU if one is in use.

    Imports nothing heavy: the GPU is included only if torch is imported already.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    machine: dict[str, Any] = {
        "system": platform.platform(terse=True),
        "cpu": _cpu_name(),
        "cores": cores,
        "memory": _memory(),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def command_line() -> str:
    """The command as typed, without the folder of the program."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of a folder as JSON; None where there is none that accord has written."""
    with suppress(OSError, ValueError):
        manifest = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
        if isinstance(manifest, dict) and {"settings", "versions", "status"} <= set(manifest):
            return manifest
    return None


def _previous_attempts(folder: Path) -> list[Mapping[str, Any]]:
    old = read_manifest(folder)
    if old is None:
        return []
    last = {key: old.get(key) for key in ("started", "finished", "status", "command")}
    attempts = old.get("attempts")
    return [*(attempts if isinstance(attempts, list) else []), last]
