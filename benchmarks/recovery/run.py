#!/usr/bin/env python3
"""How much of a model comes back, by which way of linearizing it, for how many tokens.

    benchmarks/recovery/run.py --model DIR --data FILE.jsonl --out DIR [--windows 17,65] [--budgets 0,100000,1000000]
                               [--seeds 0,1,2] [--only NAME,...] [--jobs 2]

Runs every method of methods.json through liger-convert and liger-finetune: the first tenth of the rows ({"text": ...})
is held out, and the validation loss on it is what counts, beside the teacher's. What is finished is not run again: the
same command goes on where it was stopped. Writes results.json, report.md and a picture of the loss gap against tokens
for each window. The learning rate (--lr) and all else that is not a method's own are the same for all.
Standard library only.
"""
import argparse
import concurrent.futures
import json
import math
import os
import shutil
import statistics
import subprocess
import sys

from drawing import draw

HERE = os.path.dirname(os.path.abspath(__file__))
BASELINE = "window"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--methods", default=os.path.join(HERE, "methods.json"))
    parser.add_argument("--bin", default=os.path.join(HERE, "..", "..", "build", "bin"))
    parser.add_argument("--windows", default="17,65")
    parser.add_argument("--budgets", default="0,100000,1000000")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="these methods, separated by commas")
    parser.add_argument("--length", type=int, default=256, help="tokens of a chunk")
    parser.add_argument("--batch", type=int, default=4, help="chunks of an update")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--held-out", type=int, default=0, help="rows held out, of the first tenth; 0 = all of it")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    args = parser.parse_args()
    for name in ("windows", "budgets", "seeds"):
        setattr(args, name, [int(x) for x in getattr(args, name).split(",")])
    return args


def call(command, log):
    with open(log, "w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT,
                              env=dict(os.environ, OMP_NUM_THREADS="1"))
    if done.returncode != 0:
        with open(log) as file:
            raise RuntimeError(f"{' '.join(command)}\n{file.read()[-2000:]}")


