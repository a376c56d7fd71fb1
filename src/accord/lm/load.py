"""Load models from folders or the hub, and save them so that transformers and peft load them."""

from __future__ import annotations

import difflib
import json
import logging
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from accord.errors import ModelError, SettingsError
from accord.lm.forward import check_packing
from accord.lm.heads import init_score_heads
from accord.lm.kernels.norms import speed_up_norms
from accord.lm.model import LanguageModel, Precision, disable_dropout
from accord.lm.saved_weights import SaveDtype, stored_dtype, write_weights
from accord.lm.transformers_logging import in_own_words, silence_transformers
from accord.runs import atomic_folder

log = logging.getLogger(__name__)

REWARD_FILE = "reward.json"
Device = Literal["auto", "cpu", "cuda"]


def load_causal(
    path: str,
    *,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust_remote_code: bool = False,
    trainable: bool = False,
    merge: bool = True,
) -> LanguageModel:
    """A causal language model from a folder or hub name; an adapter is merged into its base.

    With precision bf16 the weights are bfloat16, unless they are `trainable`: optimiser steps are
    too small for bfloat16. With `merge` False only the base of an adapter is loaded, to continue
    the adapter on it. Raises ModelError for a folder without configuration, tokenizer or
    safetensors weights.
    """
    base, adapter = base_and_adapter(path)
    tokenizer = load_tokenizer_or_base(path if adapter else base, base, trust_remote_code)
    merged = adapter if merge else None
    dtype = _load_dtype(precision, trainable, merged)
    model = _from_pretrained(AutoModelForCausalLM, base, dtype, trust_remote_code)
    if merged:
        model = _merge_adapter(model, merged)
    lm = LanguageModel(
        _to_device(model, device),
        tokenizer,
        path if merge else base,
        precision=precision,
        unsaved=merged is not None,
        merged_adapter=merged,
        stored_dtype=stored_dtype(base),
    )
    return finish_loading(lm)


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model or adapter, without its weights. Raises ModelError."""
    base, adapter = base_and_adapter(path)
    return load_tokenizer_or_base(path if adapter else base, base, trust_remote_code)


def load_scalar(
    path: str,
    *,
    seed: int = 0,
    heads: int | None = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust_remote_code: bool = False,
    trainable: bool = False,
    merge: bool = True,
) -> LanguageModel:
    """A model with a scalar head: a trained reward model, or a new head on a language model.

    A new head's weights are normal with standard deviation 1/√(width + 1), without bias, from the
    seed. The statistics of the scores are read from `reward.json` where there is one. `heads` is
    the number of heads: by default that of the trained model, or one. With `merge` False only the
    base of an adapter is loaded, to continue the adapter on it. Raises SettingsError where a
    different number of heads was trained.
    """
    base, adapter = base_and_adapter(path)
    tokenizer = load_tokenizer_or_base(path if adapter else base, base, trust_remote_code)
    merged = adapter if merge else None
    dtype = _load_dtype(precision, trainable, merged)
    reward = _read_reward_file(path)
    trained = int(reward.get("heads", 1)) if reward or _has_scalar_head(base) else None
    if None not in (heads, trained) and heads != trained:
        raise SettingsError(
            f"{path} is a reward model with heads={trained}, and heads={heads} was asked for. "
            f"Set heads={trained} to train it further, or start from a language model."
        )
    model = _from_pretrained(
        AutoModelForSequenceClassification,
        base,
        dtype,
        trust_remote_code,
        num_labels=trained or heads or 1,
    )
    if not _has_scalar_head(base):
        init_score_heads(model, seed)
    model.score.float()
    set_distinct_pad_token(model, tokenizer)
    if merged:
        model = _merge_adapter(model, merged)
    lm = LanguageModel(
        _to_device(model, device),
        tokenizer,
        path if merge else base,
        scalar=True,
        precision=precision,
        unsaved=merged is not None,
        merged_adapter=merged,
        stored_dtype=stored_dtype(base),
    )
    apply_reward_file(lm, path)
    return finish_loading(lm)


def apply_reward_file(lm: LanguageModel, path: str) -> None:
    """Set a reward model's score statistics and limits from `reward.json`, where there is one."""
    numbers = _read_reward_file(path)
    if numbers:
        lm.score_mean, lm.score_std = float(numbers["mean"]), float(numbers["std"])
        # A model trained with a limit above its positions has not learned those beyond.
        limits = numbers.get("max_length"), lm.max_positions
        lm.max_length = min((n for n in limits if n), default=None)
        lm.max_prompt_length = numbers.get("max_prompt_length")
        lm.head_means = tuple(map(float, numbers.get("head_means", ())))
        lm.score_penalty = float(numbers.get("ensemble_penalty", 0.0))
        lm.length_slope = numbers.get("length_slope")


def _read_reward_file(path: str) -> dict[str, Any]:
    """The numbers in a folder's `reward.json`; empty where there is none."""
    file = Path(path) / REWARD_FILE
    numbers: dict[str, Any] = {}
    if file.is_file():
        numbers = json.loads(file.read_text(encoding="utf-8"))
    return numbers


