#!/usr/bin/env bash
# The GPU's checks and timings on a bare machine, in one command and under eight minutes.
#
#   benchmarks/gpu.sh wheels FOLDER     with the network: fetch what the machine will need
#   benchmarks/gpu.sh [ARGUMENTS]       there: install it from WHEELS, and run benchmarks/gpu.py
#
# The machine needs python3 (PYTHON names another) with a torch for its GPU. WHEELS is the folder of
# wheels, by default `wheels` here; without it the environment that runs this must have all. TRL 1.16
# has no PPO, so TRL 1.12 is installed beside it. Results: gpu.json, and OUT if it is set.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
WHEELS="${WHEELS:-wheels}"
TRL=1.16.0
TRL_WITH_PPO=1.12.0

if [ "${1:-}" = wheels ]; then
    folder="${2:?benchmarks/gpu.sh wheels FOLDER}"
    mkdir -p "$folder"
    "$PYTHON" -m pip wheel --no-deps --wheel-dir "$folder" .
    # Everything but torch, which the machine has for its own GPU.
    grep -v -i -E '^(torch|triton|nvidia|pytest|ruff|mypy|playwright|psycopg)' constraints.txt |
        grep -E '^[A-Za-z0-9_.-]+==' > "$folder/requirements.txt"
    "$PYTHON" -m pip download --no-deps --dest "$folder" -r "$folder/requirements.txt"
    "$PYTHON" -m pip download --no-deps --dest "$folder" "trl==$TRL"
    mkdir -p "$folder/ppo"
    "$PYTHON" -m pip download --no-deps --dest "$folder/ppo" "trl==$TRL_WITH_PPO"
    exit 0
fi

if [ -d "$WHEELS" ]; then
    # Beside the machine's own torch: its packages are seen, and what is pinned comes from the wheels.
    environment() { # NAME, wheels…
        [ -x "$1/bin/python" ] || "$PYTHON" -m venv --system-site-packages "$1"
        "$1/bin/python" -m pip install -q --no-index --no-deps "${@:2}"
    }
    common=()
    for wheel in "$WHEELS"/*.whl; do
        case "$(basename "$wheel")" in trl-*) ;; *) common+=("$wheel") ;; esac
    done
    environment .gpu "${common[@]}" "$WHEELS/trl-$TRL"-*.whl
    environment .gpu-ppo "${common[@]}" "$WHEELS/ppo/trl-$TRL_WITH_PPO"-*.whl
    PYTHON="$PWD/.gpu/bin/python"
    export ACCORD_TRL_PYTHON="$PYTHON"
    export ACCORD_TRL_PPO_PYTHON="$PWD/.gpu-ppo/bin/python"
fi

code=0
PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" benchmarks/gpu.py "$@" || code=$?
[ -z "${OUT:-}" ] || cp gpu.json "$OUT/"
exit "$code"
