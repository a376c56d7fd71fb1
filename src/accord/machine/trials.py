"""What works, because it is tried: each trial takes a fraction of a second.

`python -m accord.machine.trials` runs all of them and prints a row of JSON after each. `accord
doctor` starts it as a process of its own, so that a library that crashes takes only its row along.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module, util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accord.machine.row import DoctorRow, attempt
from accord.machine.speed import bf16_row, thread_row
from accord.runs.storage import format_bytes

SIZE = 384
"""Rows of the square products: a few milliseconds each, enough to fill vector units."""
TOLERANCE = 0.02
"""Of a bf16 product, relative to its norm: 8 bits of mantissa round each factor by 2⁻⁹."""
_PROGRAM = (
    "#include <Python.h>\n#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"
)


def try_torch() -> DoctorRow:
    import torch

    product = torch.eye(2) @ torch.eye(2)
    if not torch.equal(product, torch.eye(2)):
        raise ArithmeticError("the product of two identities is not the identity")
    return DoctorRow("works", "torch", "ok", f"{torch.__version__} computes")


def try_transformers() -> DoctorRow:
    import transformers

    return DoctorRow("works", "transformers", "ok", f"{transformers.__version__} can be imported")


def try_threads() -> DoctorRow:
    import torch

    return thread_row(torch.get_num_threads())


def try_bf16(device: str = "cpu") -> DoctorRow:
    """A bf16 product against the one in float32."""
    import torch

    left, right = _factors(device)
    exact = left @ right
    error = ((left.bfloat16() @ right.bfloat16()).float() - exact).norm() / exact.norm()
    if not float(error) < TOLERANCE:
        raise ArithmeticError(f"a bf16 product is off by {float(error):.2%} of its norm")
    where = "" if device == "cpu" else f" on {torch.cuda.get_device_name(device)}"
    return DoctorRow("works", _on("bf16", device), "ok", f"a product is right{where}")


def try_bf16_speed() -> DoctorRow:
    left, right = _factors("cpu")
    half_left, half_right = left.bfloat16(), right.bfloat16()
    slow, fast = _seconds(lambda: left @ right), _seconds(lambda: half_left @ half_right)
    return bf16_row(slow / fast)


def try_prepacked() -> DoctorRow:
    """oneDNN's products with weights laid out once, which sampling on a CPU uses."""
    import torch

    if not torch.backends.mkldnn.is_available():
        remedy = "pip install torch (this build has no oneDNN): sampling in bf16 is slower"
        return DoctorRow("speed", "prepacked", "slow", "this torch has no oneDNN", remedy)
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        detail = "oneDNN has no bf16 products for this processor"
        return DoctorRow("speed", "prepacked", "absent", detail)
    left, right = (factor.bfloat16() for factor in _factors("cpu"))
    packed = torch.ops.mkldnn._reorder_linear_weight(right.T.contiguous(), SIZE)
    product = torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], "")
    error = (product.float() - (left @ right).float()).norm() / product.float().norm()
    if not float(error) < TOLERANCE:
        raise ArithmeticError(f"a prepacked product is off by {float(error):.2%} of its norm")
    return DoctorRow("speed", "prepacked", "ok", "sampling in bf16 uses weights laid out once")


def try_compiler() -> DoctorRow:
    """What torch.compile needs on a CPU: a C++ compiler with OpenMP and Python's headers."""
    chosen = os.environ.get("CXX")
    path = next(filter(None, map(shutil.which, [chosen] if chosen else ["g++", "clang++"])), None)
    purpose = "only torch.compile needs one, and accord compiles on GPUs alone"
    command = "apt-get install g++ python3-dev"
    if path is None:
        name = f"no {chosen} (CXX)" if chosen else "no g++ or clang++"
        return DoctorRow("works", "compiler", "absent", f"{name}; {purpose}", command)
    with TemporaryDirectory(prefix="accord-doctor-") as folder:
        source = Path(folder) / "trial.cpp"
        source.write_text(_PROGRAM, encoding="ascii")
        include = f"-I{sysconfig.get_paths()['include']}"
        done = subprocess.run(
            [path, "-fopenmp", "-fPIC", "-shared", include, "-o", f"{source}.so", str(source)],
            capture_output=True,
            text=True,
            timeout=20,
        )
    if done.returncode == 0:
        return DoctorRow("works", "compiler", "ok", f"{path} compiles with OpenMP")
    fault = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
    return DoctorRow("works", "compiler", "failed", f"{path}: {fault[:200]}; {purpose}", command)


