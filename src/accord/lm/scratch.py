"""A tokenizer and an untrained model from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from accord.errors import SettingsError
from accord.lm.transformers_logging import silence_transformers
from accord.records import Comparison, Demonstration, Ranking, Rating, Record, Text, prompt_text
from accord.runs import atomic_folder
from accord.settings.stages import ScratchSettings

PAD, BOS, EOS = "<|pad|>", "<|begin|>", "<|end|>"
ROLES = ("system", "user", "assistant")

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{- raise_exception('the roles are system, user and assistant, not ' + message['role']) }}"
    "{%- endif %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] }}"
    "{%- if message['role'] == 'assistant' %}{{- eos_token }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
"""A role token before each turn; an assistant's turn ends with EOS. The text rendered for
generation is a prefix of the text rendered with the response."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> Any:
    """A byte-level BPE tokenizer of at most `vocab_size` entries with a chat template.

    Any text can be encoded, since every byte is an entry; no special token is added to a text.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    roles = [f"<|{role}|>" for role in ROLES]
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, BOS, EOS, *roles],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=roles,
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def untrained_model(
    architecture: str,
    config: Mapping[str, Any],
    tokenizer: Any,
    *,
    seed: int,
    embedding_scale: float | None = None,
) -> Any:
    """A causal model of a transformers model type, with weights from the seed.

    `config` has keys of that type's configuration; `embedding_scale` is the standard deviation of
    the token embeddings, by default that of the configuration. Raises SettingsError for an unknown
    type or key. torch's global random state does not change.
    """
    if architecture not in CONFIG_MAPPING:
        raise SettingsError(
            f"architecture = {architecture!r} is no transformers model type. Name one with a "
            f"decoder, such as llama, qwen3, mistral or gpt2."
        )
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config_class = CONFIG_MAPPING[architecture]
    known = set(config_class().to_dict()) | set(getattr(config_class, "attribute_map", {}))
    unknown = sorted(set(config) - known)
    if unknown:
        raise SettingsError(
            f"config.{unknown[0]} is no key of the {architecture} configuration "
            f"({config_class.__name__}). Its keys are listed in transformers' documentation."
        )
    model_config = config_class(**{**config, **special, "vocab_size": len(tokenizer)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = AutoModelForCausalLM.from_config(model_config)
        except ValueError as error:
            raise SettingsError(
                f"The {architecture} configuration makes no causal language model: {error}"
            ) from error
        if embedding_scale is not None:
            torch.nn.init.normal_(model.get_input_embeddings().weight, std=embedding_scale)
    model.generation_config = GenerationConfig(**special)
    return model


def save_untrained(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer to a folder, atomically."""
    with atomic_folder(folder) as temporary, silence_transformers():
        model.save_pretrained(temporary, safe_serialization=True)
        tokenizer.save_pretrained(temporary)


def model_from_scratch(texts: Iterable[str], settings: ScratchSettings) -> None:
    """Train the tokenizer, initialise the model, and write both to `output_dir/model`."""
    length = int(settings.config.get("max_position_embeddings", 2048))
    tokenizer = train_tokenizer(texts, settings.vocab_size, length)
    model = untrained_model(settings.architecture, settings.config, tokenizer, seed=settings.seed)
    save_untrained(model, tokenizer, Path(settings.output_dir) / "model")


def record_texts(records: Sequence[Record]) -> Iterator[str]:
    """All texts of the records, each record's prompt once."""
    for record in records:
        if isinstance(record, Text):
            yield record.text
            continue
        yield prompt_text(record.prompt)
        if isinstance(record, Demonstration | Rating):
            yield record.response
        elif isinstance(record, Comparison):
            yield record.chosen
            yield record.rejected
        elif isinstance(record, Ranking):
            yield from record.responses
