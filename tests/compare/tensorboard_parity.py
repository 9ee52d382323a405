#!/usr/bin/env python3
"""Reads a run's event file with the tensorboard package and compares every curve with metrics.jsonl.

    python tests/compare/tensorboard_parity.py RUN_FOLDER

Exit code 1 if a point differs, is missing or is one too many. Without the package it says so and ends with 0.
"""
import collections
import json
import pathlib
import struct
import sys

try:
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
except ImportError as e:
    print(f"skipped: the package {e.name} is not installed")
    sys.exit(0)

TAGS = {"train/loss": "loss", "train/grad_norm": "grad_norm", "train/lr": "lr", "eval/loss": "eval_loss",
        "perf/tokens_per_second": "tokens_per_second"}


def as_float32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def logged(run):
    curves = collections.defaultdict(list)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for tag, key in TAGS.items():
            if row[key] is not None and (tag != "train/lr" or row["loss"] is not None):
                curves[tag].append((row["current_steps"], as_float32(row[key])))
    return dict(curves)


def drawn(run):
    events = EventAccumulator(str(run), size_guidance={SCALARS: 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def close(tag, ours, theirs):
    if len(ours) != len(theirs):
        return False
    # metrics.jsonl rounds what is only read by people.
    slack = 0.051 if tag == "perf/tokens_per_second" else 0.0
    return all(a[0] == b[0] and abs(a[1] - b[1]) <= slack for a, b in zip(ours, theirs))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    run = pathlib.Path(sys.argv[1])
    expected, got = logged(run), drawn(run)
    wrong = [tag for tag in sorted(expected.keys() | got.keys())
             if not close(tag, expected.get(tag, []), got.get(tag, []))]
    for tag in sorted(got):
        print(f"{tag:24} {len(got[tag])} points, updates {got[tag][0][0]} to {got[tag][-1][0]}")
    for tag in wrong:
        print(f"differs: {tag}: metrics.jsonl {expected.get(tag)}, TensorBoard {got.get(tag)}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
