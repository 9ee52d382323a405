#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <set>
#include <utility>

#include "convert/config_edit.h"
#include "convert/merge.h"
#include "convert/model_card.h"
#include "convert/rewrite.h"
#include "convert/shards.h"
#include "convert/tied_weights.h"
#include "liger/convert/convert.h"
#include "liger/core/hub.h"
#include "liger/error.h"
#include "liger/models/check_weights.h"
#include "liger/models/family.h"
#include "liger/models/structure.h"
#include "liger/nn/adapter_base.h"
#include "liger/nn/lora.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexName = "model.safetensors.index.json";

// What a user of the model needs beside config.json and the weights.
bool belongs_to_model(const std::string& name) {
  std::string lower = name;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  constexpr std::string_view kPrefixes[] = {"tokenizer", "chat_template", "license", "licence", "notice", "use_policy"};
  constexpr std::string_view kNames[] = {"special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
                                         "generation_config.json"};
  return std::any_of(std::begin(kPrefixes), std::end(kPrefixes), [&](auto p) { return lower.starts_with(p); }) ||
         std::find(std::begin(kNames), std::end(kNames), lower) != std::end(kNames);
}

// The layers of a hybrid: one that stays as it is after every `linear` that do not.
std::vector<int64_t> every_layer_after(int64_t linear, int64_t layers) {
  LIGER_CHECK_USAGE(linear >= 1, "--keep-softmax: expected 1 or more Liger layers for one that stays softmax, got ",
                    linear);
  LIGER_CHECK_USAGE(linear < layers, "--keep-softmax: expected less than ", layers,
                    ", the number of layers, for one of them to stay softmax, got ", linear);
  std::vector<int64_t> kept;
  for (int64_t i = linear; i < layers; i += linear + 1) kept.push_back(i);
  return kept;
}

}  // namespace

LigerConfig liger_settings(const ConvertOptions& options, const ModelConfig& model) {
  LIGER_CHECK_USAGE(find_structure(options.arch) != nullptr, "arch ", unknown_structure(options.arch), ", softmax");
  LigerConfig liger = options.liger;
  liger.recurrence = options.arch;
  if (options.keep_softmax) {
    LIGER_CHECK_USAGE(liger.softmax_layers.empty(),
                      "--keep-softmax and --softmax-layers both say which layers stay softmax; choose one");
    liger.softmax_layers = every_layer_after(*options.keep_softmax, model.num_hidden_layers);
  }
  std::sort(liger.softmax_layers.begin(), liger.softmax_layers.end());
  validate(liger, model, "liger settings");
  return liger;
}

