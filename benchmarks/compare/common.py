"""What the programs in this folder share: options, the clean skip, timing."""
import argparse
import importlib.util
import json
import os
import statistics
import sys
import time


def parser(doc):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    return p


def skip(args, reason):
    """A missing peer is no failure: one line, exit code 0."""
    print(json.dumps({"skipped": reason}) if args.json else f"skipped: {reason}")
    sys.exit(0)


def need(args, *packages):
    """Looks without importing: a program that measures memory in children must stay small itself."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            skip(args, f"the package {package} is not installed")


def set_threads(threads):
    """Before torch or llama.cpp is imported."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)


def median_ms(run, runs=5, seconds=1.0, warm_up=2):
    """Median of at least `runs` runs that fill at least `seconds`."""
    for _ in range(warm_up):
        run()
    times, end = [], time.perf_counter() + seconds
    while len(times) < runs or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def report(args, result, line):
    """The result as JSON, or one line of text for each item."""
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{result['library']}, {result['threads']} threads")
        for item in result["items"]:
            print("  " + line(item))
