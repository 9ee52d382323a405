// Rotated keys, and values, of a sequence's newest tokens into its rings (window_attention.h), in float32.
//
// A row is a slot to be written: of the last `window` tokens, then of the sinks; so each slot has one writer at most.

#include "window_attention.cuh"

namespace liger::kernels {
namespace {

constexpr int kThreads = 128;

/// Four neighbouring elements, as floats.
template <typename E>
LIGER_DEVICE Piece<float> load_four(const E* p) {
  const Pair<E> a = load_pair(p), b = load_pair(p + 2);
  return {{to_float(a.x), to_float(a.y), to_float(b.x), to_float(b.y)}};
}

/// The token that goes to row `row` of what is written, and its slot; token < 0: none.
struct Slot {
  int64_t token, slot;
};
LIGER_DEVICE Slot slot_of(const WindowRemember& p, int64_t row, int64_t seen, int64_t length) {
  if (row < p.window) {
    const int64_t token = length - p.window + row;
    return {token, (seen + token) % p.window};
  }
  const int64_t token = row - p.window - seen;
  return {token < length ? token : -1, row};
}

template <typename E>
__global__ void __launch_bounds__(kThreads) window_remember_kernel(const WindowRemember p) {
  const int64_t half = p.D / 2, pieces = half / 4;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = item / pieces, at = item % pieces * 4, sequence = blockIdx.z;
  if (row >= p.window + p.sinks) return;
  const int64_t begin = start_of(p, sequence), length = start_of(p, sequence + 1) - begin;
  const Slot to = slot_of(p, row, p.seen ? p.seen[sequence] : 0, length);
  if (to.token < 0) return;
  const int64_t token = begin + to.token, from = (token * p.Hkv + blockIdx.y) * p.D + at;
  const int64_t out = ((sequence * p.Hkv + blockIdx.y) * (p.window + p.sinks) + to.slot) * p.D + at;

  const E *k = static_cast<const E*>(p.k) + from, *v = static_cast<const E*>(p.v) + from;
  Piece<float> x = load_four(k), y = load_four(k + half);
  rotate(x, y, {load_piece(p.cos + token * half + at), load_piece(p.sin + token * half + at)});
  store_piece(p.ring_keys + out, x);
  store_piece(p.ring_keys + out + half, y);
  store_piece(p.ring_values + out, load_four(v));
  store_piece(p.ring_values + out + half, load_four(v + half));
}

template <typename E>
const char* run(const WindowRemember& p, void* stream) {
  const int64_t items = (p.window + p.sinks) * (p.D / 8);
  const dim3 grid(static_cast<unsigned>((items + kThreads - 1) / kThreads), static_cast<unsigned>(p.Hkv),
                  static_cast<unsigned>(p.sequences));
  return launch("window_remember", window_remember_kernel<E>, grid, kThreads, 0, stream, p);
}

}  // namespace

const char* window_remember_refuses(const WindowRemember& p) {
  if (p.sequences > 65535) return "at most 65535 sequences";
  return window_sizes_refused(p);
}

const char* window_remember(const WindowRemember& p, void* stream) {
  if (const char* reason = window_remember_refuses(p)) return reason;
  if (p.sequences == 0 || p.N == 0) return nullptr;
  return for_type(p.type, [&](auto element) { return run<decltype(element)>(p, stream); });
}

}  // namespace liger::kernels
