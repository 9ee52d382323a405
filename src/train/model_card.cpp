#include "train/model_card.h"

#include <torch/version.h>

#include <filesystem>
#include <set>
#include <sstream>

#include "liger/core/hub.h"
#include "liger/error.h"
#include "train/describe.h"
#include "train/metrics.h"

namespace liger {
namespace {

/// A YAML scalar whatever the text holds.
std::string quoted(const std::string& text) { return OrderedJson(text).dump(); }

/// The base as the Hub knows it, or as the run was told.
std::string base_name(const TrainingSetup& setup) {
  const std::string repository = repository_of_folder(setup.base);
  return repository.empty() ? setup.options.model.path : repository;
}

std::string front_matter(const TrainingSetup& setup) {
  const std::string base = base_name(setup);
  std::ostringstream out;
  out << "---\nbase_model: " << quoted(base) << "\n";
  for (const std::string& line : license_lines(setup.base)) out << line << "\n";
  out << "library_name: " << (setup.lora ? "peft" : "transformers") << "\npipeline_tag: text-generation\ntags:\n- "
      << quoted(cat("base_model:", setup.lora ? "adapter:" : "finetune:", base)) << "\n";
  if (setup.model->config().liger) out << "- liger\n- linear-attention\n";
  if (setup.lora) out << "- lora\n- transformers\n";
  out << "---\n\n";
  return out.str();
}

std::string attention(const ModelConfig& config) {
  if (!config.liger) return "softmax attention";
  const LigerConfig& l = *config.liger;
  const OrderedJson settings = to_json(l);
  std::string text;
  for (const auto& [key, value] : settings.items()) text += cat(text.empty() ? "" : ", ", key, " ", value.dump());
  return cat("Liger layers (", text, ")");
}

std::string adapter(const LoraConfig& lora) {
  // In one order, whether they come from the configuration or from the file of a run that goes on.
  const std::set<std::string> names(lora.targets.names.begin(), lora.targets.names.end());
  const std::string targets = lora.targets.regex.empty() ? OrderedJson(names).dump() : lora.targets.regex;
  return cat("A LoRA adapter (r ", lora.r, ", alpha ", lora.alpha, lora.dora ? ", DoRA" : "",
             lora.rslora ? ", rsLoRA" : "", ", on `", targets, "`)");
}

std::string data(const TrainingSetup& setup) {
  const DataOptions& options = setup.options.data;
  std::ostringstream out;
  out << "| rows | file | sha256 |\n| --- | --- | --- |\n";
  const auto row = [&](const std::string& file, int64_t rows, const std::string& sha256) {
    out << "| " << rows << " | `" << std::filesystem::path(file).filename().string() << "` | " << sha256 << " |\n";
  };
  row(options.train, setup.train->counts().rows, cat("`", setup.data_sha256, "`"));
  if (setup.validation) {
    row(options.val.value_or(options.train), setup.validation->counts().rows,
        options.val ? "validation" : "the first of the same file, for validation");
  }
  return out.str();
}

/// How the result is run here and in Python. `DIR` is the folder of this card.
std::string usage(const TrainingSetup& setup) {
  const std::string base = base_name(setup);
  std::ostringstream out;
  out << "DIR is the folder of this card.\n\n```sh\nliger-generate "
      << (setup.lora ? cat("--model '", base, "' --adapter DIR") : std::string("--model DIR"))
      << " --prompt \"...\"\n```\n\n```python\nfrom transformers import AutoModelForCausalLM\n";
  if (setup.lora) {
    out << "from peft import PeftModel\nbase = AutoModelForCausalLM.from_pretrained(" << quoted(base)
        << ")\nmodel = PeftModel.from_pretrained(base, \"DIR\")\n```\n";
  } else if (setup.own_adapter) {
    out << "from peft import PeftModel\nbase = AutoModelForCausalLM.from_pretrained(\"DIR\")\n"
        << "model = PeftModel.from_pretrained(base, \"DIR/adapter\")\n```\n";
  } else {
    out << "model = AutoModelForCausalLM.from_pretrained(\"DIR\")\n```\n";
  }
  if (!setup.model->config().liger) return out.str();
  out << "\nIn Python, Liger layers need the published Liger modeling code.";
  const std::optional<LigerConfig>& stored = setup.base_config.liger;
  const bool as_stored = stored && to_json(*stored) == to_json(*setup.model->config().liger);
  if (setup.lora && !as_stored) {
    out << " The base's config.json does not say them: `liger-convert` makes a folder of the same weights that does.";
  }
  out << "\n";
  return out.str();
}

std::string results(const FinetuneResult& r) {
  std::ostringstream out;
  out << "| measure | value |\n| --- | --- |\n| updates | " << r.steps << " |\n| tokens read | " << r.tokens << " |\n";
  const auto line = [&](const char* name, const std::optional<double>& value) {
    if (value) out << "| " << name << ", nats a token | " << *value << " |\n";
  };
  line("training loss at the end", r.loss);
  line("validation loss before", r.first_eval_loss);
  line("validation loss at the end", r.eval_loss);
  line("best validation loss", r.best_eval_loss);
  if (r.best_eval_loss) out << "| update of the best validation loss | " << r.best_step << " |\n";
  out << "| time | " << format_duration(r.seconds) << " |\n";
  return out.str();
}

}  // namespace

std::string model_card(const TrainingSetup& setup, const FinetuneResult& result) {
  std::ostringstream out;
  out << front_matter(setup) << "# " << model_display_name(setup.base)
      << (setup.lora ? ", LoRA adapter" : ", fine-tuned") << "\n\n"
      << (setup.lora ? adapter(*setup.lora) + ", trained by liger-finetune over "
                     : "All parameters trained by liger-finetune from ")
      << "`" << base_name(setup) << "` with " << attention(setup.model->config()) << ".\n\n";
  for (const std::string& line : describe(setup)) out << "- " << line << "\n";
  out << "\n## Results\n\n"
      << results(result) << "\n## Use\n\n"
      << usage(setup) << "\n## Data\n\n"
      << data(setup) << "\n## Settings\n\n```yaml\n"
      << to_yaml(setup.options) << "```\n\n## Framework versions\n\n- liger " << LIGER_VERSION << "\n- LibTorch "
      << TORCH_VERSION << "\n";
  if (setup.lora) out << "- written in the format of PEFT 0.21\n";
  out << "\nThe base model's licence holds for this one.\n";
  return out.str();
}

}  // namespace liger