namespace {

// One thing at a time, and one that this model can have done to it.
void check_wishes(const ConvertOptions& options, const ModelConfig& config, const std::string& where) {
  const bool structure = !options.arch.empty() || options.tie, merge = !options.merge.empty();
  LIGER_CHECK_USAGE(
      structure + (merge || options.untie) == 1,
      "expected a structure to convert to, loops to tie layers in, an adapter to merge, or tied layers to "
      "untie: one of them");
  if (options.untie) {
    LIGER_CHECK(config.recursive.has_value(), where,
                ": its layers are not tied (there is no 'recursive'); expected a recursive model to untie");
  } else {
    LIGER_CHECK(!merge || !config.recursive, where,
                ": its layers are tied, and a merged adapter would add all depths' changes to one weight; add --untie");
  }
}

void check_model(const ModelConfig& config, const OrderedJson& json, ConvertOptions& options) {
  const std::string where = (options.model / "config.json").string();
  check_wishes(options, config, where);
  const ModelConfig depths = options.tie ? tied_config(*options.tie, config) : config;
  if (options.arch.empty()) {
    // stays what it is
  } else if (options.arch == "softmax") {
    LIGER_CHECK(config.liger.has_value(), where, ": model_type '", json["model_type"].get<std::string>(),
                "' has softmax attention already; expected a linearized model");
  } else {
    LIGER_CHECK(!config.liger.has_value(), where,
                ": this model is linearized already; to change its settings, turn it ",
                "back first (--arch softmax) or edit \"liger\" in its config.json");
    options.liger = liger_settings(options, depths);
  }
  LIGER_CHECK(!json.contains("quantization_config") || json["quantization_config"].is_null(), where,
              ": 'quantization_config': quantized models cannot be converted; take the unquantized one");
}

// The nearest folder above `path` that exists: where its disk space will come from.
fs::path existing_parent(const fs::path& path) {
  fs::path at = fs::absolute(path).lexically_normal();
  while (!fs::is_directory(at) && at.has_relative_path()) at = at.parent_path();
  return at;
}

bool same_file_system(const fs::path& a, const fs::path& b) {
  struct stat first{}, second{};
  return stat(a.c_str(), &first) == 0 && stat(b.c_str(), &second) == 0 && first.st_dev == second.st_dev;
}

// Symbolic links followed; true for the folder itself too.
bool lies_inside(const fs::path& path, const fs::path& folder) {
  std::error_code error;
  const fs::path inner = fs::weakly_canonical(path, error).lexically_relative(fs::weakly_canonical(folder, error));
  return !inner.empty() && *inner.begin() != "..";
}

void check_apart(const fs::path& out, const fs::path& source, const char* what) {
  std::error_code error;
  LIGER_CHECK_USAGE(!fs::equivalent(out, source, error), "--out ", out.string(), " is the ", what,
                    " itself; choose another folder");
  LIGER_CHECK_USAGE(!lies_inside(source, out) && !lies_inside(out, source), "--out ", out.string(),
                    ": neither it nor the ", what, " ", source.string(),
                    " may lie inside the other; choose another folder");
}

void check_output(const ConvertOptions& options) {
  check_apart(options.out, options.model, "model");
  if (!options.merge.empty()) check_apart(options.out, options.merge, "adapter");
  std::error_code error;
  if (!fs::exists(options.out, error) || options.overwrite) return;
  const bool vacant = fs::is_directory(options.out, error) && fs::is_empty(options.out, error);
  if (!vacant) {
    fail(ErrorCode::kLocked, options.out.string(),
         ": exists and is not empty; choose another folder with --out, or replace it with --overwrite");
  }
}

// Room on the disk, found out before the work rather than after it.
void check_space(const ConvertPlan& plan) {
  const fs::path folder = existing_parent(plan.options.out);
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (!error && space.available < plan.bytes_written) {
    fail(ErrorCode::kIo, folder.string(), ": needs ", plan.bytes_written, " bytes for the new model, has ",
         space.available, " free");
  }
}

bool changes_dtype(const ConvertOptions& options, const WeightFiles& weights) {
  return options.dtype && std::any_of(weights.entries().begin(), weights.entries().end(), [&](const auto& named) {
           return converted_dtype(*named.second.info, options.dtype) != named.second.info->dtype;
         });
}

constexpr uint64_t kDefaultShard = 5'000'000'000;
constexpr const char* kAdapterFolder = "adapter/";

void add_text(ConvertPlan& plan, const std::string& name, std::string content) {
  plan.files.push_back({.name = name, .bytes = content.size(), .content = std::move(content)});
}

// A tied model, and in a folder of their own the adapters of its depths.
void add_tied(ConvertPlan& plan, const WeightFiles& weights, const ModelConfig& model) {
  const ConvertOptions& options = plan.options;
  const TiedWeights tied(weights, model, *options.tie, options.dtype);
  plan_shards(tied.base_tensors(), options.shard_size.value_or(kDefaultShard), FileAction::kTie, plan.files);
  plan.peak_memory_bytes += tied.working_bytes();
  std::vector<TensorInfo> adapter = tied.adapter_tensors();
  if (adapter.empty()) return;
  PlannedFile file{.name = cat(kAdapterFolder, "adapter_model.safetensors"), .action = FileAction::kTie};
  for (const TensorInfo& tensor : adapter) file.bytes += tensor.bytes;
  file.tensors = std::move(adapter);
  plan.files.push_back(std::move(file));
  LoraConfig config = tied.adapter_config();
  config.base_model_name_or_path = "..";  // the folder it lies in
  add_text(plan, cat(kAdapterFolder, "adapter_config.json"), config.to_peft_json().dump(2) + "\n");
}

// What a tied model brings along goes with it.
void add_own_adapter(ConvertPlan& plan, const ModelConfig& model) {
  const fs::path adapter = own_adapter(plan.options.model, model);
  if (adapter.empty()) return;
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
    const fs::path from = adapter / name;
    plan.files.push_back(
        {.name = cat(kAdapterFolder, name), .action = FileAction::kCopy, .bytes = fs::file_size(from), .from = from});
  }
}

