#pragma once

// The CPU kernels of liger as the rest sees them: raw pointers and sizes, no torch. They are compiled once per
// instruction set (kernels_*.cpp) and chosen at run time.

#include <cstdint>
#include <limits>

#include "liger/core/head_scalars.h"
#include "liger/core/structure.h"

namespace liger {

/// Types of tensor elements. Kernels compute in float, for kDouble in double.
enum class Element { kFloat, kBFloat16, kDouble };

/// One sequence and one key/value head of a layer's token mixer: a structure's recurrence, a window of softmax
/// attention, or both, mixed as MixSettings (nn/fused_mix.h) says.
struct MixHead {
  Element element;
  int64_t tokens, group, D;    ///< group: query heads that share the key/value head
  const Structure* structure;  ///< nullptr: window only
  double divisor;              ///< of the log-decay, 1 = none
  double constant_log_decay;   ///< of this head, where the structure is not gated
  int64_t window, sinks;       ///< window 0: recurrence only
  double window_share;
  bool rotates_features, beyond_window;
  /// Of the compute type: number `s` (HeadScalar) of query head h is scalars[s * scalars_row + h], of the key/value
  /// head kv_scalars[s * scalars_row]; nullptr: the defaults.
  const void *scalars, *kv_scalars;
  int64_t scalars_row;
  int64_t seen;                 ///< tokens of the sequence before these
  const void *q, *k, *v;        ///< as projected: [tokens][group][D], [tokens][D] twice, a token's vectors contiguous
  int64_t q_stride, kv_stride;  ///< elements from one token to the next
  const float *cos, *sin;       ///< [tokens][D / 2] of these tokens' positions
};

/// What a pass reads and leaves beside the head's inputs. Floats are of the compute type.
struct MixForward {
  void* o;          ///< as q, with its strides
  void* states[2];  ///< [rows][columns] (state_shapes()), in and out; the second for slots only
  /// [window + sinks][D], rotated keys and values, position p in slot p % window, sink j in window + j; in and out;
  /// nullptr: the sequence starts and ends here.
  void *ring_keys, *ring_values;
  void* ring_raw_keys;  ///< keys as projected in the same slots, with beyond_window
  void* checkpoints;    ///< for the backward pass: states, checkpoint_scalars(); nullptr = not wanted
  void* lse;            ///< for the backward pass: [chunks of tokens][group][chunk]; nullptr = not wanted
};

struct MixBackward {
  const void *checkpoints, *lse;  ///< as the forward pass left them
  const void* grad_o;             ///< as q
  void *dq, *dk, *dv;             ///< as q, k, v
  void* dstates[2];               ///< as states: in, gradients of the last; out, of the first
  void* d_scalars;  ///< [kHeadScalars][group], those of the key/value head in the first column; nullptr = not wanted
};

/// One sequence and one key/value head of a scan whose inputs are ready: features, log-decays and strengths.
struct ScanHead {
  Element element;  ///< kFloat or kDouble
  int64_t tokens, group, K, V;
  bool delta_rule;
  const void *q, *k, *v, *g, *b;  ///< [tokens][group][K], [tokens][K], [tokens][V], [tokens][K], [tokens]
  int64_t q_stride, k_stride, v_stride, b_stride;  ///< g has k's
  int64_t o_stride;                                ///< of [tokens][group][V]
};
struct ScanForward {
  void* o;
  void* state;        ///< [K][V], in and out
  void* checkpoints;  ///< nullptr = not wanted
};
struct ScanBackward {
  const void* checkpoints;
  const void* grad_o;
  void *dq, *dk, *dv, *dg, *db;  ///< as q, k, v, g, b
  void* dstate;
};

/// One token of one sequence and key/value head of softmax attention over a cache, in which it is placed.
struct CacheHead {
  Element element;         ///< of the cache: kFloat or kBFloat16
  int64_t group, D, seen;  ///< tokens in the cache before this one
  const float *q, *k, *v;  ///< [group][D], [D] twice, as projected
  const float *cos, *sin;  ///< [D / 2]
  void *keys, *values;     ///< rotated keys and values, `stride` elements from one token to the next
  int64_t stride;
  float* o;  ///< [group][D]
};

/// A weight [rows, columns], row-major, at any address: it may lie in a mapped file.
struct WeightView {
  Element element;  ///< kFloat or kBFloat16
  const void* data;
  int64_t rows, columns;
  const float* bias;  ///< [rows] or nullptr
};
/// The upper half of a low-rank addition, transposed, so that a row of outputs lies together.
struct LowRankView {
  const float* data;  ///< [rank, columns]
  int64_t rank, columns;
  float scale;
};
/// Rows of activations, `stride` floats apart.
struct ActivationRows {
  float* data;
  int64_t stride;
};
enum class GateActivation { kSilu, kGeluTanh, kGelu };

/// What decoding a token is made of; float activations throughout.
struct StepKernels {
  /// y[s][r] = w[r] . x[s] + bias[r] for the rows [begin, end) and 1 to 4 sequences.
  void (*dot_rows)(const WeightView& w, int64_t begin, int64_t end, int64_t sequences, ActivationRows x,
                   ActivationRows y);
  /// gates = activation(gates) * ups.
  void (*gate_by)(GateActivation activation, const float* ups, int64_t n, float* gates);
  /// y[s][r] += scale * sum_j h[s][j] B[j][r] for the columns [begin, end) of B [rank, columns] and any number of
  /// sequences. What comes out for one of them has the same bits whatever the others are.
  void (*add_low_rank)(const LowRankView& B, int64_t begin, int64_t end, int64_t sequences, ActivationRows h,
                       ActivationRows y);
  /// out = x / sqrt(mean(x^2) + eps) * weight, or * (1 + weight).
  void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, bool adds_one, float* out);
  /// A row of a weight as floats.
  void (*widen_row)(const WeightView& w, int64_t row, float* to);
  /// MixHead with one token, element kFloat; states and rings float. Scratch as for the passes.
  int64_t (*mix_scratch)(const MixHead&);
  void (*mix)(const MixHead&, const MixForward&, void* scratch);
  int64_t (*cache_scratch)(const CacheHead&);
  void (*cache)(const CacheHead&, void* scratch);
};

