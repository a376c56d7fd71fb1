"""Whether the hub and a server of models can be reached."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from accord.machine.row import DoctorRow, error_text

SECONDS = 1.5
ANSWER_BYTES = 2**20
_HUB = "https://huggingface.co"


def hub_row() -> DoctorRow:
    """Whether models and data sets can be named by their hub name."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "TRUE", "YES", "ON"):
            detail = f"not asked ({variable}): models and data sets are those of paths and cache"
            return DoctorRow("works", "hub", "absent", detail)
    address = os.environ.get("HF_ENDPOINT") or _HUB
    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # it answers, whatever it thinks of the request
    except (OSError, ValueError) as error:
        detail = f"{address} can't be reached ({error_text(error)}): name models by path"
        remedy = "export HF_HUB_OFFLINE=1, and nothing waits for it"
        return DoctorRow("works", "hub", "absent", detail, remedy)
    return DoctorRow("works", "hub", "ok", f"{address} answers")


def server_row(address: str) -> DoctorRow:
    """The models that an OpenAI-compatible server offers; `address` with or without `/v1`."""
    start = address.rstrip("/").removesuffix("/v1")
    if urlsplit(start).scheme not in ("http", "https"):
        detail = f"{address} is no address: it begins with http:// or https://"
        return DoctorRow("works", "server", "failed", detail)
    try:
        with urllib.request.urlopen(f"{start}/v1/models", timeout=SECONDS) as answer:
            names = [model["id"] for model in json.loads(answer.read(ANSWER_BYTES))["data"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        detail = f"{start}/v1/models gives no list of models ({error_text(error)})"
        remedy = "start it, as in `vllm serve MODEL --enable-lora`, or correct the address"
        return DoctorRow("works", "server", "failed", detail, remedy)
    return DoctorRow("works", "server", "ok", f"{start} serves {', '.join(map(str, names))}")
