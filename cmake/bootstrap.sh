#!/usr/bin/env bash
# Brings a bare Debian 12 machine to where CMake can configure; does nothing when all is there.
#   Debian packages   by apt when root or sudo allows, otherwise one line naming them
#   LibTorch          LIGER_TORCH=DIR or CMAKE_PREFIX_PATH if set, else the torch wheel in .venv
#   sentencepiece     static, from the C++ source in its PyPI archive, in .deps
# Settings: LIGER_TORCH_VERSION (2.13.0), LIGER_SENTENCEPIECE_VERSION (0.2.1).
set -euo pipefail
cd "$(dirname "$0")/.."

torch_version=${LIGER_TORCH_VERSION:-2.13.0}
spm_version=${LIGER_SENTENCEPIECE_VERSION:-0.2.1}
packages=(build-essential cmake ninja-build ccache python3-venv python3-pip nlohmann-json3-dev libcli11-dev
          libspdlog-dev libyaml-cpp-dev libssl-dev libcurl4-openssl-dev zlib1g-dev libzstd-dev libgtest-dev
          libbenchmark-dev)

say() { printf '%s\n' "-- $*" >&2; }

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  sudo=
  [ "$(id -u)" = 0 ] || sudo="sudo -n"
  if ! command -v apt-get >/dev/null || ! ${sudo:-env} true 2>/dev/null; then
    say "please install, then run this again: apt-get install ${missing[*]}"
    exit 1
  fi
  say "installing ${missing[*]}"
  log=$(mktemp)
  if ! { $sudo apt-get update -q && $sudo env DEBIAN_FRONTEND=noninteractive \
         apt-get install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "apt-get failed (whole log: $log)"
    exit 1
  fi
  rm -f "$log"
fi

# CMAKE_PREFIX_PATH counts only if LibTorch lies there: it is often set for something else.
prefix_has_torch() {
  local prefix
  IFS=':;' read -ra prefixes <<<"${CMAKE_PREFIX_PATH:-}"
  for prefix in "${prefixes[@]}"; do
    [ ! -e "$prefix/share/cmake/Torch/TorchConfig.cmake" ] || return 0
  done
  return 1
}

if [ -z "${LIGER_TORCH:-}" ] && ! prefix_has_torch &&
   ! ls .venv/lib/python3*/site-packages/torch/share/cmake/Torch >/dev/null 2>&1; then
  say "installing the torch $torch_version wheel into .venv"
  [ -x .venv/bin/pip ] || python3 -m venv .venv
  # The CPU wheel if the index offers one: the plain name brings several GB of CUDA libraries.
  .venv/bin/pip install -q --disable-pip-version-check --no-deps "torch==$torch_version+cpu" 2>/dev/null ||
    .venv/bin/pip install -q --disable-pip-version-check "torch==$torch_version"
fi

stamp=.deps/sentencepiece/$spm_version
if [ ! -e "$stamp" ]; then
  say "building sentencepiece $spm_version"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  [ -x .venv/bin/pip ] || python3 -m venv .venv
  .venv/bin/pip download -q --disable-pip-version-check --no-deps --no-build-isolation \
    --no-binary sentencepiece -d "$work" "sentencepiece==$spm_version" >"$work/log" 2>&1 ||
    python3 -m pip download -q --no-deps --no-binary sentencepiece -d "$work" "sentencepiece==$spm_version"
  tar -xzf "$work"/sentencepiece-*.tar.gz -C "$work"
  # Hidden symbols: libtorch exports a google::protobuf of its own.
  cmake -S "$work"/sentencepiece-*/sentencepiece -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DSPM_ENABLE_SHARED=OFF -DSPM_ENABLE_TCMALLOC=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
    -DCMAKE_CXX_VISIBILITY_PRESET=hidden -DCMAKE_VISIBILITY_INLINES_HIDDEN=ON \
    -DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_POLICY_VERSION_MINIMUM=3.5 >"$work/log" 2>&1 &&
    cmake --build "$work/build" --target sentencepiece-static sentencepiece_train-static >>"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; say "sentencepiece did not build"; exit 1; }
  mkdir -p .deps/sentencepiece/{include,lib}
  cp "$work"/sentencepiece-*/sentencepiece/src/sentencepiece_{processor,trainer}.h .deps/sentencepiece/include/
  cp "$work"/build/src/libsentencepiece*.a .deps/sentencepiece/lib/
  cp "$work"/sentencepiece-*/sentencepiece/LICENSE .deps/sentencepiece/
  touch "$stamp"
fi
