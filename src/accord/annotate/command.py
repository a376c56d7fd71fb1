"""What `accord annotate` does: invite and revoke people, or serve the page."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accord.annotate.chat_model import ChatModel, make_chat_model
from accord.annotate.security import Site, check_site
from accord.annotate.start import (
    invite_person,
    invited,
    open_desk,
    read_settings,
    revoke_person,
)
from accord.compare.store.connection import is_store
from accord.compare.store.store import PreferenceStore
from accord.errors import RequestError
from accord.settings.annotate import AnnotateSettings


@dataclass(frozen=True, slots=True)
class Invitations:
    """Who is invited, and whose invitations end."""

    invite: tuple[str, ...] = ()
    revoke: tuple[str, ...] = ()
    owner: bool = False

    def __bool__(self) -> bool:
        return bool(self.invite or self.revoke)


def annotate_store(
    path: str,
    overrides: Sequence[str],
    config: Path | None,
    *,
    site: Site,
    annotator: str | None,
    tokens: bool,
    invitations: Invitations,
    log: Callable[[str], object],
) -> None:
    """Serve the page of a store until interrupted, or invite and revoke people.

    Raises RequestError where the store, the settings or the address can't be used.
    """
    check_site(site)
    if not is_store(path):
        raise RequestError(
            f"{path} is no preference store. Give a file that ends in .db or a database URL."
        )
    if invitations.owner and not invitations.invite:
        raise RequestError("--owner says what --invite is for. Give --invite NAME too.")
    settings = read_settings(overrides, config)
    with PreferenceStore.open(path, create=False) as store:
        if invitations:
            _change_invitations(store, invitations, site, log)
            return
        needs_tokens = tokens or not site.is_loopback
        if needs_tokens and annotator is not None:
            raise RequestError(
                "--annotator names the only person of a page that needs no tokens. Leave it out: "
                "with tokens everyone has the name of the invitation."
            )
        if needs_tokens and not invited(store):
            raise RequestError(
                f"Nobody is invited to {store.path} yet. Invite people first: "
                f"`accord annotate {path} --invite NAME`, and yourself with --owner."
            )
        desk, guideline = open_desk(store, settings, log=log)
        try:
            from accord.annotate.server import create_app, run
        except ModuleNotFoundError as error:
            raise RequestError(
                f"The page needs {error.name}, which is not installed. Install it with "
                "`pip install 'accord[annotate]'`."
            ) from None
        name = None if needs_tokens else annotator or getpass.getuser()
        with _opened_model(settings, log) as model:
            app = create_app(desk, site, annotator=name, guideline_text=guideline, model=model)
            run(app, site, log=log)


@contextmanager
def _opened_model(
    settings: AnnotateSettings, log: Callable[[str], object]
) -> Iterator[ChatModel | None]:
    """The model of a red team."""
    if settings.chat is None:
        yield None
        return
    model = make_chat_model(settings.chat)
    log(f"The red team talks with {model.name}.")
    try:
        yield model
    finally:
        model.close()


def _change_invitations(
    store: PreferenceStore, invitations: Invitations, site: Site, log: Callable[[str], object]
) -> None:
    for name in invitations.revoke:
        revoke_person(store, name)
        log(f"{name} has no access any more.")
    for name in invitations.invite:
        token = invite_person(store, name, "owner" if invitations.owner else "annotator")
        log(f"{name}: {site.address}enter#{token}")
    if invitations.invite:
        log("Each link is for one person and is shown only now; a new one replaces it.")
