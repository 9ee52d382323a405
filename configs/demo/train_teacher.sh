#!/usr/bin/env bash
# Makes the demo's teacher from nothing: text, tokenizer, training, weights in place. About 25 minutes on two cores.
#   configs/demo/train_teacher.sh [BIN [OUT]]
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${1:-build/bin}
out=${2:-out/teacher}
teacher=configs/demo/teacher

say() { printf -- '-- %s\n' "$*" >&2; }

say "text"
python3 configs/demo/make_world.py "$out/data"
say "tokenizer"
"$bin/liger-train-tokenizer" --data "$out/data/train.jsonl" --out "$teacher" --vocab-size 1024
say "verses, from random weights"
"$bin/liger-finetune" configs/demo/verses.yaml --set data.train="$out/data/verses.jsonl" --set save.dir="$out/verses"
say "stories"
"$bin/liger-finetune" configs/demo/teacher.yaml --set model.path="$out/verses/final" \
  --set data.train="$out/data/train.jsonl" --set save.dir="$out/run"
cp "$out/run/final/model.safetensors" "$teacher/model.safetensors"
say "result"
"$bin/liger-eval" --model "$teacher" --tasks perplexity,multiple_choice --data "$out/data"
