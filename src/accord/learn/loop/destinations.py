"""Where else a run's results go: checked before the training, and used at its end."""

from __future__ import annotations

import logging
from pathlib import Path

from accord.errors import AccordError, SettingsError
from accord.learn.loop.processes import processes
from accord.learn.loop.trackers import check_trackers
from accord.lm.hub import create_repository, upload_model
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)


def check_destinations(settings: TrainSettings) -> None:
    """Refuse, before hours of training, what could not be sent at their end.

    A tracker's package must be installed, and the hub must accept the repository, which is created
    now. Raises RequestError or WorkError.
    """
    check_trackers(settings)
    if settings.hub_model_id is None:
        return
    if settings.lora is not None and Path(settings.model).is_dir():
        raise SettingsError(
            f"push_to_hub would upload an adapter on {settings.model}, a folder that nobody else "
            f"has. Name the base as on the hub in `model`; or leave push_to_hub out, and use "
            f"`accord merge` and `accord push`, or `accord push --base-model OWNER/NAME`, after."
        )
    name, private = settings.hub_model_id, settings.hub_private_repo
    processes().run_on_all(
        lambda: create_repository(name, private=private) if processes().is_main else None
    )


def upload_if_asked(settings: TrainSettings) -> None:
    """Upload the saved model where `push_to_hub` asks for it. A failure is logged with the command
    that does it later: the run itself is done."""
    if settings.hub_model_id is None:
        return
    folder = Path(settings.output_dir) / "model"
    try:
        url = upload_model(folder, settings.hub_model_id, private=settings.hub_private_repo)
    except AccordError as error:
        public = "" if settings.hub_private_repo else " --public"
        log.error(
            "The model is saved in %s, but was not uploaded: %s Do it later with `accord push %s "
            "%s%s`.",
            folder,
            error,
            folder,
            settings.hub_model_id,
            public,
        )
    else:
        log.info("Uploaded to %s", url)
