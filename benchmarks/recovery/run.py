#!/usr/bin/env python3
"""How much of a model comes back, by which way of linearizing it, for how many tokens.

    benchmarks/recovery/run.py --model DIR --data FILE.jsonl --out DIR [--windows 17,65] [--budgets 0,100000,1000000]
                               [--seeds 0,1,2] [--only NAME,...] [--questions NAME=DIR ...] [--jobs 2]

Runs every method of methods.json through liger-convert and liger-finetune: the first tenth of the rows ({"text": ...})
is held out, and the validation loss on it is what counts, beside the teacher's. --questions adds a column: the share
answered right of DIR/multiple_choice.test.jsonl, such as those that configs/demo/make_world.py --recall writes for
facts told 1, 2, 4 and 8 windows before; {w} in DIR is the window. A method of methods.json is "like" an earlier one but
for what it says (null: not set); its "attention" is the share of its updates that learn what attention writes, its
"window" overrides --windows (null: it has none); "A then B" converts what A wrote by B. In its
settings {model} is the model, and {trained} what the method it comes "after" has left, which is to "keep" it. What is
finished is not run again: the same command goes on where it was stopped, and one with other arguments adds to the
report. Writes results.json, report.md and a picture of the loss gap against tokens for each window. The learning rate
(--lr) and all else that is not a method's own are the same for all. Standard library only.
"""
import argparse
import concurrent.futures
import json
import os
import shutil
import statistics
import subprocess
import sys

from drawing import draw

HERE = os.path.dirname(os.path.abspath(__file__))


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
    parser.add_argument("--baseline", default="window", help="the method that gaps are shares of")
    parser.add_argument("--only", default="", help="these methods, separated by commas")
    parser.add_argument("--questions", action="append", default=[], metavar="NAME=DIR", help="also ask these")
    parser.add_argument("--rank", type=int, default=8, help="of LoRA; its alpha too")
    parser.add_argument("--length", type=int, default=256, help="tokens of a chunk")
    parser.add_argument("--batch", type=int, default=4, help="chunks of an update")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--held-out", type=int, default=0, help="rows held out, of the first tenth; 0 = all of it")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    args = parser.parse_args()
    for name in ("windows", "budgets", "seeds"):
        setattr(args, name, [int(x) for x in getattr(args, name).split(",")])
    args.questions = dict(question.split("=", 1) for question in args.questions)
    return args


def call(command, log):
    """What the command writes to its standard output; the rest goes to the log."""
    with open(log, "w") as file:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, text=True,
                              env=dict(os.environ, OMP_NUM_THREADS="1"))
    if done.returncode != 0:
        with open(log) as file:
            raise RuntimeError(f"{' '.join(command)}\n{file.read()[-2000:]}")
    return done.stdout


def write_json(path, value):
    with open(path + ".new", "w") as file:
        json.dump(value, file, indent=1)
    os.replace(path + ".new", path)


def read_methods(path):
    """Those like an earlier one filled up with what it says."""
    methods = {}
    with open(path) as file:
        for name, method in json.load(file).items():
            if "like" in method:
                base = methods[method["like"]]
                train = {**base["train"], **method.get("train", {})}
                method = {**base, **method, "train": {key: value for key, value in train.items() if value is not None}}
            methods[name] = method
    return methods


