"""Methods of your own, each in one function: a loss of pairs, and advantages for an online method.

python examples/custom_method.py MODEL PAIRS.jsonl
"""

import sys

import torch
from torch.nn.functional import softplus

import accord
from accord.learn.online.methods import Targets, final_scores


def margin_dpo(terms, settings):
    """DPO that asks for more where the chosen response is the longer one.

    `terms` (accord.objectives.PairTerms) holds tensors of P pairs, each (P,): the log-ratios to
    the reference of the chosen and the rejected response, and their lengths in tokens.
    """
    longer = (terms.chosen_length - terms.rejected_length).clamp(min=0)
    margin = settings.beta * (terms.chosen - terms.rejected) - 0.01 * longer
    return softplus(-margin)  # −log σ(margin), one loss a pair


def sign_advantages(episodes, settings, beta):
    """+1 for responses above their group's mean score, −1 below, on each of their tokens.

    `episodes` holds P prompts with K responses each, E = P·K episodes of at most T tokens:
    advantages are (E, T), and `active` (P,) marks the prompts that steps are taken on.
    """
    scores = final_scores(episodes, settings).view(len(episodes.groups), -1)  # (P, K)
    signs = (scores - scores.mean(1, keepdim=True)).sign()
    active = torch.ones(len(scores), dtype=torch.bool)
    return Targets(signs.reshape(-1, 1) * episodes.mask, active)


def distinct_words(prompts, responses):
    return [len(set(text.split())) / 10 for text in responses]


def main(model: str, pairs: str) -> tuple[accord.Run, accord.Run]:
    dpo = accord.train("dpo", model=model, dataset=pairs, loss=margin_dpo, max_steps=3)
    online = accord.train(
        "grpo",
        model=dpo.model,  # trained further, in place
        dataset=pairs,
        reward=distinct_words,
        targets=sign_advantages,
        num_generations=4,
        per_device_train_batch_size=8,
        max_new_tokens=16,
        max_steps=2,
    )
    print(dpo, online, sep="\n")
    return dpo, online


if __name__ == "__main__":
    main(*sys.argv[1:])
