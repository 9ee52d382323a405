#!/usr/bin/env python3
"""Where the time of a training update goes, as Linux's perf samples it, beside the products of the update alone.

    benchmarks/step_profile.py [--bench build/benchmarks/cpu_bench] [--case 15M_fp32/4/256/100 ...]

Cases are those of train_bench.cpp. What every thread does counts, so that one that waits for another does show. Needs
perf; standard library only.
"""
import argparse
import json
import os
import re
import subprocess
import tempfile

# The first that matches the library and symbol of a sample.
PARTS = [
    ("setting up", r"normal|random|Normal|uniform|benchmark::"),
    ("matrix products (MKL)", r"mkl_|sgemm|gemm"),
    ("a thread waits for the other", r"libgomp|libiomp|sched_yield|futex"),
    ("cross-entropy beside its products", r"softmax_piece|cross_entropy|\bliger::\(anonymous namespace\)::exp\b"),
    ("norm, gated activation", r"norm_rows|NormRows|gate_rows|load_row|store_row"),
    ("Liger mixing: window, scan, gates, rotation",
     r"product_column|Scan|Window|MixRun|MixHead|backward_pass|run_pass|StructureRun|RowMaps|rotate|transpose|Ahead|"
     r"CacheStep|Arena|liger::"),
    ("memory from the system", r"\[k\]|kernel"),
    ("LibTorch: additions, copies, optimizer, dispatch", r""),
]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def bench(args, name):
    text = run([args.bench, f"--benchmark_filter={name}", "--benchmark_format=json"])
    return json.loads(text)["benchmarks"][0]["real_time"]


def shares(args, name):
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "samples")
        run(["perf", "record", "-q", "-e", "cpu-clock", "-F", "499", "-o", data, args.bench, f"--benchmark_filter={name}"])
        report = run(["perf", "report", "-i", data, "--sort", "dso,symbol", "--stdio", "-F", "sample,dso,symbol"])
    found = dict.fromkeys((part for part, _ in PARTS), 0)
    for line in report.splitlines():
        match = re.match(r"\s*(\d+)\s+(.*)", line)
        if not match:
            continue
        part = next(part for part, pattern in PARTS if re.search(pattern, match[2]))
        found[part] += int(match[1])
    found.pop("setting up")
    total = sum(found.values())
    return {part: count / total for part, count in found.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bench", default="build/benchmarks/cpu_bench")
    p.add_argument("--case", nargs="+", default=["15M_fp32/4/256/100", "110M_fp32/1/1024/100"])
    args = p.parse_args()
    columns = []
    for case in args.case:
        # In turns, as machines change their pace.
        products, update = [], []
        for _ in range(3):
            products.append(bench(args, f"train_products_{case.split('_')[0]}/"))
            update.append(bench(args, f"train_{case}/"))
        columns.append((case, sorted(update)[1], sorted(products)[1], shares(args, f"train_{case}/")))
    print("| part of an update | " + " | ".join(case for case, *_ in columns) + " |\n|---|" + "---|" * len(columns))
    for part, _ in PARTS[1:]:
        print(f"| {part} | " + " | ".join(f"{update * share[part]:.0f} ms, {share[part]:.0%}"
                                          for _, update, _, share in columns) + " |")
    print("| all | " + " | ".join(f"{update:.0f} ms" for _, update, _, _ in columns) + " |")
    print("| its products alone, one after the other | " +
          " | ".join(f"{products:.0f} ms, {products / update:.0%}" for _, update, products, _ in columns) + " |")


if __name__ == "__main__":
    main()