def save_model(lm: LanguageModel, folder: Path, *, card: str, dtype: SaveDtype = "auto") -> None:
    """Write the model, its tokenizer and a model card to a folder, atomically.

    Full models load in transformers, adapters in peft: see `write_weights`. The statistics of a
    reward model's scores are saved beside it in `reward.json`. Raises StorageError when the disk
    can't be written.
    """
    with atomic_folder(folder) as temporary, silence_transformers():
        write_weights(lm, temporary, dtype)
        lm.tokenizer.save_pretrained(temporary)
        if lm.scalar:
            numbers = {
                "mean": lm.score_mean,
                "std": lm.score_std,
                "max_length": lm.max_length,
                "max_prompt_length": lm.max_prompt_length,
                "heads": lm.heads,
                "head_means": list(lm.head_means),
                "ensemble_penalty": lm.score_penalty,
                "length_slope": lm.length_slope,
            }
            (temporary / REWARD_FILE).write_text(json.dumps(numbers) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(card, encoding="utf-8")


def _load_dtype(precision: Precision, trainable: bool, adapter: str | None) -> torch.dtype:
    # bf16 weights would also round away most of a small update that is merged into them.
    half = precision == "bf16" and not trainable and adapter is None
    return torch.bfloat16 if half else torch.float32


def base_and_adapter(path: str) -> tuple[str, str | None]:
    """The path or hub name of the base model, and the adapter's path if `path` is an adapter
    folder, else None.

    Raises ModelError for a folder that contains neither.
    """
    folder = Path(path)
    if not folder.is_dir():
        local = folder.suffix or path.startswith((".", "/", "~")) or path.count("/") != 1
        if local or folder.parent.is_dir():  # a hub name's owner is no folder here
            raise ModelError(
                f"No model folder {path!r}.{_suggestion(folder)} Check the path of `model`."
            )
        return path, None  # a hub name
    if (folder / "adapter_config.json").is_file():
        _refuse_pickle(folder)
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return str(config["base_model_name_or_path"]), path
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{path} holds no model: there is no config.json in it.{_suggestion(folder / 'model')} "
            f"Name the folder that save_pretrained wrote."
        )
    _refuse_pickle(folder)
    return path, None


def _refuse_pickle(folder: Path) -> None:
    weights = [p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt")]
    if not any(name.endswith(".safetensors") for name in weights):
        present = f"only {', '.join(sorted(weights))}, which is pickle" if weights else "none"
        raise ModelError(
            f"{folder} has no safetensors weights ({present}). accord does not open pickle files, "
            f"which can run code. Load it where you trust it and save it again with "
            f"save_pretrained(..., safe_serialization=True)."
        )


def _suggestion(path: Path) -> str:
    if path.is_dir():
        return f" Did you mean {str(path)!r}?"
    if not path.parent.is_dir():
        return ""
    names = [p.name for p in path.parent.iterdir() if p.is_dir()]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {str(path.parent / close[0])!r}?" if close else ""


def load_tokenizer_or_base(path: str, base: str, trust_remote_code: bool) -> Any:
    """The tokenizer of a model or adapter; the base's where the adapter has none.

    Raises ModelError.
    """
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    folder = Path(path)
    if folder.is_dir() and not any((folder / name).is_file() for name in files):
        if path == base:
            raise ModelError(
                f"{path} holds a model but no tokenizer (none of {', '.join(files)}). "
                f"Save the model's tokenizer into the same folder with save_pretrained."
            )
        path = base
    try:
        with in_own_words(path):
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The tokenizer of {path} can't be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {path} has no EOS token, so no response could end. Set "
            f"`eos_token` in its tokenizer_config.json."
        )
    return tokenizer


def _from_pretrained(
    auto: Any, path: str, dtype: torch.dtype, trust_remote_code: bool, **config: Any
) -> Any:
    try:
        with silence_transformers():
            return auto.from_pretrained(
                path,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                **config,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        hint = ""
        if "trust_remote_code" in str(error):
            hint = " Set trust_remote_code=true if you trust the code that comes with it."
        raise ModelError(f"The model {path!r} can't be loaded: {error}{hint}") from error


def _has_scalar_head(path: str) -> bool:
    config = AutoConfig.from_pretrained(path)
    return any("SequenceClassification" in name for name in config.architectures or [])


def _merge_adapter(model: Any, adapter: str) -> Any:
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(adapter)
    config.task_type = None  # a language model's adapter fits under a scalar head too
    merged = PeftModel.from_pretrained(model, adapter, config=config).merge_and_unload()
    return merged.requires_grad_(True)  # peft froze it; the caller decides what is trained


def _to_device(model: Any, device: Device) -> Any:
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device=cuda, but torch finds no CUDA device. Use device=cpu or auto.")
    target = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    return disable_dropout(model).to(target).eval()


def finish_loading(lm: LanguageModel) -> LanguageModel:
    lm.max_length = lm.max_length or lm.max_positions
    speed_up_norms(lm.inner)
    if not check_packing(lm):
        warn_about_plain_rows(type(lm.inner).__name__)
    return lm


@cache
def warn_about_plain_rows(architecture: str) -> None:
    """Warn once per process: a stage loads several models of one architecture, and every round
    loads them again."""
    log.warning(
        "A %s can't share a prompt between its responses; its batches are computed as plain rows, "
        "with the same numbers in more time.",
        architecture,
    )


def set_distinct_pad_token(model: Any, tokenizer: Any) -> None:
    """Set one padding token that is not EOS in model and tokenizer, where there is a candidate.

    Plain transformers reads the score at the last token that is not the model's padding.
    """
    model.config.pad_token_id = None
    for candidate in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if candidate is not None and candidate != tokenizer.eos_token_id:
            model.config.pad_token_id = int(candidate)
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(int(candidate))
            return
