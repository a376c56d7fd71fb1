"""A small Llama over words, of a shape that vLLM's CPU build runs."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY, EOS = 200, 1


def save_word_model(folder: Path, *, tied: bool = False) -> str:
    """Save it with its tokenizer; its distributions are far from uniform. Returns the folder."""
    names = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    words = Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            pad_token_id=0,
            eos_token_id=EOS,
            bos_token_id=None,
            tie_word_embeddings=tied,
        )
    )
    with torch.no_grad():
        for parameter in llama.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
        llama.lm_head.weight[EOS] = llama.lm_head.weight[5:9].mean(0)
    llama.generation_config.top_k = 2  # a server takes what a request leaves out from here
    llama.generation_config.do_sample = True
    llama.save_pretrained(folder)
    return str(folder)