// Every depth as a layer.
std::vector<TensorInfo> untied_tensors(const WeightFiles& weights, const ModelConfig& model, const ConvertOptions& o) {
  std::vector<TensorInfo> out;
  for (const ExpectedTensor& tensor : expected_tensors(model.unrolled())) {
    TensorInfo to = *weights.find(model.stored_name(tensor.name))->info;
    to.bytes /= item_size(to.dtype);
    to.dtype = converted_dtype(to, o.dtype);
    to.bytes *= item_size(to.dtype);
    to.name = tensor.name;
    out.push_back(std::move(to));
  }
  return out;
}

void add_weights(ConvertPlan& plan, const WeightFiles& weights, const ModelConfig& model) {
  const ConvertOptions& options = plan.options;
  if (options.tie) {
    add_tied(plan, weights, model);
    return;
  }
  if (!options.untie) add_own_adapter(plan, model);
  const bool merges = !options.merge.empty() || options.untie;
  if (options.shard_size || merges || changes_dtype(options, weights)) {
    plan_shards(options.untie ? untied_tensors(weights, model, options) : converted_tensors(weights, options.dtype),
                options.shard_size.value_or(kDefaultShard), FileAction::kRewrite, plan.files);
    plan.peak_memory_bytes += rewrite_buffer_bytes(merges);
    return;
  }
  const bool can_link = same_file_system(options.model, existing_parent(options.out));
  for (const auto& file : weights.files()) {
    plan.files.push_back({.name = file->path().filename().string(),
                          .action = can_link ? FileAction::kLink : FileAction::kCopy,
                          .bytes = fs::file_size(file->path()),
                          .from = file->path()});
  }
  if (weights.files().size() > 1 || weights.files().front()->path().filename() != "model.safetensors") {
    plan.files.push_back({.name = kIndexName,
                          .action = FileAction::kCopy,
                          .bytes = fs::file_size(options.model / kIndexName),
                          .from = options.model / kIndexName});
  }
}

void add_companions(ConvertPlan& plan) {
  std::set<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(plan.options.model)) {
    if (belongs_to_model(entry.path().filename().string()) && entry.is_regular_file()) found.insert(entry.path());
  }
  for (const fs::path& file : found) {
    plan.files.push_back({.name = file.filename().string(),
                          .action = FileAction::kCopy,
                          .bytes = fs::file_size(file),
                          .from = file_inside(plan.options.model, file.filename().string())});
  }
}

uint64_t resident_bytes() {
  uint64_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

std::string config_dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF16: return "float16";
    case Dtype::kBF16: return "bfloat16";
    default: return "float32";
  }
}

OrderedJson edited_config(const OrderedJson& before, const ModelConfig& model, const ConvertOptions& options,
                          const Merge& merge) {
  OrderedJson config = options.arch.empty()        ? before
                       : options.arch == "softmax" ? softmax_config(before, model)
                                                   : linearized_config(before, model, options.liger);
  if (options.tie)
    config = tied_config_json(config, tied_config(*options.tie, model), tied_layers(*options.tie, model));
  if (options.untie) config = untied_config_json(config, model);
  if (options.dtype) set_config_dtype(config, config_dtype_name(*options.dtype));
  if (merge.liger) config["liger"]["heads"] = to_json(*merge.liger)["heads"];
  return config;
}

