"""The rules of the repository, held by tests: who may import whom, how long, under what name."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SOURCE = TESTS.parent / "src"
PACKAGE = SOURCE / "accord"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each may import what stands above it, and itself.
ORDER = (
    "reasoning",
    "records",
    "errors",
    "interrupts",
    "hub_names",
    "settings",
    "runs",
    "machine",
    "data",
    "objectives",
    "lm",
    "respond",
    "compare",
    "learn",
    "measure",
    "world",
    "report",
    "annotate",
    "serve",
    "pipeline",
    "api",
    "cli",
)
# The world stands apart: what is true in it must not depend on what learns from it.
ONLY = {
    "world": {"records", "errors", "settings", "runs", "data", "lm"},
    "objectives": {"errors"},
}
HEAVY = {"torch", "transformers", "datasets", "matplotlib", "scipy", "sqlalchemy", "peft"}
LIGHT = ("__init__", "reasoning", "records", "errors", "interrupts", "hub_names", "settings", "cli")
LONGEST_MODULE = 350
LONGEST_TEST_FILE = 400
LONGEST_FUNCTION = 70
VAGUE_NAMES = ("util", "helper", "misc", "common")


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place_of(module: str) -> str:
    """The folder or file right below the package: `accord.settings.base` is in `settings`."""
    return [*module.split("."), "__init__"][1]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path, *, at_import: bool) -> Iterator[tuple[str, int]]:
    """Names of modules imported, with the line; `at_import` leaves out those inside functions."""
    pending: list[ast.AST] = [tree_of(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield (inner if inner in NAMES else module), node.lineno
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if at_import and (deferred or for_types_only(node)):
            continue
        pending.extend(ast.iter_child_nodes(node))


def for_types_only(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


NAMES = {module_name(path): path for path in MODULES}


def reached_at_import(start: Path) -> dict[str, str]:
    """Every module that importing `start` imports, and through which module of accord's."""
    found: dict[str, str] = {}
    pending = [start]
    while pending:
        path = pending.pop()
        for name, line in imports_of(path, at_import=True):
            # Importing a.b.c runs a and a.b first.
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                module = ".".join(parts[:end])
                if module not in found:
                    found[module] = f"{path.relative_to(SOURCE)}:{line}"
                    if module in NAMES:
                        pending.append(NAMES[module])
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_folder_imports_only_what_stands_above_it(path: Path) -> None:
    place = place_of(module_name(path))
    if place in ("__init__", "__main__"):
        return
    assert place in ORDER, f"{path} has no place in the order of imports: give it one"
    allowed = ONLY.get(place, set(ORDER[: ORDER.index(place)])) | {place}
    for name, line in imports_of(path, at_import=False):
        if name.startswith("accord."):
            assert place_of(name) in allowed, f"{path}:{line} imports {name} from below or beside"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if place_of(module_name(p)) in LIGHT], ids=module_name
)
def test_what_help_needs_imports_nothing_heavy(path: Path) -> None:
    if module_name(path).startswith("accord.cli.") and path.stem in (
        "check",
        "doctor",
        "report_server",
    ):
        return  # imported by the command that needs it
    for name, where in reached_at_import(path).items():
        assert name.split(".")[0] not in HEAVY, f"{where} imports {name}"


def test_the_report_is_written_without_torch() -> None:
    for path in MODULES:
        if place_of(module_name(path)) == "report":
            reached = reached_at_import(path)
            assert "torch" not in reached, f"{reached['torch']} imports torch"


def test_help_loads_no_heavy_module() -> None:
    script = (
        "import sys, accord.cli\n"
        "try: accord.cli.main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert "typer" in loaded
    assert not loaded & (HEAVY | {"pydantic", "numpy", "yaml"})


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_is_short_and_has_a_name_that_says_something(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_MODULE, f"{path} has {lines} lines: split it by concept"
    for part in path.relative_to(SOURCE).parts:
        assert not any(vague in part for vague in VAGUE_NAMES), f"{path}: what is in it?"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, (
                f"{path}:{node.lineno} {node.name} has {length} lines"
            )


def test_a_test_file_is_short() -> None:
    lengths = {
        str(path.relative_to(TESTS)): path.read_text(encoding="utf-8").count("\n")
        for path in TESTS.rglob("*.py")
    }
    too_long = {name: lines for name, lines in lengths.items() if lines > LONGEST_TEST_FILE}
    assert not too_long, f"over {LONGEST_TEST_FILE} lines, split them by concept: {too_long}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), f"{path} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nothing_that_runs_code_is_read_from_files(path: Path) -> None:
    for name, line in imports_of(path, at_import=False):
        assert name.split(".")[0] not in {"pickle", "dill", "cloudpickle", "joblib", "marshal"}, (
            f"{path}:{line} imports {name}: a file could run code"
        )
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("eval", "exec", "os.system"), f"{path}:{node.lineno} calls {called}"
        if called == "torch.load":
            safe = [k for k in node.keywords if k.arg == "weights_only"]
            assert safe, f"{path}:{node.lineno} loads a pickle"
            assert ast.unparse(safe[0].value) == "True", f"{path}:{node.lineno} loads a pickle"
        if called in ("yaml.load", "numpy.load", "np.load"):
            assert called != "yaml.load", f"{path}:{node.lineno} loads YAML unsafely"
            assert not any(k.arg == "allow_pickle" for k in node.keywords), f"{path}:{node.lineno}"
        assert not any(
            k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords
        ), f"{path}:{node.lineno} runs a shell"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nothing_draws_from_a_global_generator(path: Path) -> None:
    drawn = {"random", "randint", "choice", "choices", "shuffle", "sample", "seed", "gauss"}
    # What saves and restores the global state draws nothing, as `random.getstate` above.
    harmless = {"default_rng", "get_state", "set_state"}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            fault = (owner == "random" and node.func.attr in drawn) or (
                owner in ("np.random", "numpy.random")
                and node.func.attr not in harmless
                and node.func.attr[0].islower()
            )
            assert not fault, f"{path}:{node.lineno}: pass a generator with a seed instead"
