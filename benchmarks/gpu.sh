#!/usr/bin/env bash
# The GPU's checks and timings on a bare machine, in one command and under eight minutes.
#
#   benchmarks/gpu.sh wheels FOLDER [OPTIONS]   with the network: fetch what the machine will need
#   benchmarks/gpu.sh [ARGUMENTS]               there: install it from WHEELS, run benchmarks/gpu.py
#
# The machine needs a Python (python3, or what PYTHON names) with pip and a torch for its GPU. WHEELS
# is the folder of wheels, by default `wheels` here; without it the environment that runs this must
# have all. Wheels are for one version of Python: `wheels FOLDER --python 3.12 --cuda 130` are the
# defaults, and pip refuses those of another. They weigh 194 MiB where the machine has torch alone.
# With `--has LIST`, the machine's `pip list --format=freeze`, only what it lacks is fetched: 17 MiB
# beside numpy, pandas, pyarrow, scipy, matplotlib and transformers (the repository weighs 14 more).
# TRL 1.16 has no PPO, so TRL 1.12 is installed beside it. Results: gpu.json, and OUT if it is set.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
WHEELS="${WHEELS:-wheels}"

if [ "${1:-}" = wheels ]; then
    exec "$PYTHON" benchmarks/gpu_wheels.py "${@:2}"
fi

# An environment that sees the packages of another Python and has wheels of its own before them.
# A virtual environment made by that of another one would see the packages of neither, so that the
# folders are named in a file. pip checks what the wheels require against what is seen.
environment() { # NAME, Python, wheels…
    if [ ! -x "$1/bin/python" ]; then
        "$2" -m venv --without-pip "$1"
        "$2" -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' \
            > "$(echo "$1"/lib/python3*/site-packages)/machine.pth"
    fi
    "$PYTHON" -m pip --python "$1/bin/python" install -q --no-index --no-compile \
        --find-links "$WHEELS" "${@:3}"
}

if [ -d "$WHEELS" ]; then
    environment .gpu "$PYTHON" "$WHEELS"/*.whl
    environment .gpu-ppo .gpu/bin/python "$WHEELS"/ppo/*.whl
    PYTHON="$PWD/.gpu/bin/python"
    export ACCORD_TRL_PYTHON="$PYTHON"
    export ACCORD_TRL_PPO_PYTHON="$PWD/.gpu-ppo/bin/python"
    echo "installed after $SECONDS s"
fi

# Eight minutes in all, with the installation; the last arguments count.
code=0
PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 \
    "$PYTHON" benchmarks/gpu.py --seconds "$((465 - SECONDS))" "$@" || code=$?
[ -z "${OUT:-}" ] || cp gpu.json "$OUT/"
exit "$code"