class Matrix:
    def __init__(self, args):
        self.args = args
        self.methods = read_methods(args.methods)
        self.wanted = list(dict.fromkeys([*(args.only.split(",") if args.only else self.methods), "teacher", args.baseline]))
        unknown = [name for name in self.wanted if name not in self.methods]
        if unknown:
            sys.exit(f"no such method: {', '.join(unknown)}; there are {', '.join(self.methods)}")
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
        for name in self.wanted:
            method = self.methods[name]
            windows = [None] if method.get("softmax") or "window" in method else self.args.windows
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
        source, steps = self.args.model, method["convert"].split(" then ")
        for number, step in enumerate(steps):
            out = folder if number + 1 == len(steps) else f"{folder}.{number}"
            shutil.rmtree(out, ignore_errors=True)
            command = [os.path.join(self.args.bin, "liger-convert"), "--model", source, "--out", out, "--json"]
            for word in step.split():
                command.append(word)
                if word == "--calibrate":
                    command += [self.path("train.jsonl"), "--calibrate-length", str(self.args.length)]
            width = method.get("window", window)
            if number == 0 and width is not None:
                command += ["--window", str(width)]
            write_json(out + ".json", json.loads(call(command, out + ".log")))
            source = out
        return folder

    def run(self, cell):
        name, window, budget, seed = cell
        folder = self.path("runs", f"{self.label(name, window)}-{budget}-{seed}")
        result = os.path.join(folder, "result.json")
        if not os.path.exists(result):
            losses = self.train(cell, folder)
            adapter = os.path.join(folder, "final")
            write_json(result, {"cell": cell, "before": losses[0], "after": losses[max(losses)], "steps": max(losses),
                                "seconds": self.seconds(folder),
                                "right": self.answers(name, window, adapter, folder) if budget > 0 else {}})
            if not self.methods[name].get("keep"):
                shutil.rmtree(adapter, ignore_errors=True)
        with open(result) as file:
            return json.load(file)

    def train(self, cell, folder):
        """{update: validation loss}"""
        name, window, budget, seed = cell
        method, steps = self.methods[name], max(1, round(budget / (self.args.length * self.args.batch)))
        settings = {"model.path": self.model(name, window), "model.dtype": "f32",
                    "lora.r": self.args.rank, "lora.alpha": self.args.rank,
                    "data.train": self.path("train.jsonl"), "data.val": self.path("val.jsonl"),
                    "data.format": "text", "data.max_length": self.args.length, "data.over_length": "split",
                    "data.cache": self.path("tokens"), "train.max_steps": steps, "train.lr": self.args.lr,
                    "train.batch_size": self.args.batch, "train.micro_batch_size": self.args.batch,
                    "train.scheduler": "cosine", "train.warmup_steps": min(20, steps // 5), "train.min_lr": 0,
                    "train.weight_decay": 0, "train.eval_every": 0, "train.seed": seed, "save.dir": folder,
                    "save.every": 0, "save.resume": "never", "save.overwrite": True, "log.every": max(1, steps // 50),
                    "log.svg": False, "log.tensorboard": False, **(method["train"] or {})}
        if settings.get("lora") == "null":
            settings = {key: value for key, value in settings.items() if not key.startswith("lora.")}
        if "attention" in method:
            settings["distill.attention_steps"] = round(steps * method["attention"])
        config = folder + ".yaml"
        with open(config, "w") as file:
            file.write("{}\n")
        command = [os.path.join(self.args.bin, "liger-finetune"), config]
        for key, value in settings.items():
            text = json.dumps(value)
            if isinstance(value, str):
                text = value.replace("{model}", self.args.model).replace("{trained}", self.result_of(method, cell))
            command += ["--set", f"{key}={text}"]
        call(command, folder + ".log")
        with open(os.path.join(folder, "metrics.jsonl")) as file:
            return {row["current_steps"]: row["eval_loss"] for row in map(json.loads, file) if row.get("eval_loss")}

    def result_of(self, method, cell):
        """The model that the method before this one has left after as many tokens; "" if it comes after none."""
        if "after" not in method:
            return ""
        folder = self.path("runs", f"{self.label(method['after'], None)}-{cell[2]}-{cell[3]}", "final")
        if not os.path.exists(folder):
            sys.exit(f"{folder} is not there; remove the folder it is missing in, and run {method['after']} too")
        return folder

    def seconds(self, folder):
        with open(os.path.join(folder, "metrics.jsonl")) as file:
            times = [json.loads(row)["time"] for row in file]
        return times[-1] - times[0]

    def untrained_answers(self, name, window):
        """Kept beside the model; asked again where a question is new."""
        file, known = self.path("models", self.label(name, window) + ".answers.json"), {}
        if os.path.exists(file):
            with open(file) as answers:
                known = json.load(answers)
        if set(self.args.questions) - set(next(iter(known.values()), {})):
            known = self.answers(name, window, None, self.path("models", self.label(name, window)))
            write_json(file, known)
        return known

    def answers(self, name, window, trained, log):
        """{window: {name of the questions: share answered right}}, for every window where a method has none."""
        right, model = {}, ["--model", self.model(name, window)]
        if trained:
            whole = self.methods[name]["train"].get("lora") == "null"
            model = ["--model", trained] if whole else [*model, "--adapter", trained]
        for w in self.args.windows if window is None else [window]:
            for questions, data in self.args.questions.items():
                command = [os.path.join(self.args.bin, "liger-eval"), *model, "--json",
                           "--tasks", "multiple_choice", "--data", data.format(w=w)]
                answer = json.loads(call(command, log + ".eval.log"))
                right.setdefault(str(w), {})[questions] = answer["results"]["multiple_choice"]["acc,none"]
        return right

    def all(self):
        cells = list(self.cells())
        for name, window in dict.fromkeys((name, window) for name, window, _, _ in cells):
            self.model(name, window)
        if cells:
            self.run(cells[0])  # alone: it makes the tokens the others read
        with concurrent.futures.ThreadPoolExecutor(self.args.jobs) as pool:
            for done, result in enumerate(pool.map(self.run, cells), 1):
                name, window, budget, seed = result["cell"]
                print(f"{done}/{len(cells)} {name}, window {window}, {budget} tokens, seed {seed}: "
                      f"{result['before']:.4f} -> {result['after']:.4f}", flush=True)

    def finished(self):
        """{cell: result} of all that this folder has seen, in the order of the methods."""
        results = {}
        for folder in sorted(os.listdir(self.path("runs"))):
            file = self.path("runs", folder, "result.json")
            if os.path.exists(file):
                with open(file) as result:
                    found = json.load(result)
                results[tuple(found["cell"])] = found
        order = list(self.methods)
        return {cell: results[cell] for cell in sorted(
            (cell for cell in results if cell[0] in order), key=lambda c: (order.index(c[0]), c[1] or 0, c[2], c[3]))}


def table_of(matrix, results):
    """[method][window][budget] = {"loss": of the seeds, "right": {questions: of the seeds}}; a method without a window
    has every window's, and None stands for that of the questions where no method has one."""
    table, windows = {}, sorted({window for _, window, _, _ in results if window is not None}) or [None]

    def add(name, window, budget, loss, right):
        entry = table.setdefault(name, {}).setdefault(window, {}).setdefault(budget, {"loss": [], "right": {}})
        entry["loss"].append(loss)
        for questions, share in right.get(str(window or matrix.args.windows[0]), {}).items():
            entry["right"].setdefault(questions, []).append(share)

    for (name, window, budget, _), result in results.items():
        for w in windows if window is None else [window]:
            if 0 not in table.get(name, {}).get(w, {}):
                add(name, w, 0, result["before"], matrix.untrained_answers(name, window))
            if budget > 0:
                add(name, w, budget, result["after"], result["right"])
    return table


def table_lines(matrix, entries, cell):
    """cell(entry of the table, budget) -> text, for every method that has one."""
    budgets = sorted({budget for entry in entries.values() for budget in entry})
    lines = ["| method | " + " | ".join(f"{b:,} tokens" for b in budgets) + " | |", "|---|" + "---|" * (len(budgets) + 1)]
    for name, entry in entries.items():
        cells = [cell(entry[b], b) if b in entry else "" for b in budgets]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {matrix.methods[name]['note']} |")
    return lines


def with_spread(values, digits):
    spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def answer_lines(entries, questions):
    """A table for each budget; runs from before these questions were asked have no answers."""
    lines = []
    for budget in sorted({budget for entry in entries.values() for budget in entry}) if questions else []:
        lines += [f"Share answered right after {budget:,} tokens:", "", "| method | " + " | ".join(questions) + " |",
                  "|---|" + "---|" * len(questions)]
        for name, entry in entries.items():
            right = entry[budget]["right"] if budget in entry else entry[0]["right"] if len(entry) == 1 else {}
            cells = [with_spread(right[q], 3) if q in right else "" for q in questions]
            if any(cells):
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def costs(matrix, results):
    """What calibration takes beside training, one thread each."""
    lines = ["## What calibration costs", "", "| method | window | calibration, s | tokens | training on them, s | |",
             "|---|---|---|---|---|---|"]
    for name, window, budget in dict.fromkeys(cell[:3] for cell in results):
        file = matrix.path("models", matrix.label(name, window) + ".json")
        if "--calibrate" not in matrix.methods[name].get("convert", "") or not os.path.exists(file):
            continue
        with open(file) as converted:
            calibration = json.load(converted).get("calibration")
        if calibration is None:  # what was calibrated was converted on
            continue
        took = calibration["seconds"]
        training = statistics.median(r["seconds"] for cell, r in results.items() if cell[:3] == (name, window, budget))
        lines.append(f"| {name} | {window} | {took:.1f} | {budget:,} | {training:.1f} | {100 * took / training:.1f} % |")
    return [*lines, ""]


def write_report(matrix, results):
    args, table = matrix.args, table_of(matrix, results)
    windows = list(table["teacher"])
    teacher = table["teacher"][windows[0]][0]["loss"][0]
    lines = [f"# Recovery of {os.path.basename(os.path.normpath(args.model))}", "",
             f"Validation loss of the teacher: {teacher:.4f} nats a token. Learning rate {args.lr}, rank {args.rank}, "
             f"chunks of {args.length}, {args.length * args.batch} tokens an update. Means of seeds; numbers in "
             "brackets are their standard deviation, where there were several.", ""]
    for window in windows:
        entries = {name: windows[window] for name, windows in table.items() if window in windows}
        base = {b: statistics.mean(entry["loss"]) - teacher for b, entry in entries[args.baseline].items()}

        def gap(entry, budget):
            values = [loss - teacher for loss in entry["loss"]]
            share = f", {100 * statistics.mean(values) / base[budget]:.0f} %" if budget in base else ""
            return with_spread(values, 4) + share

        picture, of_window = ("gap.svg", "") if window is None else (f"gap-w{window}.svg", f", window of {window} keys")
        left = "what the window alone leaves" if args.baseline == "window" else f"that of {args.baseline}"
        lines += [f"## Loss{of_window}", "",
                  f"Above the teacher's, and that as a share of {left} after as many tokens:", "",
                  *table_lines(matrix, entries, gap), "", f"![loss gap against tokens]({picture})", ""]
        lines += answer_lines(entries, list(args.questions))
        curves = {}
        for name, entry in entries.items():
            points = [(b, statistics.mean(e["loss"]) - teacher) for b, e in sorted(entry.items())]
            if len(points) > 1:
                curves[name] = points
        with open(matrix.path(picture), "w") as file:
            file.write(draw(f"Loss above the teacher's{of_window}", curves))
    lines += costs(matrix, results)
    with open(matrix.path("report.md"), "w") as file:
        file.write("\n".join(lines))
    write_json(matrix.path("results.json"), {"teacher": teacher, "methods": table})
    return "\n".join(lines)


def main():
    matrix = Matrix(arguments())
    matrix.all()
    print(write_report(matrix, matrix.finished()))


if __name__ == "__main__":
    main()
