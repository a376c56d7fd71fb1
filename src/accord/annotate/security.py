"""Which requests are answered: from the right host, from the page itself, by someone invited.

- The Host must be one of the server's: a page elsewhere whose name is pointed at this machine
  (DNS rebinding) has another.
- A request that changes something must come from the page itself: browsers say so by
  Sec-Fetch-Site and Origin. A program that is no browser sends neither, and carries no cookies of
  anybody's.
- Every answer carries a content security policy that allows no script or style but the files of
  the page, and nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from accord.errors import RequestError
from accord.machine.loopback import LOOPBACK, in_url, name_in_host

SAFE_METHODS = ("GET", "HEAD")
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Site:
    """Where the page is: the host and port that are listened on, and the URL by which people reach
    it through a proxy, if there is one. `prefix` is the path below which it lives, such as
    `/annotate`, or "" for none."""

    host: str
    port: int
    public_url: str | None = None

    @property
    def prefix(self) -> str:
        return urlsplit(self.public_url).path.rstrip("/") if self.public_url else ""

    @property
    def is_https(self) -> bool:
        return bool(self.public_url) and urlsplit(self.public_url).scheme == "https"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK and self.public_url is None

    @property
    def hosts(self) -> frozenset[str]:
        """The names that a request's Host may have."""
        names = {*LOOPBACK, self.host}
        if self.public_url:
            names.add(urlsplit(self.public_url).hostname or "")
        return frozenset(name.lower() for name in names)

    @property
    def address(self) -> str:
        """The URL to open, with a slash at the end."""
        if self.public_url:
            return self.public_url.rstrip("/") + "/"
        return f"http://{in_url(self.host)}:{self.port}/"

    @property
    def origin(self) -> str | None:
        """The origin of the public URL, as a browser writes it."""
        if self.public_url is None:
            return None
        parts = urlsplit(self.public_url)
        return f"{parts.scheme}://{parts.netloc}".lower()


def check_site(site: Site) -> None:
    """Raise RequestError for a public URL that is none, or for a host that names no machine."""
    if site.public_url is not None:
        parts = urlsplit(site.public_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise RequestError(
                f"--public-url {site.public_url} is no address of a page. Give it as people open "
                "it, such as https://lab.example.org/annotate."
            )
    if site.host in ("0.0.0.0", "::") and site.public_url is None:
        raise RequestError(
            f"--host {site.host} listens on every address of this machine, so the page can't know "
            "its own name. Give --public-url too, such as http://192.0.2.7:8100."
        )


def refuse(site: Site, method: str, headers: Mapping[str, str]) -> str | None:
    """Why a request is not answered; None where it is."""
    host = (headers.get("host") or "").lower()
    name = name_in_host(host)
    if name not in site.hosts:
        return (
            f"This page is not served under the name {name or '(none)'}. If it is behind a proxy, "
            "start accord annotate with --public-url and the address that people open."
        )
    if method in SAFE_METHODS:
        return None
    fetched_from = headers.get("sec-fetch-site")
    if fetched_from not in (None, "same-origin"):
        return f"A request from another site ({fetched_from}) is not answered."
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in _origins(site, host):
        return (
            f"A request from {origin} is not answered. If that is the address that people open, "
            f"start accord annotate with --public-url {origin}{site.prefix}."
        )
    return None


def _origins(site: Site, host: str) -> Iterable[str]:
    """The origins of the page itself. The Host was checked: it is one of the page's names."""
    origins = (
        {f"http://{host}", f"https://{host}"} if site.public_url is None else {site.origin or ""}
    )
    return origins | ({f"http://{host}"} if name_in_host(host) in LOOPBACK else set())
