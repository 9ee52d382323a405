#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "liger/core/model_config.h"
#include "liger/core/recursion.h"

namespace liger {

class CausalLM;

/// Which of a model's layers a shared layer begins as (arXiv 2410.20672, section 2.2).
enum class TieInit {
  kStepwise,  ///< layers at equal steps from the first to the last, rounded half to even as the paper's author does
  kAverage,   ///< the mean of all layers that it stands for
  kLower,     ///< the first layers
  kUpper,     ///< the last layers
  kRandom     ///< drawn anew
};
/// What becomes of norms, whose gains differ from layer to layer.
enum class TieNorms {
  /// Multiplied into the matrices that read the norm's output, so that tying and LoRA see them; then neutral. Norms
  /// that no matrix reads (Family::more_norms()) are each depth's own if there is an adapter, else tied.
  kFolded,
  kTied,  ///< as the matrices
  kDepth  ///< every depth keeps its own, in the adapter
};
// Biases of linear modules are each depth's own in the adapter, which no low rank could give back; without an adapter
// they are tied as matrices are. A folded LayerNorm's bias goes into that of the modules that read it.

/// How to tie a model's layers into shared blocks with an adapter for each depth (relaxed recursion).
struct TieOptions {
  Recursion recursion = {};          ///< what depths have of their own follows from `norms` and `rank`
  std::optional<TieInit> init = {};  ///< absent = average with an adapter fitted by SVD, else stepwise
  TieNorms norms = TieNorms::kFolded;
  /// Of the adapters: at most min(in, out) of a matrix, which gives the model back exactly; 0 = none, strictly tied.
  int64_t rank = 64;
  std::vector<std::pair<std::string, int64_t>> rank_pattern = {};  ///< "down_proj" or "mlp.down_proj", and its rank
  /// Truncated SVD of what a layer's matrix and the shared one differ by (eq. 5 of the paper), scale 1; else A is drawn
  /// and B is zero.
  bool svd = true;
  /// Where loops do not divide the layers: first leaves out as many as it takes, at equal distances.
  bool drop_layers = false;
  int64_t seed = 0;

  TieInit chosen_init() const { return init.value_or(rank > 0 && svd ? TieInit::kAverage : TieInit::kStepwise); }
};
const char* to_string(TieInit init);
const char* to_string(TieNorms norms);
/// Throw Error(kUsage) with a list of the names for others.
TieInit tie_init_from_name(const std::string& name);    ///< stepwise, average, lower, upper, random
TieNorms tie_norms_from_name(const std::string& name);  ///< folded, tied, depth

/// The model's layers that are the depths of the tied one: all, or with drop_layers round(linspace(0, L - 1, n)) of
/// them. Throws Error(kUsage) if loops do not divide them, naming what would.
std::vector<int64_t> tied_layers(const TieOptions& options, const ModelConfig& model);
/// The tied model's configuration.
ModelConfig tied_config(const TieOptions& options, const ModelConfig& model);
/// For each slot the layers whose mean it begins as, of those that tied_layers() returns; empty: drawn.
std::vector<std::vector<int64_t>> slot_sources(const TieOptions& options, const std::vector<int64_t>& layers);

/// A matrix of a layer and the rank of its adapters: min(rank, in, out) of the pattern or of `rank`, 1.5 times that for
/// a matrix that is queries, keys and values in one, which makes the paper's sizes.
int64_t adapter_rank(const TieOptions& options, const std::string& linear, const std::vector<int64_t>& shape);

/// Parameters of a tied model, from its configuration alone.
struct TiedSizes {
  int64_t base = 0;       ///< embeddings among them
  int64_t embedding = 0;  ///< embedding and head
  int64_t adapters = 0;   ///< norms of depths among them
};
TiedSizes tied_sizes(const TieOptions& options, const ModelConfig& model);

/// Of what layers and shared layers differ by, the share of the squared norm that the adapters hold; by linear module's
/// name, "mlp.up_proj". 1 where nothing differs.
using KeptEnergy = std::map<std::string, double>;

/// The tied model in memory, as it would be read from its folder. `kept`, if not null, gets what adapters hold.
std::shared_ptr<CausalLM> tied_model(const std::filesystem::path& model, const TieOptions& options,
                                     KeptEnergy* kept = nullptr);

}  // namespace liger
