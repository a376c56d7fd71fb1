"""Fits the weights of the refusal grader, and tells how often it errs on a model it never saw.

    python -m studies.refusal_grader --xstest FOLDER

For each of XSTest's three models in turn, weights are fitted to the other two models' completions
and to accord's own texts (`studies/refusal_texts.py`), and tried on the third; the figures are
printed with and without the prompt. `--write` then fits all three and writes the weights that ship.
`--only MODEL` tries one model; `--speed` measures the texts per second on one core.

The fit: logistic regression with an L2 penalty; every source counts alike, and within a source
refusals as much as answers, so that the share of refusals of a model does not become a prior. The
`KEPT` most telling features are kept and fitted again. The completions and labels of XSTest
(Röttger et al. 2023) are under CC-BY-4.0.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize
from scipy.stats import beta
from studies.refusal_texts import PARTLY, Text, written_texts

from accord.measure.texts.refusals import (
    LINE_END,
    RefusalGrade,
    Weights,
    grade_with,
    read_weights,
)
from accord.measure.texts.refusals_features import BLOCKS, NGRAM_BLOCKS, Key, blocks

MODELS = ("llama2orig", "llama2new", "mistralinstruct")
LABELS = {"1_full_compliance": 0, "2_full_refusal": 1, "3_partial_refusal": 2}
VERDICTS = {"complied": 0, "refused": 1, "partly": 2, "can't tell": 3}
KEPT = 3600
PENALTY = 0.1  # of the squared weights, against a weight of 450 for each source
SCALES = (1.0, 1.0, 0.7, 0.5, 0.5)  # of the blocks: a smaller one has a stronger penalty
OWN_WEIGHT = 2.0
MIN_TEXTS = 2
Feature = tuple[int, Key]


def main() -> int:
    options = _options().parse_args()
    sources = {model: completions(options.xstest, model) for model in MODELS}
    own = list(written_texts())
    for held_out in () if options.only == "none" else (options.only,) if options.only else MODELS:
        others = [texts for model, texts in sources.items() if model != held_out]
        weights = fit(own, others)
        for with_prompt in (True, False):
            texts = sources[held_out]
            grades = [
                grade_with(weights, t.response, t.prompt if with_prompt else None) for t in texts
            ]
            print(_row(held_out, with_prompt, [t.label for t in texts], grades), flush=True)
    if options.write:
        write(fit(own, list(sources.values())), options.write)
    if options.traps:
        print(trap_table(read_weights(), options.traps))
    if options.speed:
        print(speed([text.response for text in own]))
        print(speed([text.response for texts in sources.values() for text in texts]))
    return 0


def completions(folder: Path, model: str) -> list[Text]:
    """The completions of one of XSTest's models with their final labels."""
    with (folder / f"completions_{model}.csv").open(newline="", encoding="utf-8") as file:
        return [
            Text(row["completion"], row["prompt"], LABELS[row["final_label"]])
            for row in csv.DictReader(file)
        ]


@dataclass(frozen=True, slots=True)
class _Row:
    features: list[set[Key]]
    label: int
    weight: float


def fit(own: Sequence[Text], sources: Iterable[Sequence[Text]]) -> Weights:
    """The weights fitted to texts; those of XSTest count half with and half without the prompt."""
    rows = _rows(own, OWN_WEIGHT, halves=False)
    for texts in sources:
        rows += _rows(texts, 1.0, halves=True)
    counts = Counter(
        (i, key) for row in rows for i, keys in enumerate(row.features) for key in keys
    )
    features = [feature for feature, count in counts.items() if count >= MIN_TEXTS]
    refusal = np.array([row.label > 0 for row in rows], dtype=float)
    weight = np.array([row.weight for row in rows])
    partial = np.array([row.label == PARTLY for row in rows], dtype=float)
    among = refusal > 0
    columns = _matrix(rows, features)
    first = _logistic(columns, refusal, weight, steps=60)
    spread = np.sqrt(columns.multiply(columns).T @ weight)
    kept = np.sort(np.argsort(-np.abs(first[:-1]) * spread, kind="stable")[:KEPT])
    features = [features[i] for i in kept]
    columns = _matrix(rows, features)
    models = (
        _logistic(columns, refusal, weight),
        _logistic(columns[among], partial[among], weight[among]),
    )
    return _weights(features, models)


def _rows(texts: Sequence[Text], size: float, *, halves: bool) -> list[_Row]:
    refusals = sum(text.label > 0 for text in texts)
    rows = []
    for text in texts:
        weight = 225 * size / (refusals if text.label else len(texts) - refusals)
        prompts = (text.prompt, None) if halves else (text.prompt or None,)
        rows += [
            _Row([set(b) for b in blocks(text.response, p)], text.label, weight / len(prompts))
            for p in prompts
        ]
    return rows


def _matrix(rows: Sequence[_Row], features: Sequence[Feature]) -> sp.csr_matrix:
    index = {feature: i for i, feature in enumerate(features)}
    data: list[float] = []
    columns: list[int] = []
    starts = [0]
    for row in rows:
        for i, keys in enumerate(row.features):
            found = [index[i, key] for key in keys if (i, key) in index]
            columns += found
            share = 1 / math.sqrt(len(found)) if i < NGRAM_BLOCKS and found else 1.0
            data += [SCALES[i] * share] * len(found)
        starts.append(len(columns))
    return sp.csr_matrix((data, columns, starts), shape=(len(rows), len(features)))


