#!/usr/bin/env bash
# Copies what liger needs and a GPU machine lacks into .gpu-deps: headers, static libraries, CMake packages that name
# them, and flash-linear-attention for the comparison. To be run where cmake/bootstrap.sh has been (Debian, x86-64); the
# machine that builds with it needs a libc and libstdc++ at least as new as this one's.
#   benchmarks/gpu/gather.sh [FOLDER]      FOLDER: .gpu-deps
# Settings: LIGER_FLA_VERSION (0.6.0); SentencePiece_ROOT (.deps/sentencepiece).
set -euo pipefail
cd "$(dirname "$0")/../.."

out=${1:-.gpu-deps}
limit_mb=60
libraries=/usr/lib/x86_64-linux-gnu
sentencepiece=${SentencePiece_ROOT:-.deps/sentencepiece}

say() { printf '%s\n' "-- $*" >&2; }
need() {
  [ -e "$1" ] || { say "$1 is missing: run cmake/bootstrap.sh first${2:+ ($2)}"; exit 1; }
}

rm -rf "$out"
mkdir -p "$out"/{include,lib,python}

for folder in nlohmann spdlog fmt CLI yaml-cpp gtest openssl; do
  need "/usr/include/$folder"
  cp -rL "/usr/include/$folder" "$out/include/"
done
cp -rL "/usr/include/x86_64-linux-gnu/openssl" "$out/include/"  # Debian keeps its configuration apart
for header in zlib.h zconf.h zstd.h zstd_errors.h; do
  need "/usr/include/$header"
  cp -L "/usr/include/$header" "$out/include/"
done
for library in yaml-cpp gtest gtest_main crypto z zstd; do
  need "$libraries/lib$library.a"
  cp -L "$libraries/lib$library.a" "$out/lib/"
done
need "$sentencepiece/lib/libsentencepiece.a" "or set SentencePiece_ROOT"
mkdir "$out/sentencepiece"
cp -r "$sentencepiece"/{include,lib} "$out/sentencepiece/"

# One CMake package: its name, and one target after the other as NAME|LIBRARY|DEFINITIONS, LIBRARY in lib/ or none.
package() {
  local name=$1 target library definitions
  shift
  local file=$out/lib/cmake/$name/${name}Config.cmake
  mkdir -p "$(dirname "$file")"
  {
    echo "find_package(Threads REQUIRED)"
    echo 'get_filename_component(prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)'
    for target in "$@"; do
      IFS='|' read -r target library definitions <<<"$target"
      if [ -n "$library" ]; then
        echo "add_library($target STATIC IMPORTED)"
        echo "set_target_properties($target PROPERTIES IMPORTED_LOCATION \${prefix}/lib/$library)"
      else
        echo "add_library($target INTERFACE IMPORTED)"
      fi
      echo "target_include_directories($target INTERFACE \${prefix}/include)"
      echo "target_link_libraries($target INTERFACE Threads::Threads)"
      [ -z "$definitions" ] || echo "target_compile_definitions($target INTERFACE $definitions)"
    done
  } >"$file"
}
package nlohmann_json 'nlohmann_json::nlohmann_json'
package CLI11 'CLI11::CLI11'
# Debian has spdlog and fmt as shared libraries only: here they are their headers alone.
package spdlog 'spdlog::spdlog||SPDLOG_FMT_EXTERNAL FMT_HEADER_ONLY'
package yaml-cpp 'yaml-cpp|libyaml-cpp.a'
package zstd 'zstd::libzstd_shared|libzstd.a'  # Debian's name for it
package GTest 'GTest::gtest|libgtest.a' 'GTest::gtest_main|libgtest_main.a'
echo 'target_link_libraries(GTest::gtest_main INTERFACE GTest::gtest)' >>"$out/lib/cmake/GTest/GTestConfig.cmake"

fla=${LIGER_FLA_VERSION:-0.6.0}
if python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: -d "$out/python" \
     "fla-core==$fla" einops packaging >"$out/pip.log" 2>&1; then
  for wheel in "$out"/python/*.whl; do
    python3 -m zipfile -e "$wheel" "$out/python"
  done
else
  say "flash-linear-attention $fla could not be downloaded (no comparison with it then): $(tail -n 1 "$out/pip.log")"
fi
rm -f "$out"/python/*.whl "$out/pip.log"

size=$(du -sm "$out" | cut -f1)
say "$out: $size MB"
[ "$size" -le $limit_mb ] || { say "that is more than the $limit_mb MB wanted"; exit 1; }
