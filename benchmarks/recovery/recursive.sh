#!/usr/bin/env bash
# What tied layers keep and learn again: the demo's teacher, six layers in two loops, by every method of recursive.json.
# An hour or so on two cores; what is finished is not run again.
#   benchmarks/recovery/recursive.sh [BIN [OUT]]
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${1:-build/bin}
out=${2:-out/recursive}
window=17  # of the linearized methods, and of the questions

if [ ! -d "$out/data" ]; then
  python3 configs/demo/make_world.py "$out/data.new" --recall "$window" --rhymes 0 --verses 0
  mv "$out/data.new" "$out/data"
fi
benchmarks/recovery/run.py --bin "$bin" --methods benchmarks/recovery/recursive.json --baseline tied \
  --model configs/demo/teacher --data "$out/data/train.jsonl" --out "$out/report" --windows "$window" --length 640 \
  --batch 4 --lr 1e-3 --held-out 60 --seeds 0 --budgets 0,500000 --questions "task=$out/data"
