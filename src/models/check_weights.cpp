#include <algorithm>
#include <cstring>
#include <set>

#include "liger/core/checkpoint.h"
#include "liger/error.h"

namespace liger {
namespace {

bool ignored(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

bool floating(Dtype dtype) {
  return dtype == Dtype::kF16 || dtype == Dtype::kBF16 || dtype == Dtype::kF32 || dtype == Dtype::kF64;
}

bool same_bytes(const WeightFiles::Entry& a, const WeightFiles::Entry& b) {
  const auto left = a.file->data(*a.info), right = b.file->data(*b.info);
  return a.info->dtype == b.info->dtype && a.info->shape == b.info->shape &&
         std::memcmp(left.data(), right.data(), left.size()) == 0;
}

}  // namespace

void check_weights(const WeightFiles& files, const ModelConfig& config, const std::string& source) {
  constexpr size_t kShown = 20;
  std::vector<std::string> problems;
  std::set<std::string> expected;
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    expected.insert(tensor.name);
    const auto* entry = files.find(tensor.name);
    if (!entry) {
      problems.push_back(cat("missing ", tensor.name, " ", shape_to_string(tensor.shape)));
    } else if (entry->info->shape != tensor.shape) {
      problems.push_back(cat(tensor.name, ": expected ", shape_to_string(tensor.shape), " by config.json, got ",
                             shape_to_string(entry->info->shape)));
    } else if (!floating(entry->info->dtype)) {
      problems.push_back(cat(tensor.name, ": expected F32, BF16, F16 or F64, got ", to_string(entry->info->dtype)));
    }
  }
  for (const auto& [name, entry] : files.entries()) {
    if (expected.contains(name) || ignored(name)) continue;
    const auto* embedding = files.find("model.embed_tokens.weight");
    if (name == "lm_head.weight" && config.tie_word_embeddings && embedding) {
      if (!same_bytes(entry, *embedding))
        problems.push_back("lm_head.weight differs from model.embed_tokens.weight, and config.json ties them");
      continue;
    }
    problems.push_back(cat("unexpected ", name, " ", shape_to_string(entry.info->shape)));
  }
  if (problems.empty()) return;
  std::string text;
  for (size_t i = 0; i < std::min(problems.size(), kShown); ++i) text += (i ? "; " : "") + problems[i];
  if (problems.size() > kShown) text += cat("; and ", problems.size() - kShown, " more");
  fail(ErrorCode::kBadInput, source, ": ", problems.size(), " tensors do not fit config.json: ", text);
}

}  // namespace liger
