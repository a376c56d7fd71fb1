"""Stages of every kind and method, with the digests that earlier versions gave them."""

from __future__ import annotations

from dataclasses import dataclass

from accord.settings.recipe import StagePlan, single_stage

TRAIN = ["model=model", "dataset=rows.jsonl", "output_dir=out"]
ONLINE = [*TRAIN, "reward_model=reward"]
OTHER_WAY = [
    "save_steps=7",
    "save_total_limit=2",
    "logging_steps=3",
    "resume=false",
    "device=cpu",
    "max_tokens_per_forward=64",
]
JUDGE = (
    "{kind: endpoint, base_url: 'http://h:1/v1', model: model, principles_file: principles.yaml, "
    "api_key_env: KEY, timeout: 9, retries: 1, max_concurrent: 2, max_calls: 5, "
    "max_total_tokens: 6}"
)
REWARDS = (
    "[{kind: reward_model, model: [reward, model]}, {kind: length, at_most: 9, tokenizer: model}, "
    "{kind: python, function: 'score.py:f'}, {kind: judge, base_url: 'http://h:1/v1', model: m, "
    "principles_file: principles.yaml, timeout: 9, max_calls: 5}]"
)
VLLM = "{kind: vllm, url: 'http://h:1', model: model, timeout: 9, retries: 1, api_key_env: KEY}"
CONTESTANTS = (
    "contestants=[{name: a, responses: responses.jsonl, model: model, train: gone, "
    "reward_model: reward}, {name: b, responses: responses.jsonl, best_of: 2, ceiling: true}]"
)


@dataclass(frozen=True)
class Case:
    """A stage, the first 16 digits of the digest that version 68e3a85 gave it, and of that of the
    settings which its checkpoints and partial files compare.

    Those of training are later: rows over the limit are dropped by default since then, not cut.
    """

    kind: str
    method: str | None
    overrides: list[str]
    digest: str
    settings_digest: str | None = None

    def plan(self, *more: str) -> StagePlan:
        return single_stage(self.kind, self.method, overrides=[*self.overrides, *more])


