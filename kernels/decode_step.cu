// One token of each sequence through a layer's token mixer. Memory is the limit: a state is read once and written once,
// the window's ring read once, and all query heads of a group share both.
//
// A block of threads has the states of one key/value head of one sequence, or a slice of their columns where heads are
// few. It holds C columns at a time in registers, 16 bytes of a row a thread. The first of them, and the ring's first
// keys and values, which come to shared memory, are asked for before anything else. As
//   S_t = diag(a) S_{t-1} + k d^T,   o = q^T S_t = (a q)^T S_{t-1} + (q . k) d
// with d = v, or by the delta rule d = b (v - (a k)^T S_{t-1}), outputs are read from the state before the token. The
// window's values are rows like those of a state, with softmax weights for queries: share * weight and (1 - share) * a q
// let both branches run into the same sums. The token itself enters those sums last, from shared memory, so that no
// thread reads a slot of the ring which another writes.
//
// Gated slots are two such steps: K_t = K_{t-1} diag(a) + k s^T, whose decay is that of columns, read by q; and, read by
// the softmax of what that gives, V_t with s for k.

#include "decode_window.cuh"

namespace liger::kernels {
namespace decode {
namespace {

template <int D, int C, Kind kKind>
class Step {
  static constexpr bool kSingly = kKind == Kind::kNormalized;
  static constexpr int kPitch = kSingly ? D + 1 : D;  ///< of a state's rows
  using P = Place<C, kSingly>;
  static constexpr int kSteps = D / P::kRows;

 public:
  LIGER_DEVICE Step(const Job& job, float* shared) : p_(job.p), at_(job.at), shared_(shared), window_(job, shared) {
    sequence_ = blockIdx.z;
    kv_head_ = blockIdx.y;
    group_ = static_cast<int>(p_.H / p_.Hkv);
    warp_ = static_cast<int>(threadIdx.x) / 32;
    begin_ = static_cast<int>(blockIdx.x) * (D / static_cast<int>(gridDim.x));
    end_ = begin_ + D / static_cast<int>(gridDim.x);
    recurrent_ = p_.states[0] != nullptr;
    windowed_ = p_.window > 0;
    share_ = windowed_ ? 1 - p_.share : 1;
  }

  LIGER_DEVICE void run() {
    if (recurrent_) load_state(0, begin_);
    if (windowed_) window_.begin(begin_);
    prepare();
    __syncthreads();
    if constexpr (kKind == Kind::kNormalized) store_sum_of_keys();
    if constexpr (kKind == Kind::kSlots) read_slots();
    for (int column = begin_; column < end_; column += C)
      for (int head = 0; head < at_.heads; head += kHeads) {
        const bool first = column == begin_ && head == 0, last_of_column = head + kHeads >= at_.heads;
        Sums sums;
        if (recurrent_) {
          if (head == 0) d_ = kKind == Kind::kDelta ? delta(column) : P::get(shared_ + at_.value + column);
          read_state(head, sums);
          if (last_of_column) write_state(column);
        }
        if (windowed_) {
          if (first) window_.attend(recurrent_ ? p_.share : 1);
          window_.add_values(column, head, sums);
        }
        add_up(column, head, sums, [&](int h, int c, float total) { store_output(h, c, total); });
        if (windowed_ && !(last_of_column && column + C >= end_)) window_.next_values(column, last_of_column);
      }
  }

