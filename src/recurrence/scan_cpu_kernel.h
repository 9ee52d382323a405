// The body of the CPU scan, compiled once per instruction set: each scan_cpu_*.cpp includes it with LIGER_LANES set
// to the bytes of a vector register. Token by token, the state in cache: K V (1 + group) multiply-adds and one pass
// over the state a token, whatever the decay, so no exponent is ever formed but exp(g) itself.

#include <algorithm>
#include <cstring>
#include <vector>

#include "recurrence/scan_cpu.h"

namespace liger {
namespace {

template <typename T>
struct Lanes {
  static constexpr int64_t kWidth = LIGER_LANES / sizeof(T);
  typedef T Vector __attribute__((vector_size(LIGER_LANES), aligned(LIGER_LANES)));
  static int64_t blocks(int64_t n) { return (n + kWidth - 1) / kWidth; }
};

template <typename T>
using Vec = typename Lanes<T>::Vector;
template <typename T>
struct AlignedBuffer {  // of whole vectors, zeroed
  explicit AlignedBuffer(int64_t vectors) : storage(vectors + 1) {}
  Vec<T>* data() { return storage.data(); }
  T* scalars() { return reinterpret_cast<T*>(storage.data()); }
  std::vector<Vec<T>> storage;
};

// Not std::copy_n: a function shared by all objects must not be compiled for one instruction set.
template <typename T>
void copy(const T* from, int64_t n, T* to) {
  std::memcpy(to, from, sizeof(T) * static_cast<size_t>(n));
}

template <typename T>
T sum(const Vec<T>& x) {
  T total = 0;
  for (int64_t i = 0; i < Lanes<T>::kWidth; ++i) total += x[i];
  return total;
}

// S is [K][V in vectors]. One block of columns and up to kHeads query heads at a time stay in registers.
template <typename T, int kHeads>
void forward_columns(const ScanHead<T>& in, const T* q, const T* k, const T* a, Vec<T> v, Vec<T>* S, int64_t columns,
                     bool update, Vec<T>* o, int64_t o_blocks) {
  Vec<T> sums[kHeads] = {};
  for (int64_t i = 0; i < in.K; ++i) {
    Vec<T> s = S[i * columns];
    if (update) {
      s = s * a[i] + v * k[i];
      S[i * columns] = s;
    }
    for (int h = 0; h < kHeads; ++h) sums[h] += s * q[h * in.K + i];
  }
  for (int h = 0; h < kHeads; ++h) o[h * o_blocks] = sums[h];
}

template <typename T>
void forward(const ScanHead<T>& in, const ScanHeadForward<T>& out) {
  const int64_t columns = Lanes<T>::blocks(in.V), padded = columns * Lanes<T>::kWidth;
  AlignedBuffer<T> state(in.K * columns), value(columns), sums(in.group * columns);
  for (int64_t i = 0; i < in.K; ++i)
    copy(out.state + i * in.V, in.V, state.scalars() + i * padded);
  const auto store_state = [&](T* to) {
    for (int64_t i = 0; i < in.K; ++i) copy(state.scalars() + i * padded, in.V, to + i * in.V);
  };
  for (int64_t t = 0; t < in.tokens; ++t) {
    if (out.starts && t % kScanChunk == 0) store_state(out.starts + t / kScanChunk * in.K * in.V);
    const T *q = in.q + t * in.q_stride, *k = in.k + t * in.k_stride, *a = in.a + t * in.a_stride;
    copy(in.v + t * in.v_stride, in.V, value.scalars());
    for (int64_t c = 0; c < columns; ++c) {
      Vec<T>* S = state.data() + c;
      Vec<T>* o = sums.data() + c;
      int64_t h = 0;
      for (; h + 4 <= in.group; h += 4)
        forward_columns<T, 4>(in, q + h * in.K, k, a, value.data()[c], S, columns, h == 0, o + h * columns, columns);
      for (; h < in.group; ++h)
        forward_columns<T, 1>(in, q + h * in.K, k, a, value.data()[c], S, columns, h == 0, o + h * columns, columns);
    }
    for (int64_t h = 0; h < in.group; ++h)
      copy(sums.scalars() + h * padded, in.V, out.o + t * out.o_stride + h * in.V);
  }
  store_state(out.state);
}

// Backward works on transposed states, [V][K in vectors]: then only dv needs a sum across lanes.
template <typename T>
struct Backward {
  const ScanHead<T>& in;
  const ScanHeadBackward<T>& out;
  int64_t rows = Lanes<T>::blocks(in.K), padded = rows * Lanes<T>::kWidth, size = in.V * rows;
  AlignedBuffer<T> states{(kScanChunk + 1) * size}, dstate{size}, dv{in.V};
  AlignedBuffer<T> q{in.group * rows}, k{rows}, a{rows}, dq{in.group * rows}, dk{rows}, dg{rows};