CASES = {
    "world": Case("world", None, ["output_dir=out"], "81540a0fa0ca6679"),
    "world, other": Case(
        "world", None, ["output_dir=out", "seed=3", "vocab_size=400"], "6e80bf061613005e"
    ),
    "scratch": Case(
        "scratch",
        None,
        [
            "dataset=rows.jsonl",
            "output_dir=out",
            "config={hidden_size: 8, tie_word_embeddings: true}",
        ],
        "6ea85f8aa4ddbdf4",
    ),
    "split": Case(
        "split", None, ["dataset=rows.jsonl", "output_dir=out", "seed=1"], "ef54c60a6ec224f4"
    ),
    "sft": Case("train", "sft", TRAIN, "54f87694b27f6743", "7f33fb9c7b3c532d"),
    "sft, run another way": Case(
        "train", "sft", [*TRAIN, *OTHER_WAY], "54f87694b27f6743", "7f33fb9c7b3c532d"
    ),
    "sft, lora": Case(
        "train",
        "sft",
        [*TRAIN, "lora={r: 4}", "eval_dataset=prompts.jsonl", "eval_steps=5"],
        "5d4e8eda10ae2a5e",
        "8efb5f41b12360c8",
    ),
    "reward": Case(
        "train",
        "reward",
        [*TRAIN, "reference_dataset=prompts.jsonl", "heads=3"],
        "93d7967af1f1316a",
        "c97ed3df59b4f251",
    ),
    "dpo": Case(
        "train", "dpo", [*TRAIN, "ref_model=model"], "8f49347f39a2516a", "5e302d974cfe4b59"
    ),
    "dpo, run another way": Case(
        "train",
        "dpo",
        [*TRAIN, "ref_model=model", "precompute_ref_log_probs=true", *OTHER_WAY],
        "8f49347f39a2516a",
        "5e302d974cfe4b59",
    ),
    "dpo, a loss of a pass": Case(
        "train", "dpo", [*TRAIN, "loss_type=aot"], "9440bec41f6d3f9f", "f52504f4a930dc30"
    ),
    "dpo, a loss of a pass of 64 tokens": Case(
        "train",
        "dpo",
        [*TRAIN, "loss_type=[sigmoid, bco_pair]", "max_tokens_per_forward=64"],
        "207bf18d89739409",
        "07563419cca8a37f",
    ),
    "ipo": Case("train", "ipo", TRAIN, "5a697c476f2acef5", "66575a0948b01598"),
    "kto": Case(
        "train",
        "kto",
        [*TRAIN, "max_tokens_per_forward=64"],
        "d33e60279a6d33a6",
        "88bb671c2c9fa881",
    ),
    "orpo": Case("train", "orpo", TRAIN, "017beaff327e232f", "d4c5a3e8149a34ed"),
    "simpo": Case("train", "simpo", TRAIN, "a25665eaea59bbc7", "2d7ff760a636252b"),
    "ppo": Case(
        "train", "ppo", [*ONLINE, "ptx_dataset=rows.jsonl"], "177e2462b1c2ca3c", "2dce149bbc28590b"
    ),
    "ppo, run another way": Case(
        "train",
        "ppo",
        [*ONLINE, "ptx_dataset=rows.jsonl", *OTHER_WAY],
        "177e2462b1c2ca3c",
        "2dce149bbc28590b",
    ),
    "grpo, sources": Case(
        "train", "grpo", [*TRAIN, f"rewards={REWARDS}"], "9acb3af060765b48", "d656c6fc66dc1ac8"
    ),
    "grpo, vllm": Case(
        "train",
        "grpo",
        [*ONLINE, "lora=on", f"sampler={VLLM}"],
        "4583a2bff521c2ee",
        "702ff62e100417e6",
    ),
    "rloo": Case("train", "rloo", [*ONLINE, "max_steps=3"], "726deb60f32a1082", "7c22b5e6085d8ba8"),
    # New since: their digests are those of the version that brought them.
    "gspo": Case("train", "gspo", ONLINE, "4c881a936144e4b7", "bb63bdfded28c499"),
    "cispo": Case("train", "cispo", ONLINE, "6602ace503426d1c", "e6ba7956c41d1b8e"),
    "reinforce_plus_plus": Case(
        "train", "reinforce_plus_plus", ONLINE, "fe8757e0cd7e6fd1", "a6bd3eb280bbe1c8"
    ),
    "sample": Case(
        "sample",
        None,
        [*TRAIN, "device=cpu", "store=answers.db"],
        "45ef9dfe99cfec60",
        "41226c9772fc1576",
    ),
    "sample, vllm": Case(
        "sample", None, [*TRAIN, f"sampler={VLLM}"], "07817883c71101f5", "4d62f64f6f7e342e"
    ),
    "compare": Case(
        "compare",
        None,
        ["responses=[responses.jsonl, responses.jsonl]", "output_dir=out", "earlier=store.db"],
        "bc22ec73562fc093",
    ),
    "compare, reward model": Case(
        "compare",
        None,
        [
            "responses=[responses.jsonl]",
            "output_dir=out",
            "judge={kind: reward_model, model: reward}",
        ],
        "dcccfa67f651fb1e",
    ),
    "compare, endpoint": Case(
        "compare",
        None,
        ["responses=[responses.jsonl]", "output_dir=out", f"judge={JUDGE}"],
        "600d5e0c441217ce",
    ),
    "revise": Case(
        "revise",
        None,
        ["responses=[responses.jsonl]", "output_dir=out", "reviser={kind: world}"],
        "1ee069602bab89d7",
    ),
    "revise, endpoint": Case(
        "revise",
        None,
        [
            "dataset=rows.jsonl",
            "output_dir=out",
            "constitution=[principles.yaml]",
            "reviser={kind: endpoint, base_url: 'http://h:1/v1', model: model, timeout: 9}",
            f"judge={JUDGE}",
        ],
        "10af4a400538e4ad",
    ),
    "select": Case(
        "select",
        None,
        ["responses=responses.jsonl", "output_dir=out", "model_name=best"],
        "18153d45b1d1bbfd",
    ),
    "select, on the cpu": Case(
        "select",
        None,
        [
            "responses=responses.jsonl",
            "output_dir=out",
            "model_name=best",
            "device=cpu",
            "reward_model=reward",
        ],
        "7a70c3bea9c7332f",
    ),
    "select, sources": Case(
        "select",
        None,
        ["responses=responses.jsonl", "output_dir=out", "model_name=best", f"rewards={REWARDS}"],
        "92c9e1b7429a8cd1",
    ),
    "iterate": Case("iterate", None, TRAIN, "4bc1db75c29091a4"),
    "iterate, more rounds": Case(
        "iterate", None, [*TRAIN, "rounds=5", "device=cpu"], "4bc1db75c29091a4"
    ),
    "iterate, kto": Case(
        "iterate",
        None,
        [
            *TRAIN,
            "eval_dataset=prompts.jsonl",
            "train={method: kto, beta: 0.3, save_steps: 5, logging_steps: 2, "
            "max_tokens_per_forward: 9, eval_dataset: rows.jsonl}",
            f"judge={JUDGE}",
        ],
        "9cd5eb77b08052e4",
    ),
    "iterate, a loss of a pass": Case(
        "iterate",
        None,
        [
            *TRAIN,
            "train={method: dpo, loss_type: aot, max_tokens_per_forward: 9, "
            "precompute_ref_log_probs: true}",
        ],
        "265513254d9af254",
    ),
    "iterate, vllm": Case(
        "iterate",
        None,
        [
            *TRAIN,
            "train={lora: {r: 4}}",
            f"sampler={VLLM}",
            "judge={kind: reward_model, model: reward}",
        ],
        "e5c5257d28249598",
    ),
    "arena": Case("arena", None, [CONTESTANTS, "output_dir=out", "anchor=a"], "efff5c97b0031777"),
    "arena, endpoint": Case(
        "arena", None, [CONTESTANTS, "output_dir=out", f"judge={JUDGE}"], "6e090706cbb6970e"
    ),
    "audit": Case(
        "audit",
        None,
        ["model=model", "before_responses=responses.jsonl", "dataset=rows.jsonl", "output_dir=out"],
        "13fc90fd5b91e8f8",
    ),
    "redteam": Case(
        "redteam",
        None,
        ["model=model", "suites=[rows.jsonl]", "output_dir=out"],
        "613500ab14e014ae",
    ),
    "probe": Case(
        "probe",
        None,
        ["reward_model=reward", "preferences=rows.jsonl", "output_dir=out"],
        "aaca6874d806c79f",
    ),
    "curve": Case(
        "curve",
        None,
        ["model=model", "dataset=rows.jsonl", "reward_model=reward", "output_dir=out"],
        "7b34a63ebdf50b24",
    ),
    "evaluate": Case(
        "evaluate", None, [CONTESTANTS, "output_dir=out", "reference=model"], "f6dec9cc8a1e0b3f"
    ),
    "evaluate, on the cpu": Case(
        "evaluate",
        None,
        [
            CONTESTANTS,
            "output_dir=out",
            "reference=model",
            "reward_model=reward",
            "comparisons=store.db",
            "device=cpu",
        ],
        "28746ed344813bf3",
    ),
    "report": Case(
        "report",
        None,
        [CONTESTANTS, "run=.", "output_dir=out", "evaluation=prompts.jsonl", "ratings=rows.jsonl"],
        "3ab1474f840a926f",
    ),
}
