"""The settings of an audit, which compares a model's responses before and after training."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import Field, model_validator

from accord.settings.base import InputPath, NotIdentity, Settings, UnlessDefault
from accord.settings.dialogue import DialogueText
from accord.settings.rewards import Rewards, RewardSource, WorldSource, model_source
from accord.settings.stages import Contestant

TaskRule = Literal["exact", "contains", "choice", "number", "regex"]


class TaskRows(Settings):
    """A task of one's own: prompts with the answers that count as right."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="The task's name; its audit is called `task_NAME`.",
    )
    dataset: Annotated[str, InputPath] = Field(
        description="Rows with a prompt (text or messages) and an answer: text, a number, or a "
        "list of all that are accepted."
    )
    rule: TaskRule = Field(
        "exact",
        description="How an answer is graded: it is the accepted text (`exact`), holds it as whole "
        "words (`contains`), chooses its letter (`choice`), ends in its number (`number`), or "
        "matches it as a regular expression (`regex`).",
    )
    column: str = Field("answer", description="The column of the accepted answers.")
    max_new_tokens: int = Field(256, ge=1, description="Maximum tokens of a response.")
    max_prompts: int | None = Field(
        None, ge=1, description="Use only the first usable rows, up to this number."
    )


class AuditLimits(Settings):
    """The two limits of an audit, in the unit of its number: 0.05 for a share of 5%."""

    warn: float = Field(description="Values beyond it are warned of.")
    fail: float = Field(description="The audit fails where the whole interval lies beyond it.")


TASK_PREFIX = "task_"
LIMITED: Mapping[str, Literal["high", "low"]] = {
    **dict.fromkeys(
        (
            *("length_gain", "ensemble_disagreement", "over_refusal", "harmful_compliance"),
            *("refusals", "one_answer", "shared_answers", "shared_wording", "length", "flattery"),
            *("hedging", "repetition", "stock_phrase", "lost_phrase", "held_out_loss"),
        ),
        "high",
    ),
    **dict.fromkeys(
        (
            *("independent_gain", "over_optimisation", "best_of_n", "diversity_per_prompt"),
            *("diversity_across_prompts", "yes_no_questions", TASK_PREFIX),
        ),
        "low",
    ),
}
"""The audits whose limits may be set, and on which side of them the bad values are."""


