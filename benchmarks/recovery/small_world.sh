#!/usr/bin/env bash
# What comes back of the demo's teacher, with its heads of 32 and with heads of 64: makes the second teacher and the
# questions, then runs run.py on both, on the second one also for longer. Three hours on two cores; what is finished is
# not run again.
#   benchmarks/recovery/small_world.sh [BIN [OUT [METHODS]]]
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${1:-build/bin}
out=${2:-out/small-world}
methods=${3:-window,window + sinks by the recipe,recommended,recommended hybrid,delta rule,gate per channel,fixed decay,no gate,paper,normalized apart,without rotation}
window=17
world="python3 configs/demo/make_world.py"

if [ ! -d "$out/data" ]; then
  $world "$out/data.new" --recall "$window" --rhymes 0 --verses 0
  mv "$out/data.new" "$out/data"
fi
if [ ! -d "$out/heads64" ]; then  # wider heads that say the same, then what they make of it, in other stories
  $world "$out/lesson" --rhymes 0 --verses 0 --train 10000 --lora 0 --seed 5
  rm -rf "$out/wide" "$out/training"
  python3 benchmarks/recovery/widen_heads.py configs/demo/teacher "$out/wide" --noise 0.05
  "$bin/liger-finetune" configs/demo/teacher.yaml --set model.path="$out/wide" --set model.init=pretrained \
    --set data.train="$out/lesson/train.jsonl" --set save.dir="$out/training" --set save.every=0 \
    --set train.max_steps=1000 --set train.batch_size=8 --set train.micro_batch_size=8 --set train.lr=1.5e-3 \
    --set train.scheduler=cosine --set train.min_lr=1e-5
  mv "$out/training/final" "$out/heads64"
fi

questions=(--questions "task=$out/data")
for distance in 1 2 4 8; do
  questions+=(--questions "told $distance windows before=$out/data/recall/$window/$distance")
done
for facts in 4 8 12 15; do
  questions+=(--questions "one of $facts facts=$out/data/facts/$facts")
done
# recover TEACHER NAME METHODS [OPTION]...
recover() {
  benchmarks/recovery/run.py --bin "$bin" --model "$1" --out "$out/$2" --data "$out/data/train.jsonl" --only "$3" \
    --windows "$window" --batch 1 --rank 32 --held-out 60 --seeds 0 "${questions[@]}" "${@:4}"
}
recover configs/demo/teacher report32 "$methods" --length 2048 --lr 3e-3 --budgets 0,1000000
recover "$out/heads64" report64 "$methods" --length 2048 --lr 3e-3 --budgets 0,1000000
recover "$out/heads64" report64-longer recommended --length 1024 --lr 6e-3 --budgets 0,1000000,3000000
