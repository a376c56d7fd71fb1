"""A saved base with an adapter on it, for training that continues the adapter."""

from __future__ import annotations

from pathlib import Path

from accord.lm.load import load_causal, save_model
from tests.learn.toys.files import write_jsonl, write_yes_no_pairs
from tests.lm.toys import save_toy, with_adapters

CONTINUE = {"continue_adapter": True}


class AdapterToys:
    """Paths of a base, an adapter on it, pairs and prompts. Read only."""

    def __init__(self, root: Path) -> None:
        self.base = save_toy(root / "base")
        self.adapter = str(root / "start")
        save_model(with_adapters(load_causal(self.base), seed=1), Path(self.adapter), card="")
        self.pairs = write_yes_no_pairs(root / "pairs.jsonl", 16, seed=0)
        self.prompts = write_jsonl(
            root / "prompts.jsonl", [{"prompt": "the cat"}, {"prompt": "a dog"}]
        )
