"""Fetches what benchmarks/gpu.sh installs on a machine without a network, for its Python.

Everything that accord and TRL need beside torch, in the versions of constraints.txt; TRL 1.12, the
last with PPO, and the transformers that it runs with lie in FOLDER/ppo. `--has` names a file of
what the machine has already, as `pip list --format=freeze` prints it there: that is not fetched
where it is new enough. Of bitsandbytes' kernels only those for `--cuda` are kept. Prints what all
weighs, and ends with 1 where a requirement is met neither by a wheel nor by the machine.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = """
    accelerate annotated-doc annotated-types anyio bitsandbytes certifi charset-normalizer click
    contourpy cycler datasets dill filelock fonttools fsspec h11 hf-xet httpcore2 httpx2
    huggingface-hub idna jinja2 kiwisolver markdown-it-py markupsafe matplotlib mdurl multiprocess
    numpy packaging pandas peft pillow psutil pyarrow pydantic pydantic-core pygments pyparsing
    python-dateutil pyyaml regex requests rich safetensors scipy shellingham sqlalchemy tokenizers
    tqdm transformers truststore typer typing-extensions typing-inspection tzdata urllib3 xxhash
""".split()
TRL, TRL_WITH_PPO = "trl==1.16.0", "trl==1.12.0"
# TRL 1.12's PPO does not run with a newer one.
NEWEST_FOR_PPO, TRANSFORMERS_FOR_PPO = "5.20", "transformers==5.19.0"
GLIBC = (39, 35, 34, 31, 28, 27, 26, 24, 17, 12, 5)  # pip takes only those named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="the machine's version")
    parser.add_argument("--cuda", default="130", help="of the machine's torch, as in +cu130")
    parser.add_argument("--has", type=Path, help="a file of what the machine has")
    args = parser.parse_args()
    has = read_versions(args.has) if args.has else {}
    pinned = read_versions(ROOT / "constraints.txt")
    ppo = args.folder / "ppo"
    ppo.mkdir(parents=True, exist_ok=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(args.folder)]
    subprocess.run([*build, str(ROOT)], check=True)
    download([TRL], args.folder, args.python)
    wanted = {name for name in PACKAGES if name not in has}
    while wanted:  # and what the machine has in too old a version
        download([f"{name}=={pinned[name]}" for name in wanted], args.folder, args.python)
        wheels = sorted(args.folder.rglob("*.whl"))
        missing = set(unmet(wheels, has, args.python)) - set(there(wheels, {}))
        wanted = missing & set(pinned)
    own = has.get("transformers")
    if own and Requirement(f"transformers<{NEWEST_FOR_PPO}").specifier.contains(own):
        download([TRL_WITH_PPO], ppo, args.python)
    else:
        download([TRL_WITH_PPO, TRANSFORMERS_FOR_PPO], ppo, args.python)
    for wheel in args.folder.glob("bitsandbytes-*.whl"):
        keep_kernels(wheel, args.cuda)
    wheels = sorted(args.folder.rglob("*.whl"))
    weight = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{len(wheels)} wheels for Python {args.python}, {weight / 2**20:.0f} MiB")
    sys.exit("\n".join(unmet(wheels, has, args.python).values()) or None)


def read_versions(path: Path) -> dict[str, str]:
    """Versions by name, of lines NAME==VERSION."""
    lines = (line.strip().split("==") for line in path.read_text().splitlines())
    return {canonicalize_name(line[0]): line[1] for line in lines if len(line) == 2}


def download(requirements: list[str], folder: Path, python: str) -> None:
    options = ["-q", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    options += ["--python-version", python, "--dest", str(folder)]
    for minor in GLIBC:
        options += ["--platform", f"manylinux_2_{minor}_x86_64"]
    options += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", *options, *requirements]
    subprocess.run(command, check=True)


def keep_kernels(wheel: Path, cuda: str) -> None:
    """Leave those of the CPU and of one version of CUDA in bitsandbytes' wheel."""
    kernels = re.compile(rf"libbitsandbytes_(?!cpu|cuda{cuda}\.)\w+\.so")
    smaller = wheel.with_suffix(".smaller")
    with (
        zipfile.ZipFile(wheel) as old,
        zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(x for x in lines if not kernels.search(x)).encode()
            if not kernels.search(name):
                new.writestr(name, content)
    smaller.replace(wheel)


def there(wheels: list[Path], has: dict[str, str]) -> dict[str, str]:
    """The versions that an environment sees: the machine's, or a wheel's."""
    names = [parse_wheel_filename(wheel.name) for wheel in wheels if wheel.parent.name != "ppo"]
    return has | {name: str(version) for name, version, _, _ in names}


def unmet(wheels: list[Path], has: dict[str, str], python: str) -> dict[str, str]:
    """By package, what the wheels require that is not there; torch is the machine's."""
    versions = there(wheels, has)
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    environment |= {"sys_platform": "linux", "platform_system": "Linux"}
    missing = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            path = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            metadata = BytesParser().parsebytes(archive.read(path))
        for required in map(Requirement, metadata.get_all("Requires-Dist") or ()):
            name = canonicalize_name(required.name)
            if name == "torch" or (required.marker and not required.marker.evaluate(environment)):
                continue
            version = versions.get(name)
            if version is None or not required.specifier.contains(version, prereleases=True):
                missing[name] = f"{wheel.name} requires {required}; there is {version}"
    return missing


if __name__ == "__main__":
    main()
