#!/usr/bin/env bash
# Compiles a kernel for one architecture with warnings as errors, and lists what each form of it takes. An array that is
# indexed by what the compiler does not know goes to memory, with all of the object it is in: that is an error.
#   compile.sh NVCC ARCHITECTURE SOURCE OBJECT TABLE [LAUNCHER]
set -euo pipefail
nvcc=$1 architecture=$2 source=$3 object=$4 table=$5
log=$object.log
${6:-} "$nvcc" -std=c++17 -O3 --expt-relaxed-constexpr -Werror all-warnings -Xptxas -v \
  --generate-code "arch=compute_$architecture,code=sm_$architecture" -c "$source" -o "$object" >"$log" 2>&1 ||
  { cat "$log" >&2; exit 1; }
# ptxas says: Compiling entry function 'NAME' ... / ... N bytes spill stores, ... / ... Used N registers, ...
{
  echo "registers  stack_bytes  spilled_bytes  kernel (sm_$architecture)"
  sed -nE "s/.*Compiling entry function '([^']*)'.*/name \1/p
           s/^ *([0-9]+) bytes stack frame, ([0-9]+) bytes spill stores.*/stack \1 \2/p
           s/.*Used ([0-9]+) registers.*/registers \1/p" "$log" |
    awk '$1 == "name" {name = $2} $1 == "stack" {stack = $2; spill = $3}
         $1 == "registers" {printf "%9d  %11d  %13d  %s\n", $2, stack, spill, name}' | c++filt | sort -k4
} >"$table"
awk -v most=128 'NR > 1 && $2 > most {print "keeps an object in memory (" $2 " bytes of stack): " $0; bad = 1} END {exit bad}' \
  "$table" >&2
