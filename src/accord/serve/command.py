"""What `accord serve` does: load the model and serve it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from accord.errors import RequestError
from accord.hub_names import short_name
from accord.serve.access import Access
from accord.serve.threads import in_thread_of_its_own

if TYPE_CHECKING:
    from accord.serve.best_of.start import BestOf
    from accord.serve.engine import Engine

KEY_VARIABLE = "ACCORD_API_KEY"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a model is served; `model_name` None names it after its folder.

    With `upstream`, the address of an OpenAI-compatible server, `model` is its name there, by
    default the first.
    """

    model: str | None
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
    upstream: str | None = None
    upstream_key_env: str | None = None
    upstream_timeout: float = 300.0
    best_of: BestOf | None = None
    caches_prefixes: bool = True


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
    if options.upstream is None:
        engine = in_thread_of_its_own(lambda: _local_engine(options, log))
    else:
        engine = _upstream_engine(options)
    if options.best_of is not None and options.best_of.options.warning is not None:
        log(f"Warning: {options.best_of.options.warning}")
    run_server(engine, access, options.port, log=log)


def _local_engine(options: ServeOptions, log: Callable[[str], object]) -> Engine:
    """The engine of a model on this machine. Raises ModelError as loading one does."""
    from accord.lm.load import load_causal
    from accord.lm.loading.folders import model_of_run
    from accord.lm.tokens.opened import opened_by_prompt
    from accord.serve.best_of.start import with_best_of
    from accord.serve.local import LocalEngine

    if options.model is None:
        raise RequestError("Name the model to serve, or a server that has one with --upstream.")
    if options.best_of is not None and options.best_of.options.limit > options.max_rows:
        raise RequestError(
            f"{options.best_of.options.limit} candidates (--best-of, --max-best-of) are more than "
            f"the {options.max_rows} responses that are generated at a time (--max-rows). Raise "
            f"--max-rows, or lower --max-best-of."
        )
    path = model_of_run(options.model)
    log(f"Loading {path} …")
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
        caches_prefixes=options.caches_prefixes,
    )
    return with_best_of(engine, options.best_of, lambda p: opened_by_prompt(p, lm.tokenizer))


def _upstream_engine(options: ServeOptions) -> Engine:
    """The engine in front of another server. Raises WorkError where it lists no model."""
    from accord.respond.http import key_of_environment
    from accord.serve.best_of.start import with_best_of
    from accord.serve.upstream.engine import UpstreamEngine
    from accord.serve.upstream.server import find_model

    assert options.upstream is not None
    key = key_of_environment(
        options.upstream_key_env, setting="--upstream-key-env", key_owner="the upstream server's"
    )
    model = options.model or find_model(options.upstream, key=key)
    engine = UpstreamEngine(options.upstream, model, key=key, timeout=options.upstream_timeout)
    engine.model_names = names_of(model, options.model_name)
    return with_best_of(engine, options.best_of)


def find_keys(given: Sequence[str]) -> tuple[str, ...]:
    """The API keys of the command line, or else of the environment."""
    variable = os.environ.get(KEY_VARIABLE, "")
    return tuple(given) or ((variable,) if variable else ())


def names_of(model: str, model_name: str | None) -> tuple[str, ...]:
    """The names under which a model may be asked for: the one given, or that of its run or folder,
    and the path or hub name itself."""
    return tuple(dict.fromkeys([model_name or short_name(model) or model, model]))
