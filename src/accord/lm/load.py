"""Load models from folders or the hub, and save them so that anyone can load them."""

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
from accord.lm.adapters.switch import POLICY
from accord.lm.forward import check_packing
from accord.lm.heads import draw_heads
from accord.lm.kernels.norms import speed_up_norms
from accord.lm.model import LanguageModel, Precision, disable_dropout
from accord.lm.quiet import quiet
from accord.runs import atomic_folder

log = logging.getLogger(__name__)

REWARD_FILE = "reward.json"
Device = Literal["auto", "cpu", "cuda"]


def load_causal(
    place: str,
    *,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust_remote_code: bool = False,
    learns: bool = False,
    merge: bool = True,
) -> LanguageModel:
    """A causal language model from a folder or hub name; an adapter is merged into its base.

    With precision bf16 the weights are bfloat16, unless they are to learn themselves: an
    optimiser's steps are too small for them. Without `merge` it is an adapter's base alone, for
    the adapter to be put on. Raises ModelError for a folder without configuration, tokenizer or
    safetensors weights.
    """
    base, adapter = base_and_adapter(place)
    tokenizer = tokenizer_of(place if adapter else base, base, trust_remote_code)
    merged = adapter if merge else None
    dtype = _dtype(precision, learns, merged)
    model = _pretrained(AutoModelForCausalLM, base, dtype, trust_remote_code)
    if merged:
        model = _merged(model, merged)
    lm = LanguageModel(
        _placed(model, device),
        tokenizer,
        place if merge else base,
        precision=precision,
        merged=merged is not None,
    )
    return _checked(lm)


def load_tokenizer(place: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model or adapter, without its weights. Raises ModelError."""
    base, adapter = base_and_adapter(place)
    return tokenizer_of(place if adapter else base, base, trust_remote_code)


def load_scalar(
    place: str,
    *,
    seed: int = 0,
    heads: int | None = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust_remote_code: bool = False,
    learns: bool = False,
    merge: bool = True,
) -> LanguageModel:
    """A model with a scalar head: a trained reward model, or a new head on a language model.

    A new head's weights are normal with standard deviation 1/√(width + 1), without bias, from the
    seed. What `reward.json` says of the scores comes along where there is one. `heads` is how many
    there are to be: by default as many as were trained, or one. Without `merge` it is an adapter's
    base alone, for the adapter to be put on. Raises SettingsError where others were trained
    already.
    """
    base, adapter = base_and_adapter(place)
    tokenizer = tokenizer_of(place if adapter else base, base, trust_remote_code)
    merged = adapter if merge else None
    dtype = _dtype(precision, learns, merged)
    numbers = _reward_numbers(place)
    trained = int(numbers.get("heads", 1)) if numbers or _has_scalar_head(base) else None
    if None not in (heads, trained) and heads != trained:
        raise SettingsError(
            f"{place} is a reward model with heads={trained}, and heads={heads} was asked for. "
            f"Set heads={trained} to train it further, or start from a language model."
        )
    model = _pretrained(
        AutoModelForSequenceClassification,
        base,
        dtype,
        trust_remote_code,
        num_labels=trained or heads or 1,
    )
    if not _has_scalar_head(base):
        draw_heads(model, seed)
    model.score.float()
    _agree_on_padding(model, tokenizer)
    if merged:
        model = _merged(model, merged)
    lm = LanguageModel(
        _placed(model, device),
        tokenizer,
        place if merge else base,
        scalar=True,
        precision=precision,
        merged=merged is not None,
    )
    read_normalisation(lm, place)
    return _checked(lm)


def read_normalisation(lm: LanguageModel, place: str) -> None:
    """Take over what a reward model's `reward.json` says of its scores, where there is one."""
    numbers = _reward_numbers(place)
    if numbers:
        lm.score_mean, lm.score_std = float(numbers["mean"]), float(numbers["std"])
        trained, places = numbers.get("max_length"), lm.positions
        # What was trained with a limit above the positions has not learned those beyond.
        lm.max_length = min((n for n in (trained, places) if n), default=None)
        lm.max_prompt_length = numbers.get("max_prompt_length")
        lm.head_means = tuple(map(float, numbers.get("head_means", ())))
        lm.score_penalty = float(numbers.get("ensemble_penalty", 0.0))
        lm.length_slope = numbers.get("length_slope")


def _reward_numbers(place: str) -> dict[str, Any]:
    kept = Path(place) / REWARD_FILE
    found: dict[str, Any] = {}
    return json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else found


def save_model(lm: LanguageModel, folder: Path, *, card: str) -> None:
    """Write the model, its tokenizer and a model card to a folder, whole or not at all.

    Full models load in transformers, adapters in peft. Adapters on a base that had another
    adapter merged into it are merged too and saved as a full model, since no folder holds that
    base. A reward model's normalisation is beside it in `reward.json`. Raises StorageError when
    the disk does not take it.
    """
    if lm.is_peft and lm.merged:
        log.info("%s started from an adapter, so the full model is saved.", lm.name)
        lm.model = lm.model.merge_and_unload(adapter_names=[POLICY])
        lm.switch = lm.adapter = None
    only = {"selected_adapters": [POLICY]} if lm.is_peft else {}  # not those of other roles
    with atomic_folder(folder) as temporary, quiet():
        lm.model.save_pretrained(temporary, safe_serialization=True, **only)
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


def _dtype(precision: Precision, learns: bool, adapter: str | None) -> torch.dtype:
    # Half weights would also round away most of a small update that is merged into them.
    half = precision == "bf16" and not learns and adapter is None
    return torch.bfloat16 if half else torch.float32


def base_and_adapter(place: str) -> tuple[str, str | None]:
    """The base model's place, and the adapter's if `place` is an adapter folder.

    Raises ModelError for a folder that holds neither.
    """
    folder = Path(place)
    if not folder.is_dir():
        local = folder.suffix or place.startswith((".", "/", "~")) or place.count("/") != 1
        if local or folder.parent.is_dir():  # a hub name's owner is no folder here
            raise ModelError(
                f"No model folder {place!r}.{_near(folder)} Check the path of `model`."
            )
        return place, None  # a hub name
    if (folder / "adapter_config.json").is_file():
        _no_pickle(folder)
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return str(config["base_model_name_or_path"]), place
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{place} holds no model: there is no config.json in it.{_near(folder / 'model')} "
            f"Name the folder that save_pretrained wrote."
        )
    _no_pickle(folder)
    return place, None


