#!/usr/bin/env bash
# The demo: a small pretrained Transformer loses its attention and recovers as a gated recurrent model.
#   configs/demo/run.sh BIN OUT
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${1:-build/bin}
out=${2:-out/demo}
teacher=configs/demo/teacher

step() { printf '\n== %s\n' "$*" >&2; }

# measure NAME MODEL [--adapter DIR]: OUT/NAME.eval.json, OUT/NAME.generate.json, and one line of what they say.
measure() {
  local name=$1 model=$2
  shift 2
  "$bin/liger-eval" --model "$model" "$@" --tasks perplexity,multiple_choice --data "$out/data" --json \
    >"$out/$name.eval.json"
  "$bin/liger-generate" --model "$model" "$@" --file "$out/prompt.txt" --max-tokens 64 --json \
    >"$out/$name.generate.json"
  python3 configs/demo/table.py "$out" "$name"
}

rm -rf "$out"
mkdir -p "$out"
python3 configs/demo/make_world.py "$out/data" --rhymes 0 --verses 0 --train 0
python3 configs/demo/table.py "$out" --prompt >"$out/prompt.txt"

step "1/5 the teacher: softmax attention over everything before"
measure teacher "$teacher"
step "2/5 converted: attention replaced by a window of 65 tokens and a gated recurrence, a few numbers of each head fitted"
"$bin/liger-convert" --model "$teacher" --arch gated-retention --calibrate "$out/data/lora.jsonl" --out "$out/converted"
measure converted "$out/converted"
step "3/5 LoRA on the attention projections, from the data and from the teacher"
"$bin/liger-finetune" configs/demo/lora.yaml --set model.path="$out/converted" \
  --set data.train="$out/data/lora.jsonl" --set save.dir="$out/lora"
step "4/5 recovered"
measure recovered "$out/converted" --adapter "$out/lora/final"
step "5/5 result"
python3 configs/demo/table.py "$out"
