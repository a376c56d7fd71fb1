"""Names of other tools for accord's settings, which the error about such a key explains.

The tools are TRL with Hugging Face's TrainingArguments, Axolotl, LLaMA-Factory, torchtune,
OpenRLHF, verl and Unsloth. Names with exactly the same meaning are accepted instead: see `aliases`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Foreign:
    """A key of another tool; `accord_key` is its counterpart, or "" if there is none."""

    tool: str
    accord_key: str
    note: str = ""


_HF, _TRL, _AX, _LF = "Hugging Face", "TRL", "Axolotl", "LLaMA-Factory"
_TT, _OR, _US, _VERL = "torchtune", "OpenRLHF", "Unsloth", "verl"
_LORA = "Write `lora: {r: 16, alpha: 32}`, or `lora: on` for the defaults."
_PACKED = "Batches are always packed without padding; leave it out."
_MASKED = "It is `response`, `assistant` or `all`."
_TRACKER = "Write `report_to: wandb`, `tensorboard` or `trackio`; metrics.jsonl is written always."
_NF4 = "`quantization: nf4` with `lora` holds the base in 4 bits, with double quantisation."
_STEPS = "`save_steps`, `eval_steps` and `logging_steps` count optimiser steps."
_SPLIT = "A `split` stage holds rows out; name them in `eval_dataset`."
_METHOD = "The method names the loss: `accord train dpo`, or `method: dpo` in a recipe."
_ESTIMATOR = "The method names it, such as `accord train grpo` or `reinforce_plus_plus`."
_PREFERS = "accord chooses the attention that fits the device; leave it out."
_NORMALISED = "Scores are always normalised with the reward model's mean and standard deviation."
_SOURCES = "A function is `rewards: [{kind: python, function: module:name}]`."

FOREIGN: dict[str, Foreign] = {
    # Hugging Face TrainingArguments
    "fp16": Foreign(_HF, "precision", "fp16 is not offered; use `precision: bf16` or `fp32`."),
    "dtype": Foreign(_TRL, "precision"),
    "torch_dtype": Foreign(_TRL, "precision"),
    "warmup_steps": Foreign(_HF, "warmup_ratio", "It is a share of the steps, from 0 to 1."),
    "logging_dir": Foreign(_HF, "output_dir", "metrics.jsonl lies in it."),
    "hub_strategy": Foreign(_HF, "push_to_hub", "The model is uploaded when the run has ended."),
    "hub_token": Foreign(_HF, "", "Set HF_TOKEN, or log in with `hf auth login`; leave it out."),
    "save_only_model": Foreign(_HF, "", "Checkpoints always resume; leave it out."),
    "trackio_space_id": Foreign(_HF, "", "Set TRACKIO_SPACE_ID; leave it out."),
    "logging_strategy": Foreign(_HF, "logging_steps", _STEPS),
    "eval_strategy": Foreign(_HF, "eval_steps", _STEPS),
    "evaluation_strategy": Foreign(_HF, "eval_steps", _STEPS),
    "save_strategy": Foreign(_HF, "save_steps", _STEPS),
    "do_train": Foreign(_HF, "", "`accord train` trains; leave it out."),
    "do_eval": Foreign(_HF, "eval_dataset", "Evaluation runs if it names held-out rows."),
    "data_seed": Foreign(_HF, "seed", "One seed determines all random draws."),
    "full_determinism": Foreign(_HF, "", "Runs are deterministic given `seed`; leave it out."),
    "overwrite_output_dir": Foreign(_HF, "resume", "Remove the folder to start over."),
    "per_device_eval_batch_size": Foreign(
        _HF, "per_device_train_batch_size", "Evaluation uses the same size."
    ),
    "label_smoothing_factor": Foreign(
        _HF, "label_smoothing", "It smooths the labels of DPO, not those of tokens."
    ),
    "lr_scheduler_kwargs": Foreign(_HF, "lr_scheduler_type"),
    "dataloader_num_workers": Foreign(
        _HF, "", "Rows are read once and stay in memory; leave it out."
    ),
    "group_by_length": Foreign(_HF, "", _PACKED),
    "deepspeed": Foreign(_HF, "", "DeepSpeed is not offered; leave it out."),
    "fsdp": Foreign(_HF, "sharding", "Write `sharding: fsdp`; it needs several processes."),
    "use_cpu": Foreign(_HF, "device", "Write `device: cpu`."),
    "torch_compile": Foreign(_HF, "", "Models are not compiled; leave it out."),
    "tf32": Foreign(_HF, "precision"),
    "attn_implementation": Foreign(_TRL, "", _PREFERS),
    "remove_unused_columns": Foreign(_HF, "", "Only known columns are read; leave it out."),
    "no_remove_unused_columns": Foreign(_TRL, "", "Only known columns are read; leave it out."),
    "gradient_checkpointing_kwargs": Foreign(_HF, "gradient_checkpointing"),
    "ddp_find_unused_parameters": Foreign(_HF, "", "Leave it out."),
    "use_liger_kernel": Foreign(_HF, "", "Losses are computed in chunks already; leave it out."),
    "disable_tqdm": Foreign(_HF, "", "There is no progress bar to disable; leave it out."),
    "do_sample": Foreign(_HF, "temperature", "Write `temperature: 0` for the likeliest tokens."),
    # TRL
    "dataset_config": Foreign(_TRL, "dataset", "Write `owner/name:config:split`."),
    "dataset_train_split": Foreign(_TRL, "dataset", "Write `owner/name:split`."),
    "dataset_test_split": Foreign(_TRL, "eval_dataset", "Write `owner/name:split`."),
    "packing": Foreign(_TRL, "", _PACKED),
    "padding_free": Foreign(_TRL, "", _PACKED),
    "completion_only_loss": Foreign(_TRL, "loss_on", _MASKED),
    "assistant_only_loss": Foreign(_TRL, "loss_on", _MASKED),
    "truncation_mode": Foreign(_TRL, "long_prompts", "It is `drop` or `keep_end`."),
    "dataset_num_proc": Foreign(_TRL, "", "Rows are tokenised once; leave it out."),
    "max_completion_length": Foreign(_TRL, "max_new_tokens"),
    "generation_batch_size": Foreign(_TRL, "per_device_train_batch_size"),
    "sft_model_path": Foreign(_TRL, "model"),
    "reward_model_path": Foreign(_TRL, "reward_model"),
    "reward_funcs": Foreign(_TRL, "rewards", _SOURCES),
    "reward_weights": Foreign(_TRL, "rewards", "Each source has a `weight` of its own."),
    "ref_model_name_or_path": Foreign(_TRL, "ref_model"),
    "total_episodes": Foreign(
        _TRL, "max_steps", "Episodes are `max_steps` times `per_device_train_batch_size`."
    ),
    "local_rollout_forward_batch_size": Foreign(_TRL, "per_device_train_batch_size"),
    "num_sample_generations": Foreign(_TRL, "", "Use a `sample` stage; leave it out."),
    "stop_token": Foreign(_TRL, "", "A response ends with the model's end token; leave it out."),
    "kl_estimator": Foreign(_TRL, "", "The penalty is the plain log-ratio (k1); leave it out."),
    "lora_dropout": Foreign(_TRL, "lora", "Adapters have no dropout; leave it out."),
    "lora_task_type": Foreign(_TRL, "lora", "The method decides it; leave it out."),
    "use_rslora": Foreign(_TRL, "lora", "The scale is alpha / r; leave it out."),
    "load_in_8bit": Foreign(_TRL, "quantization", f"8 bits are not offered. {_NF4}"),
    "bnb_4bit_quant_type": Foreign(_TRL, "quantization", _NF4),
    "bnb_4bit_use_double_quant": Foreign(_TRL, "quantization", _NF4),
    "use_bnb_nested_quant": Foreign(_TRL, "quantization", _NF4),
    "bnb_4bit_compute_dtype": Foreign(_TRL, "precision", "4-bit layers compute in it."),
    "quantization_config": Foreign(_HF, "quantization", _NF4),
    "epsilon_high": Foreign(
        _TRL, "cliprange_high", "Of `loss_type=cispo` it is the bound itself: 1 + `cliprange_high`."
    ),
    "importance_sampling_level": Foreign(
        _TRL, "method", "`sequence` is `accord train gspo`, and `token` is `accord train grpo`."
    ),
    "soft_punish_cache": Foreign(_TRL, "overlong_buffer"),
    "steps_per_generation": Foreign(_TRL, "num_mini_batches"),
    "vllm_importance_sampling_clip_max": Foreign(_TRL, "sampler_importance_cap"),
    "use_vllm": Foreign(_TRL, "sampler", "With `kind: vllm`."),
    "vllm_mode": Foreign(_TRL, "sampler", "Its key `mode`."),
    "vllm_server_base_url": Foreign(_TRL, "sampler", "Its key `url`."),
    "vllm_gpu_memory_utilization": Foreign(_TRL, "sampler", "Its key `gpu_memory_utilization`."),
    "vllm_enable_sleep_mode": Foreign(_TRL, "sampler", "Its key `sleep_level`."),
    "vllm_max_model_length": Foreign(_TRL, "max_length"),
    # Axolotl
    "base_model": Foreign(_AX, "model"),
    "datasets": Foreign(_AX, "dataset", "One file, folder or hub name."),
    "test_datasets": Foreign(_AX, "eval_dataset"),
    "micro_batch_size": Foreign(_AX, "per_device_train_batch_size"),
    "eval_batch_size": Foreign(_AX, "per_device_train_batch_size", "Evaluation uses the same."),
    "sequence_len": Foreign(_AX, "max_length"),
    "num_epochs": Foreign(_AX, "num_train_epochs"),
    "lr_scheduler": Foreign(_AX, "lr_scheduler_type"),
    "optimizer": Foreign(f"{_AX} and {_TT}", "optim", "It is AdamW, also in 8 bits."),
    "adapter": Foreign(_AX, "lora", _LORA),
    "lora_target_linear": Foreign(_AX, "lora.target_modules", "`all-linear` is the default."),
    "lora_model_dir": Foreign(_AX, "model", "Name the folder with the adapter."),
    "rl": Foreign(_AX, "method", _METHOD),
    "rl_beta": Foreign(_AX, "beta"),
    "dpo_beta": Foreign(_AX, "beta"),
    "val_set_size": Foreign(_AX, "eval_dataset", _SPLIT),
    "saves_per_epoch": Foreign(_AX, "save_steps", _STEPS),
    "evals_per_epoch": Foreign(_AX, "eval_steps", _STEPS),
    "train_on_inputs": Foreign(_AX, "loss_on", _MASKED),
    "sample_packing": Foreign(_AX, "", _PACKED),
    "pad_to_sequence_len": Foreign(_AX, "", _PACKED),
    "flash_attention": Foreign(_AX, "", _PREFERS),
    "wandb_project": Foreign(_AX, "project", _TRACKER),
    "auto_resume_from_checkpoints": Foreign(_AX, "resume"),
    "chat_template": Foreign(_AX, "", "The tokenizer's own chat template is used; leave it out."),
    # LLaMA-Factory
    "stage": Foreign(_LF, "method", _METHOD),
    "cutoff_len": Foreign(_LF, "max_length"),
    "finetuning_type": Foreign(_LF, "lora", f"`full` is the default here. {_LORA}"),
    "lora_rank": Foreign(f"{_LF}, {_TT} and {_OR}", "lora.r"),
    "lora_target": Foreign(_LF, "lora.target_modules"),
    "adapter_name_or_path": Foreign(_LF, "model", "Name the folder with the adapter."),
    "pref_beta": Foreign(_LF, "beta"),
    "pref_loss": Foreign(_LF, "loss_type", "`ipo`, `kto`, `orpo` and `simpo` are methods."),
    "dpo_label_smoothing": Foreign(_LF, "label_smoothing"),
    "dataset_dir": Foreign(_LF, "dataset", "Give the whole path of the file."),
    "val_size": Foreign(_LF, "eval_dataset", _SPLIT),
    "template": Foreign(_LF, "", "The tokenizer's own chat template is used; leave it out."),
    "preprocessing_num_workers": Foreign(_LF, "", "Rows are tokenised once; leave it out."),
    "overwrite_cache": Foreign(_LF, "", "There is no cache to overwrite; leave it out."),
    "plot_loss": Foreign(_LF, "", "`accord report` draws the curves; leave it out."),
    "pure_bf16": Foreign(_LF, "precision", "`bf16` keeps the weights in float32."),
    "quantization_bit": Foreign(_LF, "quantization", _NF4),
    "flash_attn": Foreign(_LF, "", _PREFERS),
    "ppo_epochs": Foreign(f"{_LF} and {_TT}", "num_ppo_epochs"),
    "ppo_target": Foreign(_LF, "adaptive_kl_target"),
    "ppo_buffer_size": Foreign(_LF, "per_device_train_batch_size"),
    "ppo_score_norm": Foreign(_LF, "", _NORMALISED),
    "ppo_whiten_rewards": Foreign(_LF, "whiten_rewards"),
    # torchtune
    "batch_size": Foreign(_TT, "per_device_train_batch_size"),
    "epochs": Foreign(_TT, "num_train_epochs"),
    "max_steps_per_epoch": Foreign(_TT, "max_steps"),
    "max_seq_len": Foreign(_TT, "max_length"),
    "lr": Foreign(_TT, "learning_rate"),
    "clip_grad_norm": Foreign(_TT, "max_grad_norm"),
    "checkpointer": Foreign(_TT, "model"),
    "tokenizer": Foreign(_TT, "model", "The model's folder holds its tokenizer."),
    "enable_activation_checkpointing": Foreign(_TT, "gradient_checkpointing"),
    "enable_activation_offloading": Foreign(_TT, "activation_offload"),
    "compile": Foreign(_TT, "", "Models are not compiled; leave it out."),
    "metric_logger": Foreign(_TT, "report_to", _TRACKER),
    "lora_attn_modules": Foreign(_TT, "lora.target_modules"),
    "kl_coeff": Foreign(_TT, "beta"),
    "num_steps": Foreign(_TT, "max_steps"),
    "lmbda": Foreign(_TT, "gae_lambda"),
    "epsilon": Foreign(f"{_TRL} and {_TT}", "cliprange"),
    "value_coeff": Foreign(_TT, "vf_coef"),
    "value_clip_range": Foreign(_TT, "cliprange_value"),
    "max_generated_tokens": Foreign(_TT, "max_new_tokens"),
    "penalise_no_eos": Foreign(_TT, "missing_eos_penalty", "It is subtracted from the score."),
    # OpenRLHF
    "pretrain": Foreign(_OR, "model"),
    "ref_pretrain": Foreign(_OR, "ref_model"),
    "reward_pretrain": Foreign(_OR, "reward_model"),
    "prompt_data": Foreign(_OR, "dataset"),
    "eval_split": Foreign(_OR, "eval_dataset"),
    "save_path": Foreign(_OR, "output_dir"),
    "ckpt_path": Foreign(_OR, "output_dir", "Checkpoints lie in its `checkpoints/`."),
    "load_checkpoint": Foreign(_OR, "resume"),
    "micro_train_batch_size": Foreign(_OR, "per_device_train_batch_size"),
    "train_batch_size": Foreign(
        _OR,
        "per_device_train_batch_size",
        "That times `gradient_accumulation_steps` is the batch of one optimiser step.",
    ),
    "rollout_batch_size": Foreign(_OR, "per_device_train_batch_size"),
    "n_samples_per_prompt": Foreign(
        _OR, "num_generations", "A `sample` stage has `num_responses`."
    ),
    "max_len": Foreign(_OR, "max_length"),
    "prompt_max_len": Foreign(_OR, "max_prompt_length"),
    "generate_max_len": Foreign(_OR, "max_new_tokens"),
    "max_epochs": Foreign(_OR, "num_train_epochs", "PPO's inner passes are `num_ppo_epochs`."),
    "num_episodes": Foreign(_OR, "num_train_epochs"),
    "actor_learning_rate": Foreign(_OR, "learning_rate"),
    "lr_warmup_ratio": Foreign(_OR, "warmup_ratio"),
    "l2": Foreign(_OR, "weight_decay"),
    "max_norm": Foreign(_OR, "max_grad_norm"),
    "adam_betas": Foreign(_OR, "adam_beta1", "`adam_beta2` is the other."),
    "init_kl_coef": Foreign(_OR, "beta"),
    "kl_target": Foreign(_OR, "adaptive_kl_target"),
    "kl_horizon": Foreign(_OR, "adaptive_kl_horizon"),
    "eps_clip": Foreign(_OR, "cliprange"),
    "value_clip": Foreign(_OR, "cliprange_value"),
    "lambd": Foreign(_OR, "gae_lambda"),
    "normalize_reward": Foreign(_OR, "", _NORMALISED),
    "input_key": Foreign(_OR, "", "Columns are recognised by their names; leave it out."),
    "packing_samples": Foreign(_OR, "", _PACKED),
    "use_wandb": Foreign(_OR, "report_to", _TRACKER),
    "zero_stage": Foreign(_OR, "", "DeepSpeed is not offered; leave it out."),
    "advantage_estimator": Foreign(_OR, "method", _ESTIMATOR),
    "dynamic_filtering": Foreign(_OR, "dynamic_sampling_max_rounds", "0 is off."),
    # verl
    "adv_estimator": Foreign(_VERL, "method", _ESTIMATOR),
    "filter_groups": Foreign(_VERL, "dynamic_sampling_max_rounds", "0 is off."),
    "max_num_gen_batches": Foreign(_VERL, "dynamic_sampling_max_rounds"),
    "clip_ratio_low": Foreign(_VERL, "cliprange"),
    "clip_ratio_high": Foreign(_VERL, "cliprange_high"),
    "loss_agg_mode": Foreign(_VERL, "loss_type", "It is `token`, `sequence` or `fixed`."),
    # Unsloth
    "use_gradient_checkpointing": Foreign(_US, "gradient_checkpointing"),
    "random_state": Foreign(_US, "seed"),
    "full_finetuning": Foreign(_US, "lora", "All weights are trained when `lora` is off."),
    # accord
    "stages": Foreign("A recipe", "", "This is one stage; run a recipe with `accord run FILE`."),
}

FOREIGN_IN_LORA: dict[str, Foreign] = {
    "rank": Foreign(f"{_TT} and {_LF}", "r"),
    "lora_r": Foreign(_TRL, "r"),
    "lora_rank": Foreign(_TT, "r"),
    "lora_alpha": Foreign("peft", "alpha"),
    "dropout": Foreign(_US, "", "Adapters have no dropout; leave it out."),
    "lora_dropout": Foreign("peft", "", "Adapters have no dropout; leave it out."),
    "target": Foreign(_LF, "target_modules"),
    "use_rslora": Foreign("peft", "", "The scale is alpha / r; leave it out."),
    "bias": Foreign("peft", "", "Biases are not trained; leave it out."),
    "task_type": Foreign("peft", "", "The method decides it; leave it out."),
    "modules_to_save": Foreign("peft", "", "Heads are always saved; leave it out."),
}

FOREIGN_METHODS: dict[str, str] = {
    "reinforce++": "`reinforce_plus_plus`",
    "reinforce": "`reinforce_plus_plus`",
    "dapo": "`grpo` with `cliprange_high=0.28`, `beta=0`, `dynamic_sampling_max_rounds` and "
    "`overlong_buffer`",
    "dr_grpo": "`grpo` with `scale_rewards=false` and `loss_type=fixed`",
    "group_norm": "`grpo`",
}
"""Names of methods in papers and other tools, and what each is here."""

FOREIGN_VALUES: dict[tuple[str, str], str] = {
    ("loss_type", "cispo"): "`accord train cispo`",
    ("loss_type", "dapo"): "`loss_type=token`",
    ("loss_type", "bnpo"): "`loss_type=token`",
    ("loss_type", "grpo"): "`loss_type=sequence`",
    ("loss_type", "dr_grpo"): "`loss_type=fixed`",
}
"""Values of TRL's GRPO trainer for a key that online methods have too, and what each is here."""
