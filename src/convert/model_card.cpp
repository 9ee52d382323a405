#include "convert/model_card.h"

#include <algorithm>
#include <sstream>

#include "liger/core/hub.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/models/family.h"
#include "liger/models/structure.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

// The cache names the content of large files by its sha256, so that it costs nothing to tell.
std::string known_sha256(const fs::path& file) {
  std::error_code error;
  const fs::path target = fs::canonical(file, error);
  const std::string name = target.filename().string();
  const bool is_hash = name.size() == 64 && name.find_first_not_of("0123456789abcdef") == std::string::npos;
  return !error && is_hash && target.parent_path().filename() == "blobs" ? name : "";
}

void write_front_matter(std::ostream& out, const CardFacts& facts) {
  out << "---\n";
  if (const std::string base = repository_of_folder(facts.source); !base.empty()) out << "base_model: " << base << "\n";
  for (const std::string& line : license_lines(facts.source)) out << line << "\n";
  out << "pipeline_tag: text-generation\n";
  if (facts.model.liger) out << "tags:\n- liger\n- linear-attention\n";
  out << "---\n\n";
}

void write_source(std::ostream& out, const CardFacts& facts) {
  out << "## Made from\n\n| file | bytes | sha256 |\n| --- | --- | --- |\n";
  const auto row = [&](const std::string& name, const std::string& hash) {
    out << "| " << name << " | " << fs::file_size(facts.source / name) << " | " << (hash.empty() ? "-" : hash)
        << " |\n";
  };
  for (const char* name : {"config.json", "model.safetensors.index.json"}) {
    if (fs::exists(facts.source / name)) row(name, sha256_file(facts.source / name));
  }
  for (const std::string& name : facts.source_files) row(name, known_sha256(facts.source / name));
  if (!facts.adapter.empty()) {
    const fs::path weights = facts.adapter / "adapter_model.safetensors";
    out << "| adapter `" << model_display_name(facts.adapter) << "` | " << fs::file_size(weights) << " | "
        << sha256_file(weights) << " |\n";
  }
  out << "\n";
}

void write_changes(std::ostream& out, const CardFacts& facts) {
  out << "## What was changed\n\n";
  for (const std::string& change : facts.changes) out << "- config.json: `" << change << "`\n";
  if (facts.merged_tensors > 0) {
    out << "- " << facts.merged_tensors << " weights are the base model's with the adapter's product added, summed in "
        << "float32 and rounded once; the others are as they were"
        << (facts.dtype.empty() ? "" : cat(", all in ", facts.dtype)) << ".\n\n";
  } else if (facts.tied) {
    out << "- The weights of shared layers were made of the base model's, and the adapter of what they differ by.\n\n";
  } else if (facts.dtype.empty()) {
    out << "- The weights are the base model's, byte for byte.\n\n";
  } else {
    out << "- The weights were converted to " << facts.dtype << ", rounded to nearest.\n\n";
  }
}

void write_settings(std::ostream& out, const LigerConfig& liger) {
  const Structure& structure = *find_structure(liger.recurrence);
  out << "## Settings (`\"liger\"` in config.json)\n\n| setting | value | meaning |\n| --- | --- | --- |\n"
      << "| recurrence | " << structure.name << " | " << structure.kind << ": " << structure.summary << " |\n"
      << "| window | " << liger.window << " | keys a query sees in the softmax branch, itself included"
      << (liger.window == 0 ? ": there is none" : "") << " |\n"
      << "| sinks | " << liger.sinks << " | first tokens that every query sees in it |\n";
  if (liger.has_mix()) out << "| mix | " << liger.mix << " | share of the softmax branch in the output |\n";
  if (structure.uses_divisor) {
    out << "| gate_divisor | " << liger.gate_divisor << " | " << structure.forgets << " |\n";
  }
  if (!liger.softmax_layers.empty()) {
    out << "| softmax_layers | " << OrderedJson(liger.softmax_layers).dump()
        << " | layers, counted from 0, that see the whole text by softmax |\n";
  }
  const OrderedJson said = to_json(liger);
  const auto choice = [&](const char* key, const char* meaning) {
    if (said.contains(key)) out << "| " << key << " | " << said[key].dump() << " | " << meaning << " |\n";
  };
  choice("features", "of queries and keys, in place of the structure's own; of each layer, if there are several");
  choice("rope_features", "they are of rotated queries and keys");
  choice("normalizer", "of the recurrence's output; shared: window and state are one softmax");
  choice("state", "the recurrence reads tokens as they leave the window");
  if (!liger.heads.empty()) {
    std::string names;
    for (const auto& [scalar, rows] : liger.heads)
      names += cat(names.empty() ? "" : ", ", head_scalar_name(scalar, liger.shares_normalizer()));
    out << "| heads | " << names << " | numbers of single heads, fitted to the attention replaced |\n";
  }
  out << "\n";
}

