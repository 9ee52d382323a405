#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "liger/convert/tie.h"
#include "liger/core/model_config.h"
#include "liger/io/json.h"
#include "liger/io/safetensors.h"

namespace liger {

/// What to make of a Hugging Face model folder.
struct ConvertOptions {
  std::filesystem::path model = {};  ///< an existing folder, see resolve_model()
  /// The structure to linearize with, or "softmax": back to the base model; empty = attention stays what it is.
  std::string arch = "gla";
  std::optional<TieOptions> tie = {};  ///< ties layers into shared blocks, with or without `arch`
  /// Gives a tied model's layers weights of their own, adapter and all: a plain model that opens everywhere.
  bool untie = false;
  /// Instead of `arch`, which is empty then: a PEFT LoRA folder to add to the weights, each summed in float32, rounded
  /// once to the type it is stored in. The model stays what it is, softmax or linearized. Of a tied model with `untie`
  /// only, in place of the adapter it brings along.
  std::filesystem::path merge = {};
  std::filesystem::path out = {};  ///< empty = default_output_name(), or NAME-merged, in the current directory
  LigerConfig liger = {};          ///< not used for "softmax"; `recurrence` is taken from `arch`
  /// N: layers (i + 1) % (N + 1) == 0 stay softmax attention, one after every N Liger layers; 7 makes the paper's "-H".
  /// Not together with liger.softmax_layers.
  std::optional<int64_t> keep_softmax = {};
  std::optional<Dtype> dtype = {};  ///< F32, BF16 or F16; absent = as stored
  /// Bytes of tensors in one file; absent = the files as they are, or 5 GB where tensors are converted.
  std::optional<uint64_t> shard_size = {};
  bool overwrite = false;  ///< replace an output that liger wrote earlier
};

/// The settings of the linearized layers that `options` ask for of this model, complete. Throws Error(kUsage) if they
/// do not make sense, or do not suit it.
LigerConfig liger_settings(const ConvertOptions& options, const ModelConfig& model);

/// How a file of the new folder comes to be.
enum class FileAction {
  kLink,     ///< the same file under a second name; a reflink or a copy where the file system has no links
  kCopy,     ///< a copy, so that editing it leaves the source alone
  kRewrite,  ///< tensors converted, merged or divided anew
  kTie,      ///< tensors of shared layers, or of their adapter
  kWrite     ///< made here
};
const char* to_string(FileAction action);

struct PlannedFile {
  std::string name = {};
  FileAction action = FileAction::kWrite;
  uint64_t bytes = 0;
  std::filesystem::path from = {};       ///< for kLink and kCopy
  std::vector<TensorInfo> tensors = {};  ///< for kRewrite and kTie: names, types and shapes to write
  std::string content = {};              ///< for kWrite
};

/// Everything a conversion will do, with its input checked: config.json, and every tensor's name, type and shape.
struct ConvertPlan {
  ConvertOptions options = {};  ///< with `out` filled in
  std::vector<PlannedFile> files = {};
  std::vector<std::string> config_changes = {};  ///< "model_type: \"llama\" -> \"liger_gla\""
  std::vector<std::string> warnings = {};
  uint64_t bytes_written = 0;      ///< that need disk space
  uint64_t peak_memory_bytes = 0;  ///< of the whole process, estimated
};

/// Reads and checks the source; writes nothing.
/// Throws Error(kBadInput) for a model that cannot be converted (all findings at once), Error(kUsage) for settings
/// that cannot be, Error(kLocked) if the output is in use or not empty, Error(kIo) if the disk has too little room.
ConvertPlan plan_conversion(ConvertOptions options);

/// Does what the plan says. The folder appears whole or not at all; an interrupt leaves nothing.
struct Converted {
  std::filesystem::path folder;
  KeptEnergy kept;  ///< by the adapters of tied layers
};
Converted run_conversion(const ConvertPlan& plan);

/// The adapter that goes into the weights: `merge`, or with `untie` the one that the tied model brings along; empty =
/// none.
std::filesystem::path merged_adapter(const ConvertOptions& options);

/// What rounding the sum did to the logits of a text.
struct MergeProbe {
  int64_t tokens = 0;
  double largest_change = 0;  ///< of any logit of the merged model, against the model with its adapter beside it
  double largest_logit = 0;   ///< of the latter
  int64_t same_choice = 0;    ///< tokens after which both find the same one likeliest
};
/// Runs the first 512 tokens of `text` through both, in the types they are stored in, one model after the other.
MergeProbe probe_merge(const std::filesystem::path& model, const std::filesystem::path& adapter,
                       const std::filesystem::path& merged, const std::string& text);

/// "Meta-Llama-3-8B-liger-gla"; for "softmax" the name without the "-liger-..." of any structure and with "-softmax".
std::string default_output_name(const std::filesystem::path& model, const std::string& arch);

/// The published form of a plan or of what was done: files with actions and bytes, config changes, warnings.
OrderedJson to_json(const ConvertPlan& plan);

}  // namespace liger
