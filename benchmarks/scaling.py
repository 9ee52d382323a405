#!/usr/bin/env python3
"""Tokens a second of LoRA fine-tuning by several ranks on this machine, beside one.

    benchmarks/scaling.py --tool build/bin/liger-finetune --folder /tmp [--ranks 1 2 4] [--rounds 3] [--json FILE]

A model of 15 M random parameters, updates of 8 micro-batches of 256 tokens, one thread a rank; the numbers of ranks take
turns, figures are medians over the rounds. Efficiency counts the cores that there are, which more ranks share. Standard
library only.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile

from model_folders import make_model

UPDATES, SKIPPED = 8, 2  # the first ones warm up


def start(tool, folder, ranks, port):
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    arguments = [tool, folder / "run.yaml", "--threads", "1"]
    environments = [dict(os.environ, RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank),
                         LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
                    if ranks > 1 else os.environ for rank in range(ranks)]
    processes = [subprocess.Popen(list(map(str, arguments)), env=environment, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True) for environment in environments]
    for process in processes:
        _, errors = process.communicate()
        if process.returncode != 0:
            raise SystemExit(errors)
    with open(run / "metrics.jsonl") as f:
        rows = [json.loads(line) for line in f]
    return statistics.median(row["tokens_per_second"] for row in rows[SKIPPED:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default="build/bin/liger-finetune")
    parser.add_argument("--folder", default=None, help="where the model is made; default: the system's")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=29517)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="liger-scaling-", dir=args.folder))
    try:
        make_model(str(folder / "model"), "15M", "float32")
        with open(folder / "rows.jsonl", "w") as f:
            f.writelines(json.dumps({"text": "a lion and a tiger; " * 100}) + "\n" for _ in range(100))
        (folder / "run.yaml").write_text(json.dumps({
            "model": {"path": str(folder / "model"), "attention": "liger_gla"},
            "data": {"train": str(folder / "rows.jsonl"), "format": "text", "val_size": 0, "max_length": 256,
                     "over_length": "split"},
            "train": {"batch_size": 8, "micro_batch_size": 1, "scheduler": "constant", "max_steps": UPDATES},
            "save": {"dir": str(folder / "run"), "every": 0}, "log": {"every": 1}}))
        found = {ranks: [] for ranks in args.ranks}
        for round_ in range(args.rounds):
            for i, ranks in enumerate(args.ranks):
                found[ranks].append(start(args.tool, folder, ranks, args.port + round_ * len(args.ranks) + i))
    finally:
        shutil.rmtree(folder)
    cores = len(os.sched_getaffinity(0))
    rows = []
    print(f"| ranks of one thread, {cores} cores | tokens/s | against {args.ranks[0]} | efficiency |\n|---|---|---|---|")
    for ranks in args.ranks:
        rate = statistics.median(found[ranks])
        gain = statistics.median(a / b for a, b in zip(found[ranks], found[args.ranks[0]]))
        share = gain / (min(ranks, cores) / min(args.ranks[0], cores))
        rows.append({"ranks": ranks, "tokens_per_second": rate, "gain": gain, "efficiency": share})
        print(f"| {ranks} | {rate:.0f} | {gain:.2f} | {share:.0%} |")
    if args.json:
        args.json.write_text(json.dumps({"cores": cores, "rounds": args.rounds, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