// What was done to the base model's attention, and what follows from it.
void write_summary(std::ostream& out, const std::string& base, const ModelConfig& model) {
  const LigerConfig& liger = *model.liger;
  const int64_t kept = std::ssize(liger.softmax_layers), layers = model.num_hidden_layers;
  const bool has_window = liger.window > 0, has_recurrence = liger.recurrence != kWindowOnly;
  out << base << " with the softmax attention of " << (kept > 0 ? cat(layers - kept, " of its ") : "all ") << layers
      << " layers replaced by Liger attention (arXiv 2503.01496): "
      << (has_recurrence ? cat("a linear recurrence (", liger.recurrence, ")") : "")
      << (has_recurrence && has_window ? " and " : "") << (has_window ? "a sliding window" : "")
      << (has_recurrence && has_window ? ", both" : "") << " from the same q, k, v and o weights. "
      << (kept > 0 ? "Memory while generating grows with the text in the other layers only.\n\n"
                   : "Memory while generating does not grow with the text.\n\n")
      << "**Not fine-tuned yet**: "
      << (!liger.heads.empty() ? "shares, temperatures and gates of the heads were fitted to the attention replaced, "
                                 "the weights have never been trained with them.\n\n"
          : has_recurrence     ? "the recurrence has never been trained, so the model writes nonsense until it is.\n\n"
                               : "the weights have never been trained with a window.\n\n");
}

void write_next_steps(std::ostream& out, const std::string& name, const LigerConfig& liger) {
  out << "## Next\n\n```sh\n"
      << "liger-finetune configs/" << (liger.heads.empty() ? "lora" : "recover") << ".yaml --set model.path=" << name
      << " --set save.dir=out/" << name << "\n"
      << "liger-eval --model " << name << " --adapter out/" << name << "/final --tasks piqa,arc_easy --data DATA\n"
      << "liger-generate --model " << name << " --adapter out/" << name << "/final --prompt \"...\"\n```\n\n";
}

}  // namespace

namespace {

void write_tied(std::ostream& out, const std::string& base, const ModelConfig& model) {
  const Recursion& recursion = *model.recursive;
  out << base << " with " << model.num_hidden_layers << " layers tied into " << model.stored_layers() << ", "
      << to_string(recursion.sharing) << ", that run " << recursion.loops
      << " times (a recursive Transformer, arXiv 2410.20672)" << (model.liger ? ", in Liger layers" : "")
      << ". What depths have of their own is the adapter in `adapter`, if there is one.\n\n"
      << "```sh\nliger-generate --model DIR --prompt \"...\"\nliger-convert --model DIR --untie   # a plain "
         "model\n```\n\n";
  if (model.liger) return;
  out << "In Python, where the adapter must not be merged:\n\n```python\nfrom peft import PeftModel\n"
      << "from transformers import AutoModelForCausalLM\n"
      << "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(\"DIR\"), \"DIR/adapter\")\n```\n\n";
}

}  // namespace

std::string model_card(const CardFacts& facts) {
  std::ostringstream out;
  const std::string base = model_display_name(facts.source);
  write_front_matter(out, facts);
  out << "# " << facts.name << "\n\n";
  if (!facts.adapter.empty()) {
    out << base << " with the LoRA adapter `" << model_display_name(facts.adapter) << "` merged into its weights"
        << (facts.model.liger ? ", which run in Liger layers (arXiv 2503.01496)" : "") << ".\n\n";
  } else if (facts.untied) {
    out << base << " with weights of their own for layers that were tied.\n\n";
  } else if (facts.tied) {
    write_tied(out, base, facts.model);
  } else if (facts.model.liger) {
    write_summary(out, base, facts.model);
  } else {
    out << base << ", turned back into a " << facts.model.family->model_type << " model with softmax attention.\n\n";
  }
  for (const std::string& warning : facts.warnings) out << "> Note: " << warning << ".\n\n";
  if (facts.model.liger) {
    write_settings(out, *facts.model.liger);
    if (facts.adapter.empty()) write_next_steps(out, facts.name, *facts.model.liger);
  }
  write_changes(out, facts);
  write_source(out, facts);
  out << "The base model's licence holds for this one; its licence files, where it has any, lie beside this card.\n";
  return std::move(out).str();
}

}  // namespace liger
