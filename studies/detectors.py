"""How often the audits of a model are right, on runs whose flaws are planted and known."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from detector_flaws import FLAWS, UNSEEN
from detector_runs import Plan, Workshop, plan_runs


def plans(clean: int, planted: int, dev_clean: int, dev_planted: int) -> list[Plan]:
    seen = [kind for kind in FLAWS if kind not in UNSEEN]
    dev = [p for kind in seen for p in plan_runs(kind, "development", dev_planted)]
    dev += plan_runs("clean", "development", dev_clean)
    per = {"clean": clean, **dict.fromkeys(seen, planted), **dict.fromkeys(UNSEEN, planted // 3)}
    test = [p for kind, n in per.items() for p in plan_runs(kind, "test", n)]
    key = lambda p: ((p.number + 0.5) / (per[p.kind] if p.part == "test" else (dev_clean if p.kind == "clean" else dev_planted)))
    return [*sorted(dev, key=key), *sorted(test, key=key)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    w = Workshop(Path("/tmp/det/study"))
    import time
    for plan in plans(60, 30, 12, 6):
        t = time.time()
        w.train(plan)
        print(time.strftime("%H:%M:%S"), plan.name, plan.method, f"{plan.strength:.2f} {time.time() - t:.0f}s", flush=True)
