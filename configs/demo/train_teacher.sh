#!/usr/bin/env bash
# Makes the demo's teacher from nothing: text, tokenizer, training, weights in place. About 15 minutes on two cores.
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
"$bin/liger-train-tokenizer" --data "$out/data/train.jsonl" --out "$teacher" --vocab-size 1024 --overwrite
# lesson NAME FROM [--set KEY=VALUE]...: learns OUT/data/NAME.jsonl, starting from the model in FROM.
lesson() {
  local name=$1 from=$2
  shift 2
  say "lesson: $name"
  "$bin/liger-finetune" configs/demo/teacher.yaml --set model.path="$from" --set data.train="$out/data/$name.jsonl" \
    --set save.dir="$out/$name" "$@"
}
lesson rhymes "$teacher"
lesson verses "$out/rhymes/final" --set model.init=pretrained --set train.lr=3e-3
lesson train "$out/verses/final" --set model.init=pretrained --set train.batch_size=4 --set train.micro_batch_size=4 \
  --set train.scheduler=cosine --set train.min_lr=1e-4
cp "$out/train/final/model.safetensors" "$teacher/model.safetensors"
say "result"
"$bin/liger-eval" --model "$teacher" --tasks perplexity,multiple_choice --data "$out/data"