 private:
  LIGER_DEVICE void prepare() {
    for (int job = warp_; job < at_.heads + 2; job += kWarps) {
      if (job < at_.heads) {
        prepare_query(job);
      } else if (job == at_.heads) {
        prepare_key();
      } else {
        prepare_value();
      }
    }
  }
  // A raw key to its feature and log-decays.
  LIGER_DEVICE void make_key(Row<D>& k, Row<D>& g) const {
    const Features& f = p_.features;
    const float mean = f.per_channel ? 0 : sum_of_row(k) / D;
    LIGER_UNROLL
    for (int c = 0; c < D / 32; ++c) g[c] = log_decay(f, f.per_channel ? k[c] : mean, kv_head_);
    make_feature(f.key, k);
  }
  LIGER_DEVICE void prepare_query(int h) {
    Row<D> q = {}, k, g;
    if (h < group_) load_row(p_.type, p_.q, sequence_ * p_.H + kv_head_ * group_ + h, q);
    if (windowed_) window_.prepare_query(q, h);
    float product_with_key = 0, scale = share_;
    if (recurrent_) {
      load_row(p_.type, p_.k, sequence_ * p_.Hkv + kv_head_, k);
      make_key(k, g);
      make_feature(p_.features.query, q);
      product_with_key = product(q, k);
      if (kKind == Kind::kNormalized) {
        add_decayed(g, k);
        scale /= fmaxf(fabsf(product(q, k)), 1);
      }
      if (kKind == Kind::kSlots) scale = 1;
      LIGER_UNROLL
      for (int c = 0; c < D / 32; ++c)
        if (h >= group_) {
          q[c] = 0;
        } else {
          q[c] *= kKind == Kind::kSlots || p_.reads_before_decay ? scale : expf(g[c]) * scale;
        }
      store_row(q, query(h), 4);
    }
    if (lane() == 0) shared_[at_.products + h] = product_with_key * scale;
  }
  // The sum of keys, the state's last column: n_t = a n_{t-1} + k.
  LIGER_DEVICE void add_decayed(const Row<D>& g, Row<D>& k) const {
    LIGER_UNROLL
    for (int c = 0; c < D / 32; ++c) k[c] += expf(g[c]) * state(0)[(lane() + 32 * c) * kPitch + D];
  }
  LIGER_DEVICE void prepare_key() {
    Row<D> k, g;
    load_row(p_.type, p_.k, sequence_ * p_.Hkv + kv_head_, k);
    if (windowed_) window_.prepare_key(k);
    if (!recurrent_) return;
    if (kKind == Kind::kDelta) {
      const float mean = sum_of_row(k) / D;
      if (lane() == 0) shared_[at_.strength] = 1 / (1 + expf(-mean));
    }
    make_key(k, g);
    float* rows = shared_ + at_.rows;
    store_row(k, rows + 1, 4);
    if (kKind == Kind::kNormalized) {
      add_decayed(g, k);
      store_row(k, rows + 2, 4);
    }
    LIGER_UNROLL
    for (int c = 0; c < D / 32; ++c) {
      const int i = lane() + 32 * c;
      const float a = expf(g[c]);
      rows[i * 4] = a;
      if (kKind == Kind::kDelta) rows[i * 4 + 2] = a * k[c];
      if (kKind == Kind::kSlots) {
        shared_[at_.column_decay + i] = a;
        shared_[at_.column_write + i] = -expm1f(g[c]);
      }
    }
  }
  LIGER_DEVICE void prepare_value() {
    Row<D> v;
    load_row(p_.type, p_.v, sequence_ * p_.Hkv + kv_head_, v);
    store_row(v, shared_ + at_.value);
    if (windowed_) window_.prepare_value(v);
  }
  LIGER_DEVICE void store_sum_of_keys() const {
    for (int i = static_cast<int>(threadIdx.x); i < D; i += kThreads)
      state(0)[i * kPitch + D] = shared_[at_.rows + i * 4 + 2];
  }

  // --- States ---

  LIGER_DEVICE float* state(int which) const {
    return (which == 0 ? p_.states[0] : p_.states[1]) + (sequence_ * p_.Hkv + kv_head_) * D * kPitch;
  }
  LIGER_DEVICE void load_state(int which, int column) {
    const float* from = state(which) + P::row() * kPitch + column;
    LIGER_UNROLL
    for (int i = 0; i < kSteps; ++i) S_[i] = P::get(from + i * P::kRows * kPitch);
  }
  // Four numbers beside row i of a thread's, in `rows` or in the queries of some heads.
  static LIGER_DEVICE const float* beside(const float* all, int i) { return all + (P::row() + i * P::kRows) * 4; }
  LIGER_DEVICE const float* row_of(int i) const { return beside(shared_ + at_.rows, i); }
  LIGER_DEVICE float* query(int h) const { return shared_ + at_.queries + h / kHeads * D * kHeads + h % kHeads; }

  LIGER_DEVICE void read_state(int head, Sums& sums) const {
    LIGER_UNROLL
    for (int i = 0; i < kSteps; ++i) {
      const Quad q = load_quad(beside(query(head), i));
      LIGER_UNROLL
      for (int h = 0; h < kHeads; ++h) add(q.x[h], S_[i], sums.of[h]);
    }
  }
  // S <- diag(a) S + k d^T, and the next tile is asked for.
  LIGER_DEVICE void write_state(int column) {
    constexpr int which = kKind == Kind::kSlots ? 1 : 0;
    float* to = state(which) + P::row() * kPitch + column;
    LIGER_UNROLL
    for (int i = 0; i < kSteps; ++i) {
      const Quad row = load_quad(row_of(i));
      LIGER_UNROLL
      for (int j = 0; j < 4; ++j) S_[i].x[j] = row.x[0] * S_[i].x[j] + row.x[1] * d_.x[j];
      P::put(S_[i], to + i * P::kRows * kPitch);
    }
    if (column + C < end_) load_state(which, column + C);
  }
  // d = b (v - (a k)^T S).
  LIGER_DEVICE Quad delta(int column) {
    Quad held;
    LIGER_UNROLL
    for (int i = 0; i < kSteps; ++i) add(row_of(i)[2], S_[i], held);
    add_rows_of_warp(held, shared_ + at_.partial_delta + warp_ * C);
    __syncthreads();
    Quad d = P::get(shared_ + at_.value + column);
    for (int w = 0; w < kWarps; ++w) add(-1, P::get(shared_ + at_.partial_delta + w * C), d);
    LIGER_UNROLL
    for (int j = 0; j < 4; ++j) d.x[j] *= shared_[at_.strength];
    if (P::row() == 0) P::put(d, shared_ + at_.written + column);
    return d;
  }