def _logistic(
    columns: sp.csr_matrix, labels: np.ndarray, weight: np.ndarray, steps: int = 200
) -> np.ndarray:
    """The weights, and last the bias, that minimise Σ weight · loss + PENALTY · |weights|² / 2."""
    signs = 2 * labels - 1
    turned = columns.T.tocsr()

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = signs * (columns @ w[:-1] + w[-1])
        slope = -weight * signs / (1 + np.exp(margin))
        value = weight @ np.logaddexp(0, -margin) + PENALTY * (w[:-1] @ w[:-1]) / 2
        return value, np.append(turned @ slope + PENALTY * w[:-1], slope.sum())

    start = np.zeros(columns.shape[1] + 1)
    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": steps}).x


def _weights(features: Sequence[Feature], models: tuple[np.ndarray, np.ndarray]) -> Weights:
    tables: list[dict[Key, int]] = [{} for _ in BLOCKS]
    for n, (block, key) in enumerate(features):
        tables[block][key] = n
    scales = np.array([SCALES[block] for block, _ in features])
    refusal, partial = (np.round(scales * model[:-1], 2).tolist() for model in models)
    bias = (round(float(models[0][-1]), 2), round(float(models[1][-1]), 2))
    return Weights(bias, refusal, partial, tuple(tables))


def write(weights: Weights, path: Path) -> None:
    """The file that `read_weights` reads."""
    lines = [
        "# Weights of the refusal grader in hundredths of a logit: block, words or flag, any",
        "# refusal, partial among refusals. Written by studies/refusal_grader.py. Fitted to",
        "# accord's own texts and to the human labels of XSTest's completions",
        "# (Röttger et al. 2023, CC-BY-4.0).",
        f"bias\t\t{100 * weights.bias[0]:.0f}\t{100 * weights.bias[1]:.0f}",
    ]
    for name, table in zip(BLOCKS, weights.tables, strict=True):
        for key, n in sorted(table.items(), key=lambda item: str(item[0])):
            refusal, partial = weights.refusal[n], weights.partial[n]
            words = key if isinstance(key, str) else " ".join(key)
            line = f"{name}\t{words}\t{100 * refusal:.0f}\t{100 * partial:.0f}"
            lines.append(line.replace("\n", LINE_END))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def trap_table(weights: Weights, paths: Sequence[Path]) -> str:
    """Of each trap: the texts with the right verdict, and those where refusing or not is right."""
    rows: dict[str, list[tuple[bool, bool]]] = {}
    wrong = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            text = json.loads(line)
            grade = grade_with(weights, text["response"], text["prompt"])
            refuses = text["verdict"] in ("refused", "partly")
            same = grade.verdict == text["verdict"]
            about = grade.refuses == refuses and grade.known == (text["verdict"] != "can't tell")
            rows.setdefault(text["trap"], []).append((same, about))
            if not same:
                wrong.append(
                    f"{text['trap']}: {text['verdict']}, graded {grade}: {text['response']!r}"
                )
    rows["all"] = [pair for pairs in rows.values() for pair in pairs]
    lines = ["| trap | texts | right verdict | refuses or not |", "|---|---|---|---|"]
    for trap, pairs in rows.items():
        n, same, about = len(pairs), sum(p[0] for p in pairs), sum(p[1] for p in pairs)
        low, high = exact(about, n)
        lines.append(f"| {trap} | {n} | {same} | {about} ({low:.0%} to {high:.0%}) |")
    return "\n".join([*lines, "", *wrong])


def speed(texts: Sequence[str]) -> str:
    """Texts per second of CPU time, the best of five rounds."""
    weights = read_weights()
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for text in texts:
            grade_with(weights, text)
        rounds.append(len(texts) / (time.process_time() - start))
    letters = sum(map(len, texts)) / len(texts)
    return f"{max(rounds):,.0f} texts a second on one core, of {letters:.0f} letters on average"


def _row(
    model: str, with_prompt: bool, labels: Sequence[int], grades: Sequence[RefusalGrade]
) -> str:
    """A table's row: accuracy with its exact interval, F1, and the 3 × 4 table of counts."""
    counts = Counter((label, VERDICTS[g.verdict]) for label, g in zip(labels, grades, strict=True))
    table = [[counts[label, verdict] for verdict in range(4)] for label in range(3)]
    right = table[0][0] + sum(table[i][j] for i in (1, 2) for j in (1, 2))
    hits = sum(table[i][j] for i in (1, 2) for j in (1, 2))
    false, missed = sum(table[0][1:3]), sum(sum(table[i]) for i in (1, 2)) - hits
    n = len(labels)
    low, high = exact(right, n)
    return (
        f"| {model} | {'with' if with_prompt else 'without'}"
        f" | {right / n:.3f} ({low:.3f}–{high:.3f})"
        f" | {2 * hits / max(1, 2 * hits + false + missed):.3f} | {false} | {missed}"
        f" | complied {table[0]} refused {table[1]} partly {table[2]} |"
    )


def exact(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share."""
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    return low, float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--xstest", type=Path, required=True, help="folder of completions_*.csv")
    parser.add_argument("--only", choices=(*MODELS, "none"), help="try this model alone")
    parser.add_argument("--write", type=Path, help="write the weights of a fit to all three here")
    parser.add_argument("--traps", type=Path, nargs="+", help="files of traps to grade by kind")
    parser.add_argument("--speed", action="store_true", help="measure the speed, too")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
