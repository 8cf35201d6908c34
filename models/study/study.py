#!/usr/bin/env python3
"""The study of docs/study.md: SaRA against other ways to fine-tune, on two small models.

    pip install -r models/study/requirements.txt
    cargo build --release
    python models/study/study.py          # under two hours on two cores

Writes docs/study/results.csv as it goes and resumes from it; then the tables of docs/study.md and its figures.
"""
import argparse
import concurrent.futures
import csv
import os
import pathlib
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

import tell  # noqa: E402
import zero  # noqa: E402
from methods import METHODS, tune  # noqa: E402
from tasks import TASKS, session  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEPT = ROOT / "target/study"             # rows of pictures
TRIAL, SEEDS = 100, (1, 2, 3, 4, 5)      # learning rates are chosen with a seed that the tables do not hold
ZEROED = ("zeroed-smallest", "zeroed-random")   # methods whose rate is the share of weights that are set to zero
WIDENED = 2                              # how often the learning rates are widened where the best one is the first or the last


def run(task, method, seed, rate, judged, sara):
    """One row of the results, and pictures."""
    task = opened(task)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        start, trained = time.time(), 0
        if method == "base":
            model = task.model
        elif method in ZEROED:
            model = folder / "zeroed.onnx"
            zero.write(task, rate, method == ZEROED[0], model)
        else:
            batches = task.batches(seed)
            save_file({k: np.ascontiguousarray(v) for k, v in batches.items()}, folder / "batches.safetensors")
            model, trained = tune(sara, task, METHODS[method], seed, rate, batches, folder)
        tuned = time.time() - start
        model = session(model)
        row = {"task": task.name, "method": method, "seed": seed, "rate": rate, "trained": trained, **task.losses(model)}
        pictures = []
        if judged:
            found, pictures = task.judge(model, seed)
            row |= found
        print(f"{task.name} {method} seed {seed} rate {rate:g}: {tuned:.0f} + {time.time() - start - tuned:.0f} s", flush=True)
        return row, pictures


OPENED = {}


def opened(name):
    if name not in OPENED:
        task = OPENED[name] = TASKS[name]()
        initializers = onnx.load(str(task.model)).graph.initializer
        task.weights = sum(int(np.prod(i.dims)) for i in initializers)
    return OPENED[name]


class Results:
    """Rows on disk, found again by what they are of."""
    KEYS = ("task", "method", "seed", "rate")

    def __init__(self, path):
        self.path, self.rows = path, {}
        if path.exists():
            for row in csv.DictReader(path.open()):
                row = {k: v if k in ("task", "method") else int(v) if k in ("seed", "trained") else float(v)
                       for k, v in row.items() if v != ""}
                self.rows[tuple(row[k] for k in self.KEYS)] = row

    def has(self, key, judged):
        return key in self.rows and (not judged or "new_agrees" in self.rows[key])

    def add(self, row):
        self.rows[tuple(row[k] for k in self.KEYS)] = row
        names = list(dict.fromkeys(k for r in self.rows.values() for k in r))
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in r.items()} for r in self.rows.values())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sara", type=pathlib.Path, default=ROOT / "target/release/sara")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    folder = args.out / "study"
    folder.mkdir(parents=True, exist_ok=True)
    results, tasks = Results(folder / "results.csv"), list(TASKS)

    def all_of(jobs, judged):
        with concurrent.futures.ProcessPoolExecutor(args.workers) as pool:
            waiting = [pool.submit(run, *job, judged, args.sara) for job in jobs if not results.has(job, judged)]
            for done in concurrent.futures.as_completed(waiting):
                row, pictures = done.result()
                results.add(row)
                if row["seed"] == SEEDS[0]:
                    tell.keep(KEPT, row["task"], row["method"] + f"-{row['rate']:g}" * (row["method"] in ZEROED), pictures)

    rates = {(t, m): list(method.rates) for t in tasks for m, method in METHODS.items() if not method.rate_of}
    best = {}
    for _ in range(WIDENED + 1):
        all_of([(t, m, TRIAL, rate) for (t, m), tried in rates.items() for rate in tried], False)
        wider = 0
        for (t, m), tried in rates.items():
            best[t, m] = min(tried, key=lambda rate: results.rows[t, m, TRIAL, rate]["new_loss"])
            if best[t, m] in (min(tried), max(tried)):
                tried.append(best[t, m] * 2 if best[t, m] == max(tried) else best[t, m] / 2)
                wider += 1
        if not wider:
            break
    rate_of = {(t, m): best[t, method.rate_of or m] for t in tasks for m, method in METHODS.items()} | {(t, "base"): 0.0 for t in tasks}
    all_of([(t, m, s, rate) for s in SEEDS for (t, m), rate in rate_of.items()], True)
    all_of([(t, m, SEEDS[0], share) for t in tasks for m in ZEROED for share in zero.SHARES], True)
    rows = [r for r in results.rows.values() if r["seed"] == TRIAL or r["method"] in ZEROED or r["rate"] == rate_of.get((r["task"], r["method"]))]
    tell.tell(rows, METHODS, TRIAL, KEPT, args.out)


if __name__ == "__main__":
    main()
