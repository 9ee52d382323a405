#!/usr/bin/env python3
"""liger's CPU kernels beside the Python stack on the same work, in turns on one machine; prints the ratios.

    python benchmarks/run.py [--bench build/benchmarks/cpu_bench] [--threads N] [--rounds R] [--only scan window decode train]
                             [--python PYTHON] [--llama-python PYTHON] [--json FILE]

--python has torch and transformers, --llama-python llama-cpp-python and gguf (default: the same); a peer that is missing
leaves its column empty. Every figure is a median over the rounds, in which the two sides take turns.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
SHAPES = ["1,1024,6,48", "1,2048,8,64", "2,2048,16,128"]
CONTEXTS = [128, 4096]


class Runner:
    def __init__(self, args):
        self.args = args
        self.environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads))

    def bench(self, name, **extra):
        """Of one benchmark of ours: milliseconds and its counters."""
        out = subprocess.run([self.args.bench, f"--benchmark_filter=^{name}", "--benchmark_format=json"], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
                             env=self.environment | extra).stdout
        result = json.loads(out)["benchmarks"][0]
        scale = {"ns": 1e-6, "us": 1e-3, "ms": 1.0}[result["time_unit"]]
        return result | {"ms": result["real_time"] * scale}

    def peer(self, program, *options, python=None):
        """Items of a program in compare/; nothing if it skips."""
        command = [python or self.args.python, HERE / "compare" / program, "--json", "--threads",
                   str(self.args.threads), *map(str, options)]
        run = subprocess.run(command, text=True, stdout=subprocess.PIPE)
        if run.returncode:
            sys.exit(f"{program} failed")
        result = json.loads(run.stdout)
        if "skipped" in result:
            print(f"{program}: {result['skipped']}", file=sys.stderr)
        return result.get("items", [])

    def share(self, part, whole):
        """Median of part over whole. The machine is faster now and slower then: only neighbours in time compare."""
        return statistics.median(part() / whole() for _ in range(self.args.rounds + 2))

    def rounds(self, ours, theirs):
        """Medians of what both return, dicts of numbers, taken in turns."""
        samples = [(ours(), theirs()) for _ in range(self.args.rounds)]

        def median(side):
            keys = set.intersection(*(set(sample[side]) for sample in samples))
            return {key: statistics.median(sample[side][key] for sample in samples) for key in keys}
        return median(0), median(1)


def scan(run):
    for shape in SHAPES:
        name = shape.replace(",", "/")
        forms = {}

        def ours(measure):
            if measure == "memory":
                return {"is": run.bench(f"scan_memory/{name}/", LIGER_DEFAULT_MALLOC="1")["MB"]}
            return {"is": run.bench(f"scan_{'forward' if measure == 'naive' else measure}/{name}/")["ms"]}

        def theirs(measure):
            form = None if measure == "naive" else forms.get("forward_backward" if measure == "memory" else measure)
            options = ["--form", form] if form else []
            for item in run.peer("scan_torch.py", "--shape", shape, "--measure", measure, *options):
                forms[measure] = item.get("form")
                return {"is": item["mb" if measure == "memory" else "ms"]}
            return {}

        def compare(measure):
            mine, peer = run.rounds(lambda: ours(measure), lambda: theirs(measure))
            return mine["is"], peer.get("is")
        yield f"scan forward {shape}, ms", *compare("forward"), 3
        yield f"scan forward {shape} against token by token, ms", *compare("naive"), 15
        yield f"scan forward + backward {shape}, ms", *compare("forward_backward"), 4
        yield f"scan forward + backward {shape}, peak MB", *compare("memory"), 2
    one = Runner(argparse.Namespace(**vars(run.args) | {"threads": 1}))
    for shape in SHAPES:
        share = one.share(lambda: one.bench(f"scan_forward/{shape.replace(',', '/')}/")["GFLOP/s"],
                          lambda: one.bench("machine_fma")["GFLOP/s"])
        yield f"scan arithmetic {shape}, one core, share of what it can", 1, share, 0.65


def window(run):
    def theirs():
        return {item["form"]: item["forward_backward_ms"] for item in run.peer("window_torch.py")}
    mine, peer = run.rounds(
        lambda: {"ms": run.bench("window_forward_backward/")["ms"]}, theirs)
    for form, ms in sorted(peer.items()):
        yield f"window forward + backward, T 2048, W 64, against {form}, ms", mine["ms"], ms, 8


def decode(run):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([run.args.python, HERE / "compare" / "decode_transformers.py", "--save", folder], check=True)

        def ours():
            return {f"{size} {context}": 1e3 / run.bench(f"decode_{size}/{context}/")["ms"]
                    for size in ("15M", "110M") for context in CONTEXTS}

        def theirs():
            found = {}
            for program, python in (("decode_transformers.py", None), ("decode_llamacpp.py", run.args.llama_python)):
                options = ["--folder", folder] if "llama" in program else []
                for item in run.peer(program, *options, python=python):
                    size = item["model"].replace("stories", "")
                    found[f"{program} {size} {item['context']}"] = item["tokens_per_second"]
            return found
        mine, peer = run.rounds(ours, theirs)
    targets = {"decode_transformers.py": {"15M": (5, 10), "110M": (3.4, 9)},
               "decode_llamacpp.py": {"15M": (1, 3), "110M": (1, 3)}}
    for program, sizes in targets.items():
        for size, wanted in sizes.items():
            for context, target in zip(CONTEXTS, wanted):
                key = f"{size} {context}"
                other = peer.get(f"{program} {key}")
                yield (f"decode {size} bf16, context {context}, against {program[7:-3]}'s softmax, tokens/s",
                       1 / mine[key], other and 1 / other, target)
    latest = {}

    def at(context):
        latest[context] = run.bench(f"decode_15M/{context}/")
        return latest[context]["ms"]
    yield "decode 15M: time at context 32768 over 128", 1, run.share(lambda: at(32768), lambda: at(128)), -1.05
    state = latest[32768]["state_bytes"] / latest[128]["state_bytes"]
    yield "decode 15M: state at context 32768 over 128", 1, state, -1
    share = run.share(lambda: run.bench("decode_110M/128/")["GB/s"], lambda: run.bench("machine_read/220")["GB/s"])
    yield "decode 110M: weights streamed, share of what both cores read", 1, share, 0.7


def train(run):
    """Updates of LoRA fine-tuning: tokens a second of Liger-GLA against both forms of the peer, and peak memory."""
    wanted = {("15M", "bf16", 100): 2, ("110M", "bf16", 100): 1.5, ("15M", "fp32", 100): 1.6, ("110M", "fp32", 100): 1.2,
              ("15M", "bf16", 50): 2.2, ("110M", "bf16", 50): 1.8, ("15M", "fp32", 50): 1.6, ("110M", "fp32", 50): 1.2}
    for (model, dtype, learned), target in wanted.items():
        if dtype not in run.args.dtypes:
            continue
        for rows, length in ((4, 256), (1, 1024)):
            def ours():
                item = run.bench(f"train_{model}_{dtype}/{rows}/{length}/{learned}/")
                return {"peft": item["ms"], "liger": item["ms"], "mb": item["MB"]}

            def theirs():
                found = {}
                for form in ("peft", "liger"):
                    for item in run.peer("train_torch.py", "--form", form, "--model", model, "--rows", rows, "--length",
                                         length, "--learned", learned, "--dtype",
                                         {"fp32": "float32", "bf16": "bfloat16"}[dtype], "--updates", run.args.updates):
                        found |= {form: item["ms"], "mb": min(item["mb"], found.get("mb", item["mb"]))}
                return found
            mine, peer = run.rounds(ours, theirs)
            what = f"{model} {dtype}, {rows} x {length}, {learned} % learned"
            for form, name in (("peft", "PEFT's softmax"), ("liger", "Liger-GLA in PyTorch")):
                yield (f"train {what}, against {name}, tokens/s", mine[form] / (rows * length * 1e3),
                       peer.get(form) and peer[form] / (rows * length * 1e3), target)
            yield f"train {what}, peak MB", mine["mb"], peer.get("mb"), 2


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bench", default="build/benchmarks/cpu_bench")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--only", nargs="+", choices=["scan", "window", "decode", "train"],
                   default=["scan", "window", "decode", "train"])
    p.add_argument("--updates", type=int, default=5, help="of a peer's training, the first not counted")
    p.add_argument("--dtypes", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"],
                   help="of training; in bf16 a peer takes minutes an update where the processor has no such products")
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--llama-python", default=sys.executable)
    p.add_argument("--json", type=pathlib.Path)
    args = p.parse_args()
    run, rows = Runner(args), []
    print("| work | liger | peer | ratio | wanted |\n|---|---|---|---|---|")
    for section in args.only:
        for work, ours, theirs, target in globals()[section](run):
            ratio = theirs / ours if theirs else None
            rates = "tokens/s" in work
            show = (lambda x: f"{1 / x if rates else x:.4g}") if theirs else (lambda x: "")
            alone = ours == 1
            wanted = f"at most {-target:g}" if target < 0 else f"{target:g}"
            print(f"| {work} | {'' if alone else show(ours)} | {'' if alone or not theirs else show(theirs)} "
                  f"| {ratio:.2f} |" if ratio else f"| {work} | {ours:.4g} | not there | |", wanted, "|", flush=True)
            rows.append({"work": work, "ours": ours, "peer": theirs, "ratio": ratio, "wanted": target})
    if args.json:
        args.json.write_text(json.dumps({"machine": platform.processor() or platform.machine(),
                                         "threads": args.threads, "rounds": args.rounds, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