// The adapter's sums can be written.
void check_merge(const Merge& merge, const ConvertOptions& options, const WeightFiles& weights,
                 const ModelConfig& model) {
  for (const auto& [name, edit] : merge.rows) {
    const TensorInfo& stored = *weights.find(model.stored_name(name))->info;
    LIGER_CHECK(converted_dtype(stored, options.dtype) != Dtype::kF64, options.model.string(), ": tensor '", name,
                "' is F64, and sums are made in float32; choose a type with --dtype");
  }
}

fs::path default_output(const ConvertOptions& options) {
  if (options.untie) return model_display_name(options.model) + "-untied";
  if (!options.merge.empty()) return model_display_name(options.model) + "-merged";
  const std::string name =
      options.arch.empty() ? model_display_name(options.model) : default_output_name(options.model, options.arch);
  return options.tie ? cat(name, "-", options.tie->recursion.loops, "loops") : name;
}

}  // namespace

ConvertPlan plan_conversion(ConvertOptions options) {
  ModelConfig model = ModelConfig::read(options.model);
  const OrderedJson before = read_ordered_json(options.model / "config.json");
  check_model(model, before, options);
  if (options.out.empty()) options.out = default_output(options);
  check_output(options);
  const WeightFiles weights(options.model);
  check_weights(weights, model, options.model.string());
  const Merge merge = read_merge(merged_adapter(options), model);
  check_merge(merge, options, weights, model);

  ConvertPlan plan{.options = std::move(options)};
  const OrderedJson after = edited_config(before, model, plan.options, merge);
  plan.config_changes = config_changes(before, after);
  plan.peak_memory_bytes = resident_bytes();
  const ModelConfig source = model;
  if (plan.options.tie) model = tied_config(*plan.options.tie, model);
  if (plan.options.untie) model = model.unrolled();
  if (plan.options.arch == "softmax") model.liger.reset();
  if (!plan.options.arch.empty() && plan.options.arch != "softmax") {
    model.liger = plan.options.liger;
    plan.warnings = compatibility_warnings(model, *model.liger);
    if (const std::string warning = window_warning(model); !warning.empty()) plan.warnings.push_back(warning);
  }
  if (plan.options.tie && model.recursive->depth_biases)
    plan.warnings.push_back(
        "biases of single depths: PEFT has no place for them, only liger opens this model; --untie writes a plain one");
  if (!plan.options.merge.empty()) {
    const std::string warning = other_base(plan.options.merge, plan.options.model, model.liger);
    if (!warning.empty()) plan.warnings.push_back(warning);
  }
  add_weights(plan, weights, source);
  add_companions(plan);
  add_text(plan, "config.json", after.dump(2, ' ', /*ensure_ascii=*/true) + "\n");
  std::vector<std::string> source_files;
  for (const auto& file : weights.files()) source_files.push_back(file->path().filename().string());
  add_text(plan, "README.md",
           model_card({.source = plan.options.model,
                       .name = model_display_name(plan.options.out),
                       .model = model,
                       .source_files = std::move(source_files),
                       .changes = plan.config_changes,
                       .warnings = plan.warnings,
                       .adapter = plan.options.merge,
                       .merged_tensors = merge.rows.size(),
                       .tied = plan.options.tie.has_value(),
                       .untied = plan.options.untie,
                       .dtype = changes_dtype(plan.options, weights) ? config_dtype_name(*plan.options.dtype) : ""}));
  for (const PlannedFile& file : plan.files) plan.bytes_written += file.action == FileAction::kLink ? 0 : file.bytes;
  check_space(plan);
  return plan;
}

std::string default_output_name(const fs::path& model, const std::string& arch) {
  std::string name = model_display_name(model);
  if (arch != "softmax") return name + "-liger-" + arch;
  for (const Structure& structure : structures()) {
    const std::string suffix = cat("-liger-", structure.name);
    if (!name.ends_with(suffix)) continue;
    name.resize(name.size() - suffix.size());
    break;
  }
  return name + "-softmax";
}

}  // namespace liger