def try_gpu() -> DoctorRow:
    """Every GPU multiplies; a GPU that torch can't see is a fault."""
    import torch

    if torch.cuda.is_available():
        shown = []
        for index in range(torch.cuda.device_count()):
            try_bf16(f"cuda:{index}")
            free, total = torch.cuda.mem_get_info(index)
            memory = f"{format_bytes(free)} of {format_bytes(total)} free"
            shown.append(f"cuda:{index} {torch.cuda.get_device_name(index)}, {memory}")
        return DoctorRow("works", "gpu", "ok", "; ".join(shown))
    if torch.backends.mps.is_available():
        detail = "Apple's GPU is not used: accord computes on the CPU there"
        return DoctorRow("works", "gpu", "absent", detail)
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
    if not driver:
        return DoctorRow("works", "gpu", "absent", "no CUDA device; everything runs on the CPU")
    if torch.version.cuda is None:
        remedy = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/"
        detail = f"this machine has an NVIDIA driver, but torch {torch.__version__} is for CPUs"
        return DoctorRow("works", "gpu", "failed", detail, f"{remedy}cu128")
    detail = f"torch is built for CUDA {torch.version.cuda}, but sees no device"
    remedy = "compare `nvidia-smi` with that version, and look at CUDA_VISIBLE_DEVICES"
    return DoctorRow("works", "gpu", "failed", detail, remedy)


def try_triton() -> DoctorRow:
    import torch

    if not torch.cuda.is_available():
        return DoctorRow("works", "triton", "absent", "it compiles for GPUs, and there is none")
    version = import_module("triton").__version__
    return DoctorRow("works", "triton", "ok", f"{version} can be imported")


_INSTALL_4BIT = "pip install 'accord[quantization]'"


def try_4bit() -> DoctorRow:
    """bitsandbytes quantises a matrix to 4 bits and back."""
    used = "quantization=nf4 and optim=adamw_8bit need it"
    if util.find_spec("bitsandbytes") is None:
        return DoctorRow("works", "4-bit", "absent", f"no bitsandbytes; {used}", _INSTALL_4BIT)
    import torch

    bitsandbytes = import_module("bitsandbytes")
    functional = import_module("bitsandbytes.functional")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight, _ = _factors(device)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4")
    error = (functional.dequantize_4bit(packed, state) - weight).norm() / weight.norm()
    if not float(error) < 0.2:  # NF4 of a normal weight: about 0.09 of its norm
        raise ArithmeticError(f"a 4-bit weight is off by {float(error):.1%} of its norm")
    version = bitsandbytes.__version__
    return DoctorRow("works", "4-bit", "ok", f"bitsandbytes {version} quantises; {used}")


TRIALS: Mapping[str, Callable[[], DoctorRow]] = {
    "torch": try_torch,
    "gpu": try_gpu,
    "bf16": try_bf16,
    "threads": try_threads,
    "bf16 speed": try_bf16_speed,
    "prepacked": try_prepacked,
    "compiler": try_compiler,
    "transformers": try_transformers,
    "triton": try_triton,
    "4-bit": try_4bit,
}
"""In the order of trials: what can crash the process comes last."""


def run_trials(names: list[str]) -> Iterator[DoctorRow]:
    for name in names:
        yield attempt("works", name, partial(TRIALS[name]))


def _factors(device: str) -> tuple[Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    left = torch.randn(SIZE, SIZE, generator=generator)
    return left.to(device), torch.randn(SIZE, SIZE, generator=generator).to(device)


def _seconds(product: Callable[[], Any]) -> float:
    """The shortest of several, after one to warm up."""
    times = []
    for _ in range(6):
        began = time.perf_counter()
        product()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _on(name: str, device: str) -> str:
    return name if device == "cpu" else f"{name} on {device}"


def main(names: list[str]) -> None:
    """Print a row of JSON per trial; what libraries print themselves goes nowhere."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    for row in run_trials(names):
        out.write(json.dumps(row.to_json()) + "\n")
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