  // The first state of slots: K <- K diag(a) + k s^T. What queries read there becomes their weights of the slots, and
  // the rows of the second state are made ready.
  LIGER_DEVICE void read_slots() {
    const float *decay = shared_ + at_.column_decay, *write = shared_ + at_.column_write;
    LIGER_ROLLED
    for (int column = 0; column < D; column += C)
      for (int head = 0; head < at_.heads; head += kHeads) {
        Sums sums;
        read_state(head, sums);
        if (head + kHeads >= at_.heads) write_slot_keys(column);
        add_up(column, head, sums, [&](int h, int c, float total) {
          shared_[at_.slot_scores + h * D + c] = decay[c] * total + shared_[at_.products + h] * write[c];
        });
      }
    for (int h = warp_; h < group_; h += kWarps) {
      Row<D> x, a, s;
      LIGER_UNROLL
      for (int c = 0; c < D / 32; ++c) {
        x[c] = shared_[at_.slot_scores + h * D + lane() + 32 * c];
        a[c] = decay[lane() + 32 * c];
        s[c] = write[lane() + 32 * c];
      }
      make_feature(Map::kSoftmax, x);
      const float with_write = product(x, s);
      if (lane() == 0) shared_[at_.products + h] = with_write * share_;
      LIGER_UNROLL
      for (int c = 0; c < D / 32; ++c) x[c] *= a[c] * share_;
      store_row(x, query(h), 4);
    }
    for (int i = static_cast<int>(threadIdx.x); i < D; i += kThreads)
      shared_[at_.rows + i * 4 + 1] = write[i];
    __syncthreads();
  }
  LIGER_DEVICE void write_slot_keys(int column) {
    const Quad a = P::get(shared_ + at_.column_decay + column), s = P::get(shared_ + at_.column_write + column);
    float* to = state(0) + P::row() * kPitch + column;
    LIGER_UNROLL
    for (int i = 0; i < kSteps; ++i) {
      const float k = row_of(i)[1];
      LIGER_UNROLL
      for (int j = 0; j < 4; ++j) S_[i].x[j] = a.x[j] * S_[i].x[j] + k * s.x[j];
      P::put(S_[i], to + i * P::kRows * kPitch);
    }
    const bool more = column + C < D;
    load_state(more ? 0 : 1, more ? column + C : 0);
  }

  // --- Sums over all rows ---

  LIGER_DEVICE void add_rows_of_warp(Quad& x, float* to) const {
    LIGER_UNROLL
    for (int j = 0; j < 4; ++j)
      LIGER_UNROLL
      for (int mask = P::kLanes; mask < 32; mask *= 2) x.x[j] += exchange(x.x[j], mask);
    if (lane() < P::kLanes) P::put(x, to);
  }
  // Body(query head of the group, column, sum) for each of a tile and kHeads.
  template <typename Body>
  LIGER_DEVICE void add_up(int column, int head, Sums& sums, const Body& body) {
    float* partial = shared_ + at_.partial;
    LIGER_UNROLL
    for (int h = 0; h < kHeads; ++h) add_rows_of_warp(sums.of[h], partial + (warp_ * kHeads + h) * C);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kHeads * C && head + i / C < group_; i += kThreads) {
      float total = 0;
      LIGER_UNROLL
      for (int w = 0; w < kWarps; ++w) total += partial[w * kHeads * C + i];
      body(head + i / C, column + i % C, total);
    }
    __syncthreads();
  }
  // The token's own share of the output comes last.
  LIGER_DEVICE void store_output(int h, int column, float x) const {
    if (recurrent_)
      x += shared_[at_.products + h] * shared_[(kKind == Kind::kDelta ? at_.written : at_.value) + column];
    if (windowed_) x += shared_[at_.of_token + h] * shared_[at_.value + column];
    store_element(p_.type, x, p_.o, (sequence_ * p_.H + kv_head_ * group_ + h) * D + column);
  }

