"""What the programs in this folder share: options, the clean skip, timing."""
import argparse
import ctypes
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
    p.add_argument("--default-malloc", action="store_true", help="do not tell the allocator to keep freed memory")
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


def prepare(args, keep_memory=True):
    """Before torch or llama.cpp is imported: threads, and an allocator that keeps what is freed.

    glibc returns large blocks to the system at once, and the page faults of taking them anew can last longer than the
    arithmetic. Who cares for speed loads another allocator; the peers are to be measured at their best.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    if keep_memory and not args.default_malloc and hasattr(ctypes.CDLL(None), "mallopt"):
        trim_threshold, top_pad, mmap_threshold, arena_max = -1, -2, -3, -8  # from malloc.h
        for option, value in ((trim_threshold, 2**31 - 1), (top_pad, 1 << 26), (mmap_threshold, 1 << 30),
                              (arena_max, 1)):
            ctypes.CDLL(None).mallopt(option, value)


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
