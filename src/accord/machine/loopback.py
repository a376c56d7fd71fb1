"""The names by which only this machine reaches itself, and the port that a server listens on."""

from __future__ import annotations

import errno
import socket
from urllib.parse import urlsplit

from accord.errors import RequestError

CONNECTIONS = 2048  # waiting to be accepted
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_local(url: str) -> bool:
    """Whether an address is of this machine, which no proxy of the environment can reach."""
    return urlsplit(url).hostname in LOOPBACK


def name_in_host(header: str) -> str:
    """The name in a request's Host header, in lower case and without the port; empty where it holds
    none. Anybody may send anything as one."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:  # such as of `[`, which begins an IPv6 address
        return ""


def in_url(host: str) -> str:
    """A host as an address has it: an IPv6 one in brackets."""
    return f"[{host}]" if ":" in host else host


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on a port, on any free one for 0. Raises RequestError where the port
    can't be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(CONNECTIONS)
    except OSError as error:
        listener.close()
        reason = {
            errno.EADDRINUSE: "in use",
            errno.EACCES: "not allowed to this user",
            errno.EADDRNOTAVAIL: "at an address that this machine does not have",
        }.get(error.errno or 0, str(error.strerror or error))
        raise RequestError(
            f"Port {port} on {host} is {reason}. Choose another with --port, such as {port + 1}, "
            "or another --host."
        ) from None
    return listener