  const DecodeStep& p_;
  const Layout& at_;
  float* shared_;
  Window<D, C, kSingly> window_;
  int64_t sequence_, kv_head_;
  int group_, warp_;
  int begin_, end_;  ///< this block's columns
  bool recurrent_, windowed_;
  float share_;  ///< of the recurrence
  Quad S_[kSteps];
  Quad d_;
};

template <int D, int C, Kind kKind>
__global__ void __launch_bounds__(kThreads, 2) decode_step_kernel(const Job job) {
  LIGER_SHARED(memory);
  Step<D, C, kKind>(job, reinterpret_cast<float*>(memory)).run();
}

constexpr const char* kTooLong = "the window's scores do not fit into shared memory";

template <int D, int C, Kind kKind>
const char* run(const DecodeStep& p, int slices, void* stream) {
  const Job job = {p, lay_out<D, C, kKind>(p)};
  if (job.at.total * 4 > kSharedLimit) return kTooLong;
  const dim3 grid(static_cast<unsigned>(slices), static_cast<unsigned>(p.Hkv), static_cast<unsigned>(p.sequences));
  return launch("decode_step", decode_step_kernel<D, C, kKind>, grid, kThreads,
                static_cast<size_t>(job.at.total) * sizeof(float), stream, job);
}

// Fewer heads than this leave multiprocessors of a large GPU idle, unless each is cut into slices of columns.
constexpr int64_t kEnoughHeads = 128;

template <Kind kKind>
const char* run_kind(const DecodeStep& p, void* stream) {
  const bool few = p.sequences * p.Hkv < kEnoughHeads;
  const bool can_be_cut = kKind == Kind::kPlain || kKind == Kind::kDelta;  // others need all columns together
  switch (p.D) {
    case 64: return run<64, 64, kKind>(p, 1, stream);
    case 128: return run<128, 64, kKind>(p, few && can_be_cut ? 2 : 1, stream);
    default: return run<256, 32, kKind>(p, few && can_be_cut ? 4 : 1, stream);
  }
}

struct Advance {
  int64_t* seen;
  int64_t sequences;
};
__global__ void decode_advance_kernel(const Advance p) {
  const int64_t s = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  if (s < p.sequences) ++p.seen[s];
}

}  // namespace
}  // namespace decode

const char* decode_step_refuses(const DecodeStep& p) {
  using namespace decode;
  if (p.D != 64 && p.D != 128 && p.D != 256) return "the size of a head must be 64, 128 or 256";
  if (p.Hkv < 1 || p.H < 1 || p.H % p.Hkv != 0) return "query heads must be a multiple of key/value heads";
  if (p.Hkv > 65535 || p.sequences > 65535) return "at most 65535 key/value heads and sequences";
  if (p.window < 0 || p.sinks < 0) return "a window and its sinks have no negative sizes";
  if (p.window == 0 && !p.states[0]) return "neither a window nor a state to read";
  if (p.delta_rule + p.reads_before_decay + p.normalizes + p.slots > 1)
    return "at most one of delta rule, reading before the decay, normalizer and slots";
  // The largest layout of this head: what slots take.
  const int64_t group = (p.H / p.Hkv + kHeads - 1) / kHeads * kHeads, ring = p.window + p.sinks;
  if (group > 1024 || ring > (1 << 20)) return kTooLong;
  const Layout at = p.D == 64    ? lay_out<64, 64, Kind::kSlots>(p)
                    : p.D == 128 ? lay_out<128, 64, Kind::kSlots>(p)
                                 : lay_out<256, 32, Kind::kSlots>(p);
  return at.total * 4 > kSharedLimit ? kTooLong : nullptr;
}

const char* decode_step(const DecodeStep& p, void* stream) {
  using namespace decode;
  if (const char* reason = decode_step_refuses(p)) return reason;
  if (p.sequences == 0) return nullptr;
  if (!p.states[0]) return run_kind<Kind::kPlain>(p, stream);
  if (p.slots) return run_kind<Kind::kSlots>(p, stream);
  if (p.normalizes) return run_kind<Kind::kNormalized>(p, stream);
  return p.delta_rule ? run_kind<Kind::kDelta>(p, stream) : run_kind<Kind::kPlain>(p, stream);
}

const char* decode_advance(int64_t* seen, int64_t sequences, void* stream) {
  using namespace decode;
  if (sequences == 0) return nullptr;
  const dim3 grid(static_cast<unsigned>((sequences + 31) / 32));
  return launch("decode_advance", decode_advance_kernel, grid, 32, 0, stream, Advance{seen, sequences});
}

}  // namespace liger::kernels