  Vec<T>* state(int64_t i) { return states.data() + i * size; }

  void load(const T* from, T* to) { copy(from, in.K, to); }

  void transpose_in(const T* from, T* to) {
    for (int64_t i = 0; i < in.K; ++i)
      for (int64_t j = 0; j < in.V; ++j) to[j * padded + i] = from[i * in.V + j];
  }

  // states[0] is the start of the chunk; fills states[1 .. tokens].
  void recompute(int64_t first, int64_t tokens) {
    for (int64_t i = 0; i < tokens; ++i) {
      const int64_t t = first + i;
      load(in.k + t * in.k_stride, k.scalars());
      load(in.a + t * in.a_stride, a.scalars());
      const T* v = in.v + t * in.v_stride;
      for (int64_t j = 0; j < in.V; ++j)
        for (int64_t r = 0; r < rows; ++r)
          state(i + 1)[j * rows + r] = state(i)[j * rows + r] * a.data()[r] + k.data()[r] * v[j];
    }
  }

  // dS += sum over heads of q do^T, and dq = S do, head by head.
  void heads(int64_t t, const Vec<T>* now) {
    for (int64_t h = 0; h < in.group; ++h) {
      const T* grad_o = out.grad_o + t * out.grad_o_stride + h * in.V;
      for (int64_t r = 0; r < rows; ++r) {
        const Vec<T> query = q.data()[h * rows + r];
        Vec<T> sum_q = {};
        for (int64_t j = 0; j < in.V; ++j) {
          dstate.data()[j * rows + r] += query * grad_o[j];
          sum_q += now[j * rows + r] * grad_o[j];
        }
        dq.data()[h * rows + r] = sum_q;
      }
    }
  }

  // dk, dv and dg from dS, then dS to the token before.
  void state_update(int64_t t, const Vec<T>* before) {
    const T* v = in.v + t * in.v_stride;
    std::fill_n(dv.data(), in.V, Vec<T>{});
    for (int64_t r = 0; r < rows; ++r) {
      const Vec<T> key = k.data()[r], decay = a.data()[r];
      Vec<T> sum_k = {}, sum_g = {};
      for (int64_t j = 0; j < in.V; ++j) {
        const Vec<T> ds = dstate.data()[j * rows + r];
        sum_k += ds * v[j];
        sum_g += ds * before[j * rows + r];
        dv.data()[j] += ds * key;
        dstate.data()[j * rows + r] = ds * decay;
      }
      dk.data()[r] = sum_k;
      dg.data()[r] = sum_g * decay;
    }
  }

  void token(int64_t t, const Vec<T>* before, const Vec<T>* now) {
    for (int64_t h = 0; h < in.group; ++h) load(in.q + t * in.q_stride + h * in.K, q.scalars() + h * padded);
    load(in.k + t * in.k_stride, k.scalars());
    load(in.a + t * in.a_stride, a.scalars());
    heads(t, now);
    state_update(t, before);
    for (int64_t h = 0; h < in.group; ++h)
      copy(dq.scalars() + h * padded, in.K, out.dq + t * in.q_stride + h * in.K);
    copy(dk.scalars(), in.K, out.dk + t * in.k_stride);
    copy(dg.scalars(), in.K, out.dg + t * in.a_stride);
    for (int64_t j = 0; j < in.V; ++j) out.dv[t * in.v_stride + j] = sum<T>(dv.data()[j]);
  }

  void run() {
    transpose_in(out.dstate, dstate.scalars());
    for (int64_t chunk = (in.tokens - 1) / kScanChunk; chunk >= 0; --chunk) {
      const int64_t first = chunk * kScanChunk, tokens = std::min(kScanChunk, in.tokens - first);
      transpose_in(out.starts + chunk * in.K * in.V, reinterpret_cast<T*>(state(0)));
      recompute(first, tokens);
      for (int64_t i = tokens - 1; i >= 0; --i) token(first + i, state(i), state(i + 1));
    }
    for (int64_t i = 0; i < in.K; ++i)
      for (int64_t j = 0; j < in.V; ++j) out.dstate[i * in.V + j] = dstate.scalars()[j * padded + i];
  }
};

template <typename T>
void backward(const ScanHead<T>& in, const ScanHeadBackward<T>& out) {
  Backward<T>{in, out}.run();
}

}  // namespace
}  // namespace liger
