"""Who is answered: this machine by its names, or who has the key."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accord.errors import RequestError
from accord.machine.loopback import name_in_host
from accord.serve.access import Access
from tests.serve.clients import error_of
from tests.serve.conftest import Served


def test_keys_open_the_server(start: Callable[..., Served]) -> None:
    served = start(access=Access("127.0.0.1", ("first", "second")))
    assert error_of(served.chat(), 401)["code"] == "invalid_api_key"
    assert served.get("/health").status_code == 200
    assert served.get("/metrics").status_code == 401
    for header in ("Bearer wrong", "Bearer", "Basic first", "first"):
        error_of(served.get("/v1/models", headers={"Authorization": header}), 401)
    for key in ("first", "second"):
        header = {"Authorization": f"Bearer {key}"}
        assert served.get("/v1/models", headers=header).status_code == 200
    assert "first" not in served.get("/metrics", headers=header).text


def test_another_name_for_this_machine_is_refused_without_a_key(served: Served) -> None:
    assert name_in_host("LocalHost:80") == "localhost"
    for name in ("evil.example", "[", "[::1", "a]b", "[evil]", "", "localhost@evil.example:1"):
        error = error_of(served.get("/v1/models", headers={"Host": name}), 403)
        assert error["type"] == "permission_error"
    for name in ("LOCALHOST:1", "[::1]:8000"):
        assert served.get("/v1/models", headers={"Host": name}).status_code == 200
    assert served.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200


def test_other_machines_need_a_key() -> None:
    with pytest.raises(RequestError, match="ACCORD_API_KEY"):
        Access("0.0.0.0").check_address()
    with pytest.raises(RequestError, match="printable"):
        Access("127.0.0.1", ("ключ",)).check_address()
    for access in (
        Access("::1"),
        Access("0.0.0.0", ("key",)),
        Access("0.0.0.0", without_key=True),
    ):
        access.check_address()