class Matrix:
    def __init__(self, args):
        self.args = args
        with open(args.methods) as file:
            self.methods = json.load(file)
        if args.only:
            wanted = args.only.split(",")
            unknown = [name for name in wanted if name not in self.methods]
            if unknown:
                sys.exit(f"no such method: {', '.join(unknown)}; there are {', '.join(self.methods)}")
            self.methods = {name: self.methods[name] for name in dict.fromkeys(wanted + ["teacher", BASELINE])}
        for folder in ("runs", "models"):
            os.makedirs(self.path(folder), exist_ok=True)
        self.split()

    def path(self, *parts):
        return os.path.join(self.args.out, *parts)

    def split(self):
        with open(self.args.data) as file:
            rows = file.readlines()
        tenth = len(rows) // 10
        for name, part in (("val", rows[:self.args.held_out or tenth]), ("train", rows[tenth:])):
            with open(self.path(name + ".jsonl"), "w") as file:
                file.writelines(part)

    def cells(self):
        """One for each run that is needed: budget 0 is what a run finds before its first update."""
        for name, method in self.methods.items():
            windows = [None] if method.get("softmax") or method.get("window") == 0 else self.args.windows
            trained = method["train"] is not None
            budgets = [b for b in self.args.budgets if b > 0] if trained else []
            for window in windows:
                for budget in budgets or [0]:
                    for seed in self.args.seeds if budget > 0 else self.args.seeds[:1]:
                        yield name, window, budget, seed

    def label(self, name, window):
        text = "".join(c if c.isalnum() else "_" for c in name)
        return text if window is None else f"{text}-w{window}"

    def model(self, name, window):
        """The converted folder, made once."""
        method = self.methods[name]
        if method.get("softmax"):
            return self.args.model
        folder = self.path("models", self.label(name, window))
        if os.path.exists(folder):
            return folder
        command = [os.path.join(self.args.bin, "liger-convert"), "--model", self.args.model, "--out", folder, "--json"]
        for word in method["convert"]:
            command.append(word)
            if word == "--calibrate":
                command += [self.path("train.jsonl"), "--calibrate-length", str(self.args.length)]
        command += ["--window", str(method.get("window", window))]
        call(command, folder + ".log")
        return folder

    def run(self, cell):
        name, window, budget, seed = cell
        folder = self.path("runs", f"{self.label(name, window)}-{budget}-{seed}")
        result = os.path.join(folder, "result.json")
        if not os.path.exists(result):
            steps = max(1, round(budget / (self.args.length * self.args.batch)))
            settings = {"model.path": self.model(name, window), "model.dtype": "f32",
                        "data.train": self.path("train.jsonl"), "data.val": self.path("val.jsonl"),
                        "data.format": "text", "data.max_length": self.args.length, "data.over_length": "split",
                        "data.cache": self.path("tokens"), "train.max_steps": steps, "train.lr": self.args.lr,
                        "train.batch_size": self.args.batch, "train.micro_batch_size": self.args.batch,
                        "train.scheduler": "cosine", "train.warmup_steps": min(20, steps // 5), "train.min_lr": 0,
                        "train.weight_decay": 0, "train.eval_every": 0, "train.seed": seed, "save.dir": folder,
                        "save.every": 0, "save.resume": "never", "save.overwrite": True, "log.every": max(1, steps // 50),
                        "log.svg": False, "log.tensorboard": False, **(self.methods[name]["train"] or {})}
            config = folder + ".yaml"
            with open(config, "w") as file:
                file.write("{}\n")
            command = [os.path.join(self.args.bin, "liger-finetune"), config]
            for key, value in settings.items():
                command += ["--set", f"{key}={json.dumps(value) if not isinstance(value, str) else value}"]
            call(command, folder + ".log")
            with open(os.path.join(folder, "metrics.jsonl")) as file:
                losses = {row["current_steps"]: row["eval_loss"] for row in map(json.loads, file) if row.get("eval_loss")}
            with open(result + ".new", "w") as file:
                json.dump({"before": losses[0], "after": losses[max(losses)], "steps": max(losses)}, file)
            os.replace(result + ".new", result)
            shutil.rmtree(os.path.join(folder, "final"), ignore_errors=True)
        with open(result) as file:
            return cell, json.load(file)

    def all(self):
        cells = list(self.cells())
        for name, window in dict.fromkeys((name, window) for name, window, _, _ in cells):
            self.model(name, window)
        if cells:
            self.run(cells[0])  # alone: it makes the tokens the others read
        results = {}
        with concurrent.futures.ThreadPoolExecutor(self.args.jobs) as pool:
            for done, (cell, result) in enumerate(pool.map(self.run, cells), 1):
                results[cell] = result
                print(f"{done}/{len(cells)} {cell[0]}, window {cell[1]}, {cell[2]} tokens, seed {cell[3]}: "
                      f"{result['before']:.4f} -> {result['after']:.4f}", flush=True)
        return results


def table_of(matrix, results):
    """[method][window][budget] = losses of the seeds; a method without a window has every window's."""
    table = {}
    for (name, window, budget, _), result in results.items():
        for w in matrix.args.windows if window is None else [window]:
            row = table.setdefault(name, {}).setdefault(w, {})
            row[0] = [result["before"]]
            if budget > 0:
                row.setdefault(budget, []).append(result["after"])
    return table


def write_report(matrix, table):
    args, teacher = matrix.args, table["teacher"][matrix.args.windows[0]][0][0]
    lines = [f"# Recovery of {os.path.basename(os.path.normpath(args.model))}", "",
             f"Validation loss of the teacher: {teacher:.4f} nats a token. Cells: what a method leaves of it above that, "
             f"mean of {len(args.seeds)} seeds (their standard deviation), and as a share of what the trained window "
             f"alone leaves after as many tokens. Learning rate {args.lr}, chunks of {args.length}, "
             f"{args.length * args.batch} tokens an update.", ""]
    for window in args.windows:
        lines += [f"## Window of {window} keys", "",
                  "| method | " + " | ".join(f"{b:,} tokens" for b in args.budgets) + " | |",
                  "|---|" + "---|" * (len(args.budgets) + 1)]
        for name, method in matrix.methods.items():
            cells = []
            for budget in args.budgets:
                losses = table.get(name, {}).get(window, {}).get(budget)
                if not losses:
                    cells.append("")
                    continue
                gap = statistics.mean(losses) - teacher
                base = statistics.mean(table[BASELINE][window][budget]) - teacher
                spread = f" ({statistics.stdev(losses):.4f})" if len(losses) > 1 else ""
                cells.append(f"{gap:.4f}{spread}, {100 * gap / base:.0f} %")
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {method['note']} |")
        curves = {}
        for name in matrix.methods:
            points = [(b, statistics.mean(v) - teacher) for b, v in sorted(table.get(name, {}).get(window, {}).items())]
            if len(points) > 1:
                curves[name] = points
        picture = f"gap-w{window}.svg"
        with open(matrix.path(picture), "w") as file:
            file.write(draw(f"Loss above the teacher's, window of {window} keys", curves))
        lines += ["", f"![loss gap against tokens]({picture})", ""]
    with open(matrix.path("report.md"), "w") as file:
        file.write("\n".join(lines))
    with open(matrix.path("results.json"), "w") as file:
        json.dump({"teacher": teacher, "losses": table}, file, indent=1)
    return "\n".join(lines)


def main():
    matrix = Matrix(arguments())
    print(write_report(matrix, table_of(matrix, matrix.all())))


if __name__ == "__main__":
    main()
