#include "core/hub_names.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <string_view>

#include "io/nearest.h"
#include "io/text.h"
#include "liger/error.h"

namespace liger::detail {
namespace {

struct KnownModel {
  std::string_view name;
  std::string_view repository;
};

constexpr KnownModel kKnownModels[] = {
    {"llama2-7b", "meta-llama/Llama-2-7b-hf"},
    {"llama2-7b-chat", "meta-llama/Llama-2-7b-chat-hf"},
    {"llama2-13b", "meta-llama/Llama-2-13b-hf"},
    {"llama2-13b-chat", "meta-llama/Llama-2-13b-chat-hf"},
    {"llama3-8b", "meta-llama/Meta-Llama-3-8B"},
    {"llama3-8b-instruct", "meta-llama/Meta-Llama-3-8B-Instruct"},
    {"llama3-70b", "meta-llama/Meta-Llama-3-70B"},
    {"llama3-70b-instruct", "meta-llama/Meta-Llama-3-70B-Instruct"},
    {"llama3.1-8b", "meta-llama/Llama-3.1-8B"},
    {"llama3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct"},
    {"llama3.1-70b", "meta-llama/Llama-3.1-70B"},
    {"llama3.1-70b-instruct", "meta-llama/Llama-3.1-70B-Instruct"},
    {"llama3.2-1b", "meta-llama/Llama-3.2-1B"},
    {"llama3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct"},
    {"llama3.2-3b", "meta-llama/Llama-3.2-3B"},
    {"llama3.2-3b-instruct", "meta-llama/Llama-3.2-3B-Instruct"},
    {"gemma-2b", "google/gemma-2b"},
    {"gemma-2b-it", "google/gemma-2b-it"},
    {"gemma-7b", "google/gemma-7b"},
    {"gemma-7b-it", "google/gemma-7b-it"},
    {"gemma2-2b", "google/gemma-2-2b"},
    {"gemma2-2b-it", "google/gemma-2-2b-it"},
    {"gemma2-9b", "google/gemma-2-9b"},
    {"gemma2-9b-it", "google/gemma-2-9b-it"},
    {"gemma2-27b", "google/gemma-2-27b"},
    {"gemma2-27b-it", "google/gemma-2-27b-it"},
    {"gemma3-270m", "google/gemma-3-270m"},
    {"gemma3-270m-it", "google/gemma-3-270m-it"},
    {"gemma3-1b", "google/gemma-3-1b-pt"},
    {"gemma3-1b-it", "google/gemma-3-1b-it"},
    {"mistral-7b", "mistralai/Mistral-7B-v0.1"},
    {"mistral-7b-v0.1", "mistralai/Mistral-7B-v0.1"},
    {"mistral-7b-v0.3", "mistralai/Mistral-7B-v0.3"},
    {"mistral-7b-instruct", "mistralai/Mistral-7B-Instruct-v0.3"},
    {"mistral-7b-instruct-v0.3", "mistralai/Mistral-7B-Instruct-v0.3"},
    {"qwen2-0.5b", "Qwen/Qwen2-0.5B"},
    {"qwen2-1.5b", "Qwen/Qwen2-1.5B"},
    {"qwen2-7b", "Qwen/Qwen2-7B"},
    {"qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B"},
    {"qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct"},
    {"qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B"},
    {"qwen2.5-1.5b-instruct", "Qwen/Qwen2.5-1.5B-Instruct"},
    {"qwen2.5-3b", "Qwen/Qwen2.5-3B"},
    {"qwen2.5-3b-instruct", "Qwen/Qwen2.5-3B-Instruct"},
    {"qwen2.5-7b", "Qwen/Qwen2.5-7B"},
    {"qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct"},
    {"qwen3-0.6b", "Qwen/Qwen3-0.6B"},
    {"qwen3-0.6b-base", "Qwen/Qwen3-0.6B-Base"},
    {"qwen3-1.7b", "Qwen/Qwen3-1.7B"},
    {"qwen3-1.7b-base", "Qwen/Qwen3-1.7B-Base"},
    {"qwen3-4b", "Qwen/Qwen3-4B"},
    {"qwen3-4b-base", "Qwen/Qwen3-4B-Base"},
    {"qwen3-8b", "Qwen/Qwen3-8B"},
    {"qwen3-8b-base", "Qwen/Qwen3-8B-Base"},
    {"pythia-70m", "EleutherAI/pythia-70m"},
    {"pythia-160m", "EleutherAI/pythia-160m"},
    {"pythia-410m", "EleutherAI/pythia-410m"},
    {"pythia-1b", "EleutherAI/pythia-1b"},
    {"pythia-1.4b", "EleutherAI/pythia-1.4b"},
    {"pythia-2.8b", "EleutherAI/pythia-2.8b"},
    {"pythia-6.9b", "EleutherAI/pythia-6.9b"},
    {"pythia-12b", "EleutherAI/pythia-12b"},
    {"tinyllama", "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"},
    {"tinyllama-chat", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"},
    {"smollm2-135m", "HuggingFaceTB/SmolLM2-135M"},
    {"smollm2-360m", "HuggingFaceTB/SmolLM2-360M"},
    {"smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B"},
};

[[noreturn]] void fail_unknown(const std::string& name, const std::string& lower) {
  std::string names;
  std::set<std::string, std::less<>> all;
  for (const KnownModel& model : kKnownModels) {
    names += cat(names.empty() ? "" : ", ", model.name);
    all.emplace(model.name);
  }
  const std::string close = nearest(lower, all);
  fail(ErrorCode::kUsage, "model '", printable(name, 200),
       "': no such folder, no Hugging Face id (org/name) and no known name", close.empty() ? "" : "; did you mean ",
       close, close.empty() ? "" : "?", close.empty() ? "; known are " : " Known are ", names);
}

}  // namespace

bool is_plain_name(std::string_view text) {
  return !text.empty() && text.size() <= 96 && text.front() != '.' &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; });
}

std::string repository_named(const std::string& name) {
  std::string lower = name;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const KnownModel& model : kKnownModels) {
    if (lower == model.name) return std::string(model.repository);
  }
  const size_t slash = name.find('/');
  const bool is_id = slash != std::string::npos && is_plain_name(std::string_view(name).substr(0, slash)) &&
                     is_plain_name(std::string_view(name).substr(slash + 1)) && name.find("--") == std::string::npos;
  if (!is_id) fail_unknown(name, lower);
  return name;
}

}  // namespace liger::detail