class AuditSettings(Settings):
    """Audit a trained model: did quality rise with the reward, did it collapse, what did it
    break?"""

    model: Annotated[str | None, InputPath] = Field(
        None, description="Folder of the trained model; absent for `responses` of best-of-N."
    )
    before: Annotated[str | None, InputPath] = Field(
        None, description="Folder of the model that training started from."
    )
    output_dir: Annotated[str, NotIdentity] = Field(description="Folder for audit.json.")
    dataset: Annotated[str | None, InputPath] = Field(
        None,
        description="Rows with prompts that neither model was trained on; `meta.kind` (harmful, "
        "jailbreak, safe, …) says which should be refused.",
    )
    responses: Annotated[str | None, InputPath] = Field(
        None, description="The model's responses.jsonl; by default it is sampled on `dataset`."
    )
    before_responses: Annotated[str | None, InputPath] = Field(
        None, description="The same of the model before."
    )
    model_name: str = Field("after", description="The model's name in the audits.")
    before_name: str = Field("before", description="The name of the model before.")
    dialogue_text: DialogueText = "turns"
    num_responses: int = Field(
        4, ge=1, description="Responses to each prompt; with one, diversity is not measured."
    )
    max_new_tokens: int = Field(256, ge=1, description="Maximum tokens of a response.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature.")
    max_prompts: int | None = Field(
        None, ge=1, description="Use only the first prompts, up to this number."
    )
    reward_model: Annotated[str | None, InputPath] = Field(
        None,
        description="Folder of the reward model that it was trained against: short for `rewards` "
        "with this one source.",
    )
    rewards: Rewards | None = Field(
        None, description="The reward that it was trained against, whose gain is audited."
    )
    independent: Rewards | None = Field(
        None,
        description="A measure of quality that had no part in the training: another reward model, "
        "an AI judge, rules.",
    )
    world: bool = Field(
        False, description="Take the embedded world's true reward as the independent measure."
    )
    ensemble: Annotated[list[str], InputPath] = Field(
        default_factory=list,
        description="Folders of reward models that are scored apart, for their disagreement.",
    )
    curve: list[Contestant] = Field(
        default_factory=list,
        description="Checkpoints, or best-of-N with growing N, in the order of growing "
        "optimisation: their rewards are fitted over √KL.",
    )
    tasks: Annotated[list[TaskRows], UnlessDefault] = Field(
        [],
        description="Tasks of one's own, which both models answer greedily: what share of the "
        "answers is right before and after.",
    )
    held_out: Annotated[str | None, InputPath, UnlessDefault] = Field(
        None,
        description="Demonstrations or text that neither model was trained on, as for `sft`: how "
        "much the loss on their tokens rose.",
    )
    questions: Annotated[str | None, InputPath, UnlessDefault] = Field(
        None,
        description="Rows with a `question` and an `answer`, yes or no: whether each model finds "
        "the right one more probable.",
    )
    limits: Annotated[dict[str, AuditLimits], UnlessDefault] = Field(
        {},
        description="By name of an audit the limits that stand in for its own: "
        "`{length: {warn: 1.3, fail: 1.6}}`.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of sampling.")
    device: Annotated[Literal["auto", "cpu", "cuda"], NotIdentity] = Field(
        "auto", description="Device to compute on."
    )

    @model_validator(mode="after")
    def _check_sides(self) -> AuditSettings:
        sides: tuple[tuple[str, str | None, str, str | None], ...] = (
            ("model", self.model, "responses", self.responses),
            ("before", self.before, "before_responses", self.before_responses),
        )
        if not self.compares_responses and self.what_it_broke:
            needs = ("reward_model", "rewards", "independent", "world", "ensemble", "curve")
            idle = next((key for key in needs if getattr(self, key)), None)
            if idle is not None:
                raise ValueError(
                    f"`{idle}` is about responses to prompts, and there is no `dataset` to sample "
                    f"them on. Set it, or give both models' responses, or leave `{idle}` out."
                )
            sides = ()  # `_check_broken` asks for the models
        for model_key, model, responses_key, responses in sides:
            if model is None and responses is None:
                raise ValueError(f"Set `{model_key}` or `{responses_key}`: there is neither.")
            if responses is None and self.dataset is None:
                raise ValueError(
                    f"`{model_key}` is sampled, but there is no `dataset` with prompts. Set it, or "
                    f"give `{responses_key}`; `tasks`, `held_out` and `questions` need neither."
                )
        if self.model_name == self.before_name:
            raise ValueError(f"`model_name` and `before_name` are both {self.before_name!r}.")
        return self

    @model_validator(mode="after")
    def _check_rewards(self) -> AuditSettings:
        if self.reward_model is not None and self.rewards is not None:
            raise ValueError("`reward_model` and `rewards` both say what scores. Keep one of them.")
        if self.world and self.independent is not None:
            raise ValueError("`world` is an independent measure, as `independent` is. Keep one.")
        if len(self.ensemble) == 1:
            raise ValueError(
                "`ensemble` has one member, which can't disagree with itself. Name two or more."
            )
        if len(set(self.ensemble)) < len(self.ensemble):
            raise ValueError("`ensemble` names a folder twice. A model agrees with itself.")
        if self.curve and self.before is None and any(p.best_of is None for p in self.curve):
            raise ValueError(
                "`curve` needs the KL from the model before. Set `before` to its folder."
            )
        return self

    @model_validator(mode="after")
    def _check_broken(self) -> AuditSettings:
        asked = self.what_it_broke
        for key, folder in (("model", self.model), ("before", self.before)):
            if asked is not None and folder is None:
                raise ValueError(
                    f"`{asked}` asks both models, and there are only responses where `{key}` is "
                    f"absent. Set `{key}` to its folder, or leave `{asked}` out."
                )
        names = [task.name for task in self.tasks]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"Two of `tasks` are called {twice!r}. Name each once.")
        return self

    @model_validator(mode="after")
    def _check_limits(self) -> AuditSettings:
        tasks = [TASK_PREFIX + task.name for task in self.tasks]
        known = [*(name for name in LIMITED if name != TASK_PREFIX), *tasks]
        for name, limits in self.limits.items():
            if name not in known:
                near = get_close_matches(name, known, n=1)
                suggestion = f"Did you mean `{near[0]}`? " if near else ""
                raise ValueError(
                    f"`limits` names an audit {name!r}, which there is not. {suggestion}"
                    f"The audits: {', '.join(known)}."
                )
            bad = LIMITED[TASK_PREFIX if name in tasks else name]
            if limits.warn > limits.fail if bad == "high" else limits.warn < limits.fail:
                side = "above" if bad == "high" else "below"
                raise ValueError(
                    f"The limits of `{name}` warn at {limits.warn:g} and fail at {limits.fail:g}, "
                    f"but its bad values are the {bad} ones, so "
                    f"`warn` can't lie {side} `fail`. Exchange them."
                )
        return self

    @property
    def limit_pairs(self) -> dict[str, tuple[float, float]]:
        """By name of an audit its limits `warn` and `fail`."""
        return {name: (limits.warn, limits.fail) for name, limits in self.limits.items()}

    @property
    def compares_responses(self) -> bool:
        """Whether responses to prompts are audited, and not only tasks, held-out text and
        questions."""
        return not (self.dataset is self.responses is self.before_responses is None)

    @property
    def what_it_broke(self) -> str | None:
        """The first given of the settings that ask what training broke."""
        given = {"tasks": self.tasks, "held_out": self.held_out, "questions": self.questions}
        return next((key for key, value in given.items() if value), None)

    @property
    def proxy_sources(self) -> list[RewardSource] | None:
        """The sources of the reward that the model was trained against."""
        return self.rewards if self.reward_model is None else [model_source(self.reward_model)]

    @property
    def independent_sources(self) -> list[RewardSource] | None:
        """The sources of the independent measure."""
        return [WorldSource(kind="world")] if self.world else self.independent
