"""Who may ask: loopback by default, and elsewhere who has the key.

Without a key only this machine reaches the server, and the Host must be one of its names: a web
page whose name is pointed at this machine (DNS rebinding) has another.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from accord.errors import RequestError
from accord.machine.loopback import LOOPBACK, name_in_host
from accord.serve.errors import ApiError

OPEN_PATHS = ("/health",)  # asked by what watches over a server


@dataclass(frozen=True, slots=True)
class Access:
    """The address that is listened on, and the keys that open it; without keys it is open."""

    host: str
    keys: tuple[str, ...] = ()
    without_key: bool = False

    @property
    def is_loopback(self) -> bool:
        return self.host in LOOPBACK

    def check_address(self) -> None:
        """Raise RequestError for an address that others reach and that no key protects."""
        if any(not key.strip() or not key.isascii() or not key.isprintable() for key in self.keys):
            raise RequestError("An API key must be printable ASCII text, and not be empty.")
        if not (self.is_loopback or self.keys or self.without_key):
            raise RequestError(
                f"--host {self.host} lets other machines ask this model. Set ACCORD_API_KEY (or "
                "--api-key), or give --without-key where the network itself keeps others out."
            )

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Raise ApiError (401 or 403) for a request that is not answered."""
        if path in OPEN_PATHS:
            return
        if self.keys:
            self._check_key(headers.get("authorization", ""))
        elif self.is_loopback:
            name = name_in_host(headers.get("host", ""))
            if name not in LOOPBACK:
                raise ApiError(
                    403,
                    f"This server answers as localhost, not as {name or '(no name)'}. Behind a "
                    "proxy, set ACCORD_API_KEY and --host.",
                )

    def _check_key(self, authorization: str) -> None:
        kind, _, given = authorization.partition(" ")
        given = given.strip()
        # All keys are compared, each in constant time.
        matches = [
            hmac.compare_digest(given.encode("utf-8", "replace"), key.encode()) for key in self.keys
        ]
        if kind.lower() != "bearer" or not any(matches):
            raise ApiError(
                401,
                "The API key is missing or wrong. Send it as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
            )