/// Root mean square norm over rows of `columns`: x / sqrt(mean(x^2) + eps), then * weight (rounded in between, as Llama
/// does) or * (1 + weight) (Gemma).
struct NormView {
  Element element;  ///< of rows and weight
  int64_t columns;
  const void* weight;
  double eps;
  bool adds_one;
};

/// What a softmax over a row that is seen in pieces has met so far.
struct SoftmaxRow {
  double largest = -std::numeric_limits<double>::infinity();
  double total = 0;  ///< of exp(x - largest)
};

/// What is likeliest in a row of logits, and what softmax over it comes to.
struct RowChoice {
  int64_t first = -1;              ///< where the largest is, the first of equals; -1: one is NaN, or it is not finite
  double largest = 0, second = 0;  ///< the two largest; a row of one has -infinity as its second
  double total = 0;                ///< of exp(x - largest)
  double entropy = 0;              ///< of softmax(x), in nats
};
/// What is asked for beside the first two.
enum class ChoiceSums { kNone, kTotal, kTotalAndEntropy };

/// What training and the choice of tokens do to rows, beside products. Outputs may be the inputs.
struct RowKernels {
  void (*norm)(const NormView&, const void* x, int64_t rows, void* y);
  /// d of y; `d_weight` [columns] of the compute type is added to, nullptr = not wanted.
  void (*norm_backward)(const NormView&, const void* x, const void* d, int64_t rows, void* dx, void* d_weight);
  /// out = activation(gates) * ups, n elements.
  void (*gate)(Element, GateActivation, const void* gates, const void* ups, int64_t n, void* out);
  void (*gate_backward)(Element, GateActivation, const void* gates, const void* ups, const void* d, int64_t n,
                        void* d_gates, void* d_ups);
  /// Returns log(sum(exp(logits))) - logits[target]; with `gradient` the logits, kFloat or kDouble, become theirs.
  double (*cross_entropy)(Element, void* logits, int64_t n, int64_t target, bool gradient);
  /// Takes n more logits, kFloat or kDouble, into `row`; with `keep` they become exp(logits - row.largest). Returns
  /// what sums of earlier ones are to be multiplied by, as `largest` may have grown.
  double (*softmax_piece)(Element, void* logits, int64_t n, SoftmaxRow& row, bool keep);
  /// Of logits, kFloat or kDouble.
  RowChoice (*choose)(Element, const void* logits, int64_t n, ChoiceSums sums);
};

/// The kernels of one instruction set. Scratch is the caller's: aligned to 64 bytes, zeroed, of the size asked for. A
/// pass takes heads of one sequence together, since they lie side by side in memory.
struct CpuKernels {
  const char* name;
  int64_t chunk;  ///< tokens that lse is divided by
  int64_t (*mix_checkpoint_scalars)(const MixHead&);
  int64_t (*mix_forward_scratch)(const MixHead&, int64_t heads);  ///< bytes
  void (*mix_forward)(const MixHead*, const MixForward*, int64_t heads, void* scratch);
  int64_t (*mix_backward_scratch)(const MixHead&, int64_t heads);
  void (*mix_backward)(const MixHead*, const MixBackward*, int64_t heads, void* scratch);
  int64_t (*scan_checkpoint_scalars)(const ScanHead&);
  int64_t (*scan_forward_scratch)(const ScanHead&, int64_t heads);
  void (*scan_forward)(const ScanHead*, const ScanForward*, int64_t heads, void* scratch);
  int64_t (*scan_backward_scratch)(const ScanHead&, int64_t heads);
  void (*scan_backward)(const ScanHead*, const ScanBackward*, int64_t heads, void* scratch);
  StepKernels step;
  RowKernels rows;
};

/// The best this processor runs. The environment variable LIGER_CPU ("baseline", "avx2", "avx512") asks for another;
/// one that it does not run throws Error(kUsage).
const CpuKernels& cpu_kernels();
/// All that this processor runs, the best last.
int64_t runnable_cpu_kernels(const CpuKernels* (&all)[3]);

}  // namespace liger
