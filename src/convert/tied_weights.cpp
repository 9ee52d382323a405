#include "convert/tied_weights.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "convert/cast.h"
#include "convert/shards.h"
#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/io/interrupt.h"
#include "liger/models/family.h"
#include "liger/nn/lora.h"

namespace liger {
namespace {

const std::string kPeft = "base_model.model.", kWeight = ".weight", kBias = ".bias";

// Of a name within a layer.
bool is_norm(const std::string& name) { return name.find("norm.") != std::string::npos; }
// Whether matrices read what it gives. Others stand behind matrices, and RMSNorms of what those give cannot be a part
// of them.
bool can_fold(const std::string& norm, const Family& family) {
  return norm.starts_with("input_layernorm.") || norm.starts_with(cat(family.mlp_norm(), "."));
}
bool is_gain(const std::string& name) { return is_norm(name) && name.ends_with(kWeight); }

// The norm whose output a linear module reads; empty for those that read something else.
std::string norm_read_by(const std::string& module, const Family& family) {
  for (const std::string& reader : family.attention_inputs)
    if (module == cat(family.attention, ".", reader)) return "input_layernorm";
  for (const std::string& reader : family.mlp_inputs)
    if (module == cat("mlp.", reader)) return family.mlp_norm();
  return "";
}

// A number for a name: draws are the same in whatever order tensors are made.
uint64_t seed_of(int64_t seed, const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325 ^ static_cast<uint64_t>(seed);  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

TensorInfo sized(TensorInfo tensor) {
  tensor.bytes = item_size(tensor.dtype);
  for (const int64_t n : tensor.shape) tensor.bytes *= static_cast<uint64_t>(n);
  return tensor;
}

void check_finite(const at::Tensor& x, const WeightFiles::Entry& from) {
  LIGER_CHECK(at::isfinite(x).all().item<bool>(), from.file->path().string(), ": tensor '", from.info->name,
              "': holds values that are not finite; the weights are damaged");
}

std::span<const std::byte> bytes_of(const at::Tensor& x) {
  return {static_cast<const std::byte*>(x.const_data_ptr()), x.nbytes()};
}

}  // namespace

TiedWeights::TiedWeights(const WeightFiles& source, const ModelConfig& model, const TieOptions& options,
                         std::optional<Dtype> dtype)
    : source_(source),
      model_(model),
      tied_(tied_config(options, model)),
      options_(options),
      dtype_(dtype),
      layers_(tied_layers(options, model)),
      sources_(slot_sources(options, layers_)),
      work_(type_of(model.family->embedding_weight()) == Dtype::kF64 ? at::kDouble : at::kFloat) {}

const WeightFiles::Entry& TiedWeights::entry(const std::string& name) const { return *source_.find(name); }

std::string TiedWeights::in_layer(int64_t layer, const std::string& name) const {
  return cat(model_.family->layers(), layer, ".", name);
}

// Of a tensor of the tied model: as its like in the source is stored, or as asked for.
Dtype TiedWeights::type_of(const std::string& name) const {
  const auto layer = layer_and_name(name);
  return converted_dtype(*entry(layer ? in_layer(layers_.front(), layer->second) : name).info, dtype_);
}

int64_t TiedWeights::work(const TensorInfo& tensor) const {
  constexpr int64_t kOfADecomposition = 20;
  if (!tensor.name.starts_with(kPeft)) return static_cast<int64_t>(tensor.bytes / item_size(tensor.dtype));
  const auto [depth, rest] = *layer_and_name(tensor.name.substr(kPeft.size()));
  const std::string a = ".lora_A.weight";
  if (!rest.ends_with(a)) return 0;
  const std::string weight = in_layer(layers_.front(), rest.substr(0, rest.size() - a.size()) + kWeight);
  const std::vector<int64_t>& shape = entry(weight).info->shape;
  return kOfADecomposition * shape[0] * shape[1];
}

std::vector<TensorInfo> TiedWeights::base_tensors() const {
  std::vector<TensorInfo> out;
  for (const ExpectedTensor& tensor : expected_tensors(tied_)) {
    out.push_back(sized({.name = tensor.name, .dtype = type_of(tensor.name), .shape = tensor.shape}));
  }
  return out;
}

uint64_t TiedWeights::working_bytes() const {
  constexpr int64_t kCopies = 6, kOfProduct = 4;
  int64_t most = 0;
  for (const auto& [path, shape] : linear_shapes(tied_)) {
    if (is_head(path)) continue;
    const int64_t least = std::min(shape[0], shape[1]), size = static_cast<int64_t>(c10::elementSize(work_));
    most = std::max(most, kCopies * shape[0] * shape[1] * size + kOfProduct * least * least * 8);
  }
  return static_cast<uint64_t>(most);
}

std::vector<TensorInfo> TiedWeights::adapter_tensors() const {
  std::vector<TensorInfo> out;
  if (options_.rank == 0) return out;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    const Dtype type = work_ == at::kDouble ? Dtype::kF64 : Dtype::kF32;
    out.push_back(sized({.name = kPeft + name, .dtype = type, .shape = std::move(shape)}));
  };
  for (const auto& [path, shape] : linear_shapes(tied_)) {
    if (is_head(path)) continue;
    const int64_t rank = adapter_rank(options_, path, shape);
    add(path + ".lora_A.weight", {rank, shape[1]});
    add(path + ".lora_B.weight", {shape[0], rank});
  }
  if (tied_.recursive->depth_norms)
    for (const auto& [name, shape] : norm_shapes(tied_)) add(name, shape);
  if (tied_.recursive->depth_biases)
    for (const auto& [name, shape] : bias_shapes(tied_)) add(name, shape);
  return out;
}

LoraConfig TiedWeights::adapter_config() const {
  LoraConfig config;
  config.targets.names.clear();
  config.r = 1;
  std::map<std::string, int64_t> ranks;  // by the last name
  for (const auto& [path, shape] : linear_shapes(tied_)) {
    if (is_head(path)) continue;
    const int64_t rank = adapter_rank(options_, path, shape);
    ranks[path.substr(path.rfind('.') + 1)] = rank;
    config.r = std::max(config.r, rank);
  }
  config.alpha = static_cast<double>(config.r);
  for (const auto& [name, rank] : ranks) {
    config.targets.names.push_back(name);
    if (rank == config.r) continue;
    config.rank_pattern.emplace_back(name, rank);
    config.alpha_pattern.emplace_back(name, static_cast<double>(rank));
  }
  config.layer_replication = tied_.recursive->replication(tied_.num_hidden_layers);
  config.norms = tied_.recursive->depth_norms;
  if (config.norms) config.more_norms = tied_.family->more_norms();
  config.biases = tied_.recursive->depth_biases;
  return config;
}

// As stored, widened to the type that is worked in.
at::Tensor TiedWeights::read(const std::string& name) const {
  const WeightFiles::Entry& from = entry(name);
  const auto count = static_cast<int64_t>(from.info->bytes / item_size(from.info->dtype));
  const at::Tensor out = at::empty(from.info->shape, work_);
  std::vector<std::byte> stored(from.info->bytes);
  from.file->read(*from.info, stored);
  auto* to = static_cast<std::byte*>(out.mutable_data_ptr());
  if (work_ == at::kFloat) {
    cast(from.info->dtype, stored.data(), Dtype::kF32, to, count);
  } else {  // a model in F64
    LIGER_CHECK(from.info->dtype == Dtype::kF64, from.file->path().string(), ": tensor '", name,
                "': expected F64 as the embedding is, got ", to_string(from.info->dtype));
    std::copy(stored.begin(), stored.end(), to);
  }
  check_finite(out, from);
  return out;
}

// With the norm before it, if norms are folded, which themselves are neutral then. A matrix takes the gain, and a bias
// what the matrix makes of LayerNorm's bias: W (g n + b) + c = (W g) n + (W b + c).
at::Tensor TiedWeights::of_layer(int64_t layer, const std::string& name) const {
  const auto [of_family, folds] = std::pair(model_.family, options_.norms == TieNorms::kFolded);
  if (folds && is_norm(name) && can_fold(name, *of_family))
    return neutral(name, entry(in_layer(layer, name)).info->shape);
  const at::Tensor own = read(in_layer(layer, name));
  const std::string module = name.substr(0, name.rfind('.')), norm = norm_read_by(module, *of_family);
  if (!folds || norm.empty()) return own;
  if (name.ends_with(kWeight)) {
    const at::Tensor gain = read(in_layer(layer, norm + kWeight));
    return own * (of_family->norm_adds_one ? gain + 1 : gain);
  }
  return of_family->layer_norm
             ? own + at::mv(read(in_layer(layer, module + kWeight)), read(in_layer(layer, norm + kBias)))
             : own;
}

// A vector that changes nothing.
at::Tensor TiedWeights::neutral(const std::string& name, const std::vector<int64_t>& shape) const {
  return at::full(shape, is_gain(name) && !model_.family->norm_adds_one ? 1.0 : 0.0, work_);
}

at::Tensor TiedWeights::of_slot(int64_t slot, const std::string& name, const std::vector<int64_t>& shape) const {
  const std::vector<int64_t>& from = sources_[static_cast<size_t>(slot)];
  if (from.empty()) {
    if (shape.size() < 2) return neutral(name, shape);
    return at::empty(shape, work_)
        .normal_(0, model_.initializer_range,
                 at::make_generator<at::CPUGeneratorImpl>(seed_of(options_.seed, in_layer(slot, name))));
  }
  at::Tensor sum = of_layer(from.front(), name);
  for (size_t i = 1; i < from.size(); ++i) sum += of_layer(from[i], name);
  return from.size() == 1 ? sum : sum / static_cast<double>(from.size());
}

// As it is stored: what adapters are fitted to, and what is written.
at::Tensor TiedWeights::rounded(const at::Tensor& x, int64_t slot, const std::string& name) const {
  const std::string path = in_layer(slot, name);
  const Dtype type = type_of(path);
  const at::Tensor out = x.to(to_scalar_type(type));
  LIGER_CHECK(at::isfinite(out).all().item<bool>(), path, ": tied, it holds values too large for ", to_string(type),
              "; choose another --dtype");
  return out;
}

const LowRank& TiedWeights::pair(int64_t depth, const std::string& linear) {
  const std::string path = in_layer(depth, linear);
  if (pair_name_ == path) return pair_;
  const std::string name = linear + kWeight;
  const at::Tensor weight = of_layer(layers_[static_cast<size_t>(depth)], name);
  const int64_t out = weight.size(0), in = weight.size(1), rank = adapter_rank(options_, linear, {out, in});
  const int64_t slot = tied_.slot(depth);
  const at::Tensor difference = weight - rounded(of_slot(slot, name, {out, in}), slot, name).to(work_);
  const uint64_t seed = seed_of(options_.seed, path);
  if (options_.svd) {
    pair_ = low_rank(difference, rank, seed);
  } else {
    pair_ = no_difference(out, in, rank, work_, seed);
    pair_.all = difference.to(at::kDouble).square().sum().item<double>();
  }
  LIGER_CHECK(std::isfinite(pair_.kept), path, ": the difference from the shared layer is not finite");
  energies_[linear].kept += pair_.kept;
  energies_[linear].all += pair_.all;
  pair_name_ = path;
  return pair_;
}

at::Tensor TiedWeights::adapter_tensor(const std::string& name) {
  const auto [depth, rest] = *layer_and_name(name.substr(kPeft.size()));
  const size_t end = rest.rfind(".lora_");
  if (end == std::string::npos) return of_layer(layers_[static_cast<size_t>(depth)], rest);  // a norm's, or a bias
  const LowRank& found = pair(depth, rest.substr(0, end));
  return rest.substr(end) == ".lora_A.weight" ? found.a : found.b;
}

// Embeddings, the final norm and the head: in pieces.
void TiedWeights::copy(const TensorInfo& to, const Sink& sink) const {
  constexpr uint64_t kPiece = uint64_t{2} << 20;
  const WeightFiles::Entry& from = entry(to.name);
  const uint64_t size = item_size(from.info->dtype), elements = from.info->bytes / size;
  std::vector<std::byte> in, out;
  for (uint64_t at = 0; at < elements; at += kPiece) {
    throw_if_interrupted();
    const uint64_t n = std::min(kPiece, elements - at);
    in.resize(n * size);
    from.file->mapping()->read_at(from.info->offset + at * size, in);
    check_finite(at::from_blob(in.data(), {static_cast<int64_t>(n)}, to_scalar_type(from.info->dtype)), from);
    if (from.info->dtype == to.dtype) {
      sink(in);
      continue;
    }
    out.resize(n * item_size(to.dtype));
    const int64_t lost = cast(from.info->dtype, in.data(), to.dtype, out.data(), static_cast<int64_t>(n));
    LIGER_CHECK(lost == 0, from.file->path().string(), ": tensor '", to.name, "': ", lost,
                " or more values are too large for ", to_string(to.dtype), "; choose another dtype");
    sink(out);
  }
}

at::Tensor TiedWeights::make(const TensorInfo& to) {
  const at::NoGradGuard no_grad;
  if (to.name.starts_with(kPeft)) return adapter_tensor(to.name).contiguous();
  const auto [slot, name] = *layer_and_name(to.name);
  return rounded(of_slot(slot, name, to.shape), slot, name).contiguous();
}

void TiedWeights::write(const std::filesystem::path& file, std::vector<TensorInfo> tensors,
                        const std::function<void(int64_t)>& on_progress) {
  const at::NoGradGuard no_grad;
  SafetensorsWriter writer(file, std::move(tensors));
  for (const TensorInfo& to : writer.order()) {
    throw_if_interrupted();
    if (layer_and_name(to.name)) {
      writer.write(bytes_of(make(to)));
    } else {
      copy(to, [&](std::span<const std::byte> piece) { writer.write(piece); });
    }
    on_progress(work(to));
  }
  writer.finish();
}

KeptEnergy TiedWeights::kept() const {
  KeptEnergy out;
  for (const auto& [linear, energy] : energies_) out[linear] = energy.all > 0 ? energy.kept / energy.all : 1;
  return out;
}

}  // namespace liger
