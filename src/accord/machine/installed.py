"""What is installed: versions against what accord requires, the optional extras, programs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path

from accord.machine.row import DoctorRow

EXTRAS: Mapping[str, tuple[Sequence[str], str]] = {
    "serve": (("starlette", "uvicorn"), "`accord serve`"),
    "annotate": (("starlette", "uvicorn", "markdown_it", "nh3"), "the page of `accord annotate`"),
    "postgresql": (("psycopg",), "a preference store on a PostgreSQL server"),
    "quantization": (("bitsandbytes",), "`quantization=nf4` and `optim=adamw_8bit`"),
    "vllm": (
        ("vllm",),
        "vLLM samples in this process (`sampler.mode=colocate`); a server needs none",
    ),
    "tensorboard": (("tensorboard",), "`report_to=tensorboard`"),
    "wandb": (("wandb",), "`report_to=wandb`"),
    "trackio": (("trackio",), "`report_to=trackio`"),
    "docs": (("sphinx", "furo", "myst_parser", "latex2mathml"), "`make site`"),
}
"""By extra: the modules that it installs, and what accord uses them for."""


def requirement_rows(requirements: Sequence[str] | None = None) -> list[DoctorRow]:
    """A row per required library that is missing or too old, and one that says all is well.

    `requirements` are those of the installed accord by default.
    """
    if requirements is None:
        try:
            requirements = metadata.requires("accord") or []
        except metadata.PackageNotFoundError:
            detail = "accord runs from its source folder, so its requirements are not known"
            return [DoctorRow("installed", "requirements", "absent", detail, "pip install -e .")]
    faults = list(_faults(requirements))
    needed = sum("extra ==" not in text for text in requirements)
    well = DoctorRow("installed", "requirements", "ok", f"all {needed} that accord needs")
    return faults or [well]


def _faults(requirements: Sequence[str]) -> Iterator[DoctorRow]:
    from packaging.requirements import Requirement

    for text in requirements:
        required = Requirement(text)
        if required.marker is not None and not required.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(required.name)
        except metadata.PackageNotFoundError:
            detail = f"not installed; accord needs {required.name}{required.specifier}"
        else:
            if required.specifier.contains(version, prereleases=True):
                continue
            detail = f"{version} is installed; accord needs {required.name}{required.specifier}"
        command = f"pip install '{required.name}{required.specifier}'"
        yield DoctorRow("installed", required.name, "failed", detail, command)


def extra_row(extra: str) -> DoctorRow:
    """Whether an optional extra is installed; its modules are looked for, not imported."""
    modules, purpose = EXTRAS[extra]
    command = f"pip install 'accord[{extra}]'"
    missing = [module for module in modules if util.find_spec(module) is None]
    if not missing:
        return DoctorRow("installed", extra, "ok", f"{_version(modules[0])}: {purpose}")
    if len(missing) == len(modules):
        return DoctorRow("installed", extra, "absent", f"for {purpose}", command)
    detail = f"in part: {', '.join(missing)} missing, for {purpose}"
    return DoctorRow("installed", extra, "failed", detail, command)


def _version(module: str) -> str:
    names = metadata.packages_distributions().get(module, [module])
    try:
        return f"{names[0]} {metadata.version(names[0])}"
    except metadata.PackageNotFoundError:
        return f"{module}, of unknown version"


def program_rows() -> list[DoctorRow]:
    """Chromium and PostgreSQL, where the packages that drive them are installed."""
    rows = []
    if util.find_spec("playwright") is not None:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
        purpose = "drives the annotation page in tests"
        rows.append(_program_row("chromium", path, purpose, "playwright install chromium"))
    if util.find_spec("psycopg") is not None:
        path = shutil.which("initdb") or _debian_initdb()
        purpose = "a server of your own for the store and its tests"
        rows.append(_program_row("postgresql", path, purpose, "apt-get install postgresql"))
    return rows


def _debian_initdb() -> str | None:
    """Debian puts initdb beside the server of each version, outside the search path."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max(map(str, versions), key=_numbers, default=None)


def _numbers(path: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path)]


def _program_row(name: str, path: str | None, purpose: str, command: str) -> DoctorRow:
    if path is None:
        return DoctorRow("installed", f"{name} (program)", "absent", purpose, command)
    return DoctorRow("installed", f"{name} (program)", "ok", f"{path}: {purpose}")
