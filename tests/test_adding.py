"""CONTRIBUTING's "Adding a …" lists are true: a toy of each kind, added to a copy of the source in
as many files as the list promises, works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.lm.toys import save_toy

pytestmark = pytest.mark.slow  # each starts a process of its own

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "accord"
PAIRS = [
    {"prompt": "say", "chosen": " the sea", "rejected": " a cat"},
    {"prompt": "ask", "chosen": " the sun", "rejected": " a dog sat"},
]
TRAINING = "max_steps=1 device=cpu model=model dataset=pairs.jsonl output_dir=out".split()

Edits = Mapping[str, tuple[str, str]]
"""By file: an anchor, which is in the file once, and the text that is inserted before it; "" is the
end of the file."""

LOSS: Edits = {
    "objectives/anchored.py": (
        "",
        '''

def toy_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """A toy."""
    return (1.0 - beta * (chosen - rejected)) ** 2


PAIR_LOSSES["toy"] = lambda t, h: toy_loss(t.chosen, t.rejected, beta=h.beta)
''',
    ),
    "settings/preferences.py": ('    "sigmoid",\n    "hinge",\n', '    "toy",\n'),
}
METHOD: Edits = {
    "settings/groups.py": (
        "GROUP_METHODS: dict",
        '''class ToySettings(GroupSettings):
    """learns from the sign of each score."""


''',
    ),
    "learn/online/methods.py": (
        "",
        '''

def toy_targets(episodes: Episodes, settings: Any, beta: float) -> Targets:
    """A toy."""
    scores = final_scores(episodes, settings).view(len(episodes.groups), -1)
    return _response_targets(scores.sign(), episodes, all_active=True)


ONLINE["toy"] = OnlineMethod(toy_targets, clipped_surrogate, logs_group_metrics=True)
''',
    ),
}
SOURCE: Edits = {
    "settings/rewards.py": (
        "RewardSource = Annotated[",
        '''class ToySource(SourceSettings):
    """Counts a letter."""

    kind: Literal["toy"] = Field(description="Counts a letter.")
    letter: str = Field("a", description="The letter.")


''',
    ),
    "compare/rewards/rules.py": (
        "",
        """

from accord.settings.rewards import ToySource  # noqa: E402

RULES[ToySource] = _text_scores(lambda source: lambda text: float(text.count(source.letter)))
""",
    ),
}
COMMAND: Edits = {
    "cli/data.py": (
        '@commands.command("check")',
        '''@commands.command("toy")
def toy() -> None:
    """Say what a toy says."""
    typer.echo("squeak")


''',
    ),
}
SETTING: Edits = {
    "settings/training.py": (
        "    weight_decay: float = Field(",
        '    toy_setting: int = Field(3, ge=1, description="A toy.")\n',
    ),
}
# What the toys above insert besides: a name in a literal table or union of the same files.
TABLES = {
    "settings/groups.py": ('    "cispo": CispoSettings,\n', '    "toy": ToySettings,\n'),
    "settings/rewards.py": ("    | JudgeSource,\n", "    | ToySource\n"),
}


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A copy of the package, with a toy model and pairs beside it."""
    # With what Python has compiled of it, but for what another process is writing.
    shutil.copytree(PACKAGE, tmp_path / "src/accord", ignore=shutil.ignore_patterns("*.pyc.*"))
    save_toy(tmp_path / "model")
    rows = "".join(json.dumps(row) + "\n" for row in PAIRS)
    (tmp_path / "pairs.jsonl").write_text(rows, encoding="utf-8")
    return tmp_path


def insert(path: Path, anchor: str, text: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert not anchor or source.count(anchor) == 1, f"{path}: {anchor!r}"
    changed = source.replace(anchor, text + anchor) if anchor else source + text
    path.write_text(changed, encoding="utf-8")


def add(workdir: Path, edits: Edits, *, files: int) -> None:
    """Make the edits, in exactly as many files as CONTRIBUTING promises."""
    assert len(edits) == files
    for name, edit in edits.items():
        path = workdir / "src/accord" / name
        insert(path, *edit)
        if name in TABLES:
            insert(path, *TABLES[name])


def accord(workdir: Path, *arguments: str) -> str:
    """What the changed accord prints."""
    done = subprocess.run(
        [sys.executable, "-m", "accord", *arguments],
        cwd=workdir,
        env={**os.environ, "PYTHONPATH": str(workdir / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_metrics(workdir: Path) -> dict[str, float]:
    line = (workdir / "out/metrics.jsonl").read_text(encoding="utf-8").splitlines()[0]
    metrics: dict[str, float] = json.loads(line)
    return metrics


def test_a_pair_loss_in_two_files(workdir: Path) -> None:
    add(workdir, LOSS, files=2)
    accord(workdir, "train", "dpo", "loss_type=toy", *TRAINING)
    assert first_metrics(workdir)["loss"] == pytest.approx(1.0)  # (1 − β·0)² at the reference


def test_an_online_method_in_two_files(workdir: Path) -> None:
    add(workdir, METHOD, files=2)
    assert "toy" in accord(workdir, "train", "--help")
    reward = "rewards=[{kind: length, at_most: 4}]"
    sizes = ["per_device_train_batch_size=8", "num_generations=4", "max_new_tokens=4"]
    accord(workdir, "train", "toy", reward, *sizes, *TRAINING)
    assert "frac_reward_zero_std" in first_metrics(workdir)


def test_a_reward_source_in_two_files(workdir: Path) -> None:
    add(workdir, SOURCE, files=2)
    sizes = ["per_device_train_batch_size=8", "num_generations=4", "max_new_tokens=4"]
    accord(workdir, "train", "grpo", "rewards=[{kind: toy, letter: e}]", *sizes, *TRAINING)
    assert "rewards/toy/mean" in first_metrics(workdir)


def test_a_command_in_one_file(workdir: Path) -> None:
    add(workdir, COMMAND, files=1)
    assert accord(workdir, "data", "toy") == "squeak\n"
    assert "toy" in accord(workdir, "data", "--help")


def test_a_setting_in_one_file(workdir: Path) -> None:
    add(workdir, SETTING, files=1)
    accord(workdir, "train", "sft", "toy_setting=4", *TRAINING)
    manifest = json.loads((workdir / "out/manifest.json").read_text(encoding="utf-8"))
    assert manifest["settings"]["toy_setting"] == 4
