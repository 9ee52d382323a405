#!/usr/bin/env bash
# Builds the CUDA kernels for this machine's GPU, tests and measures them; README.md says what it needs.
#   benchmarks/gpu/run.sh [--out FILE] [--build-only] [--no-sanitizer] ...        run.sh --help lists all
cd "$(dirname "$0")/../.." || exit
command -v python3 >/dev/null || { echo "run.sh: no python3 (with torch) on the PATH" >&2; exit 1; }
exec python3 benchmarks/gpu/run.py "$@"
