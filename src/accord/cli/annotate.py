"""The command `accord annotate`."""

from __future__ import annotations

from typing import Annotated

import typer

from accord.cli.stage_command import Config, Overrides

commands = typer.Typer()

Store = Annotated[
    str,
    typer.Argument(metavar="STORE", help="A preference store: a .db file or a database URL."),
]
Port = Annotated[
    int, typer.Option("--port", metavar="N", min=1, max=65535, help="Port of the page.")
]
Host = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="NAME",
        help="Address to listen on. Where other machines can reach it, tokens are needed.",
    ),
]
PublicUrl = Annotated[
    str | None,
    typer.Option(
        "--public-url",
        metavar="URL",
        help="The address that people open, where a proxy stands before the page; a path in it "
        "is the prefix.",
    ),
]
OnlyAnnotator = Annotated[
    str | None,
    typer.Option(
        "--annotator",
        metavar="NAME",
        help="Your name in the store, where you are the only one; by default your login.",
    ),
]
Tokens = Annotated[
    bool, typer.Option("--tokens", help="Need tokens on this machine too: several people.")
]
Invite = Annotated[
    list[str] | None,
    typer.Option("--invite", metavar="NAME", help="Print a link for this person, and end."),
]
AsOwner = Annotated[
    bool, typer.Option("--owner", help="With --invite: this person sees the owner's page.")
]
Revoke = Annotated[
    list[str] | None,
    typer.Option("--revoke", metavar="NAME", help="End this person's access, and end."),
]


@commands.command()
def annotate(
    store: Store,
    overrides: Overrides = None,
    config: Config = None,
    port: Port = 8100,
    host: Host = "127.0.0.1",
    public_url: PublicUrl = None,
    annotator: OnlyAnnotator = None,
    tokens: Tokens = False,
    invite: Invite = None,
    owner: AsOwner = False,
    revoke: Revoke = None,
) -> None:
    """Let people compare, rank or label the responses in a store, or talk with a model and say
    what breaks it, on a page in the browser.

    Every vote is in the store before the next item shows. The page needs `pip install
    accord[annotate]`.

    \b
    Examples:
      accord annotate prefs.db
      accord annotate prefs.db task=rankings overlap=3 guidelines=guide.md --tokens
      accord annotate prefs.db --invite Ada --invite Grace
      accord annotate prefs.db name=red task=redteam chat.model=runs/demo/dpo/model
    \f
    The page is described in [annotate.md](annotate.md), its settings in
    [settings.md](settings.md#annotate).
    """
    from accord.annotate.command import Invitations, annotate_store
    from accord.annotate.security import Site

    annotate_store(
        store,
        overrides or [],
        config,
        site=Site(host, port, public_url),
        annotator=annotator,
        tokens=tokens,
        invitations=Invitations(tuple(invite or ()), tuple(revoke or ()), owner=owner),
        log=typer.echo,
    )