def _no_pickle(folder: Path) -> None:
    weights = [p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt")]
    if not any(name.endswith(".safetensors") for name in weights):
        found = f"only {', '.join(sorted(weights))}, which is pickle" if weights else "none"
        raise ModelError(
            f"{folder} has no safetensors weights ({found}). accord does not open pickle files, "
            f"which can run code. Load it where you trust it and save it anew with "
            f"save_pretrained(..., safe_serialization=True)."
        )


def _near(path: Path) -> str:
    if path.is_dir():
        return f" Did you mean {str(path)!r}?"
    if not path.parent.is_dir():
        return ""
    names = [p.name for p in path.parent.iterdir() if p.is_dir()]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {str(path.parent / close[0])!r}?" if close else ""


def tokenizer_of(place: str, base: str, trust_remote_code: bool) -> Any:
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    folder = Path(place)
    if folder.is_dir() and not any((folder / name).is_file() for name in files):
        if place == base:
            raise ModelError(
                f"{place} holds a model but no tokenizer (none of {', '.join(files)}). "
                f"Save the model's tokenizer into the same folder with save_pretrained."
            )
        place = base
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The tokenizer of {place} can't be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {place} has no EOS token, so no response could end. Set "
            f"`eos_token` in its tokenizer_config.json."
        )
    return tokenizer


def _pretrained(
    auto: Any, place: str, dtype: torch.dtype, trust_remote_code: bool, **config: Any
) -> Any:
    try:
        with quiet():
            return auto.from_pretrained(
                place,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                **config,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        hint = ""
        if "trust_remote_code" in str(error):
            hint = " Set trust_remote_code=true if you trust the code that comes with it."
        raise ModelError(f"The model {place!r} can't be loaded: {error}{hint}") from error


def _has_scalar_head(place: str) -> bool:
    config = AutoConfig.from_pretrained(place)
    return any("SequenceClassification" in name for name in config.architectures or [])


def _merged(model: Any, adapter: str) -> Any:
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(adapter)
    config.task_type = None  # a language model's adapter fits under a scalar head too
    merged = PeftModel.from_pretrained(model, adapter, config=config).merge_and_unload()
    return merged.requires_grad_(True)  # peft froze it; whether it learns is the caller's to say


def _placed(model: Any, device: Device) -> Any:
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device=cuda, but torch finds no CUDA device. Use device=cpu or auto.")
    target = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    return disable_dropout(model).to(target).eval()


def _checked(lm: LanguageModel) -> LanguageModel:
    lm.max_length = lm.max_length or lm.positions
    speed_up_norms(lm.inner)
    if not check_packing(lm):
        warn_about_plain_rows(type(lm.inner).__name__)
    return lm


@cache
def warn_about_plain_rows(architecture: str) -> None:
    """Warn, once a process: a stage loads several models of an architecture, and rounds many."""
    log.warning(
        "A %s can't share a prompt between its responses; its batches are computed as plain rows, "
        "with the same numbers in more time.",
        architecture,
    )


def _agree_on_padding(model: Any, tokenizer: Any) -> None:
    """Give model and tokenizer one padding token that is not EOS, where there is a candidate.

    Plain transformers reads the score at the last token that is not the model's padding.
    """
    model.config.pad_token_id = None
    for candidate in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if candidate is not None and candidate != tokenizer.eos_token_id:
            model.config.pad_token_id = int(candidate)
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(int(candidate))
            return
