"""A whole small project in a notebook: SFT, preferences, DPO, a plot, samples, ratings.

Run it with `python examples/notebook.py`, or open it cell by cell in VS Code or Jupyter (jupytext).
It takes about a minute on two CPU cores: the model is small and trained from scratch on accord's
embedded world, whose true reward is known. With a model of your own, begin at "Preferences".
"""

# %% [markdown]
# ## A world, and a model that knows nothing yet

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import accord
from accord.settings.stages import WorldSettings
from accord.world.build import build_world
from accord.world.reward import true_reward

folder = Path(tempfile.mkdtemp())
build_world(
    WorldSettings(
        output_dir=str(folder), demonstrations=4000, corpus=0, train_prompts=300, test_prompts=50
    )
)


def read_prompts(name):
    return [json.loads(line)["prompt"] for line in (folder / name).open(encoding="utf-8")]


# %% [markdown]
# ## Supervised fine-tuning

# %%
sft = accord.train(
    "sft",
    model=folder / "model",
    dataset=folder / "demonstrations.jsonl",
    per_device_train_batch_size=32,
    learning_rate=4e-3,
    warmup_ratio=0.05,
    max_length=256,
)
print(sft)
sft.save(folder / "sft")  # DPO trains in place; the folder keeps the start

# %% [markdown]
# ## Preferences: four answers to each prompt, the best and the worst by the true reward

# %%
prompts = read_prompts("train_prompts.jsonl")
answers = accord.sample(sft.model, prompts, num_responses=4, max_new_tokens=32, seed=1)
print(answers)


def as_pair(row):
    """The best and the worst of a prompt's answers; None where all are worth the same."""
    worst, *_, best = sorted(row.responses, key=lambda text: true_reward(row.prompt, text))
    if true_reward(row.prompt, worst) == true_reward(row.prompt, best):
        return None
    return {"prompt": row.prompt, "chosen": best, "rejected": worst}


pairs = [pair for pair in map(as_pair, answers) if pair is not None]
print(len(pairs), "pairs")

# %% [markdown]
# ## DPO on them

# %%
dpo = accord.train(
    "dpo",
    model=sft.model,
    dataset=pairs,
    beta=0.3,
    num_train_epochs=2,
    per_device_train_batch_size=16,
    learning_rate=4e-4,
    max_length=256,
)
print(dpo)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
for axis, run, name in ((axes[0], sft, "loss"), (axes[1], dpo, "rewards/margins")):
    axis.plot([row["step"] for row in run.metrics], [row[name] for row in run.metrics])
    axis.set(title=f"{run.method}: {name}", xlabel="step")
figure.tight_layout()
figure.savefig(folder / "curves.png")

# %% [markdown]
# ## Did it work? Unseen prompts, compared by the true reward

# %%
unseen = read_prompts("test_prompts.jsonl")
before = accord.sample(folder / "sft" / "model", unseen, num_responses=2, max_new_tokens=32)
after = accord.sample(dpo.model, unseen, num_responses=2, max_new_tokens=32)


def by_truth(prompt, a, b):
    worth_a, worth_b = true_reward(prompt, a), true_reward(prompt, b)
    return "tie" if worth_a == worth_b else "a" if worth_a > worth_b else "b"


battles = accord.compare(after, before, judge=by_truth, names=("dpo", "sft"))
print(battles)
for model in accord.rate(battles, anchor="sft").models:
    print(f"{model.model:>4}  {model.rating:6.0f}  ({model.low:.0f} to {model.high:.0f})")
