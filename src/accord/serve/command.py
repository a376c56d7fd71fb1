"""What `accord serve` does: load the model and serve it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from accord.errors import RequestError
from accord.serve.access import Access

KEY_VARIABLE = "ACCORD_API_KEY"
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a model is served; `model_name` None names it after its folder."""

    model: str
    model_name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    without_key: bool = False
    max_rows: int = 64
    max_waiting: int = 256
    max_length: int | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_remote_code: bool = False


def serve_model(options: ServeOptions, *, log: Callable[[str], object]) -> None:
    """Serve a model until interrupted.

    Raises RequestError where the address can't be used, and ModelError as loading a model does.
    """
    access = Access(options.host, find_keys(options.api_keys), options.without_key)
    access.check_address()
    try:
        from accord.serve.server import run_server
    except ModuleNotFoundError as error:
        raise RequestError(
            f"The server needs {error.name}, which is not installed. Install it with "
            "`pip install 'accord[serve]'`."
        ) from None
    from accord.lm.load import load_causal
    from accord.serve.local import LocalEngine

    path = model_folder(options.model)
    lm = load_causal(
        path,
        precision=options.precision,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
    )
    engine = LocalEngine(
        lm,
        names_of(path, options.model_name),
        max_rows=options.max_rows,
        max_waiting=options.max_waiting,
        max_length=options.max_length,
    )
    run_server(engine, access, options.port, log=log)


def find_keys(given: Sequence[str]) -> tuple[str, ...]:
    """The API keys of the command line, or else of the environment."""
    variable = os.environ.get(KEY_VARIABLE, "")
    return tuple(given) or ((variable,) if variable else ())


def model_folder(model: str) -> str:
    """The folder of a run's model, where a run's folder is given; otherwise the path itself."""
    inner = Path(model) / "model"
    is_model = any((Path(model) / name).is_file() for name in ("config.json", ADAPTER_CONFIG))
    return str(inner) if inner.is_dir() and not is_model else model


def names_of(model: str, model_name: str | None) -> tuple[str, ...]:
    """The names under which a model may be asked for: the one given, or that of its run or folder,
    and the path or hub name itself."""
    path = PurePath(model)
    short = path.parent.name if path.name == "model" and path.parent.name else path.name
    return tuple(dict.fromkeys([model_name or short or model, model]))
