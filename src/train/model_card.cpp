#include "train/model_card.h"

#include <filesystem>
#include <sstream>

#include "liger/error.h"
#include "train/describe.h"
#include "train/metrics.h"

namespace liger {
namespace {

/// A YAML scalar whatever the text holds.
std::string quoted(const std::string& text) { return OrderedJson(text).dump(); }

std::string front_matter(const TrainingSetup& setup) {
  const std::string& base = setup.options.model.path;
  std::ostringstream out;
  out << "---\nbase_model: " << quoted(base) << "\n";
  if (setup.lora) {
    out << "library_name: peft\npipeline_tag: text-generation\ntags:\n- " << quoted("base_model:adapter:" + base)
        << "\n- lora\n- transformers\n";
  } else {
    out << "library_name: transformers\npipeline_tag: text-generation\ntags:\n- " << quoted("base_model:finetune:" + base)
        << "\n";
  }
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
  out << front_matter(setup) << "# " << std::filesystem::path(setup.options.model.path).filename().string()
      << (setup.lora ? ", LoRA adapter" : ", fine-tuned") << "\n\n"
      << (setup.lora ? "A LoRA adapter, trained by liger-finetune over " : "All parameters trained by liger-finetune from ")
      << "`" << setup.options.model.path << "` with " << attention(setup.model->config()) << ".\n\n## Data\n\n`"
      << std::filesystem::path(setup.options.data.train).filename().string() << "`, sha256 `" << setup.data_sha256
      << "`\n\n";
  for (const std::string& line : describe(setup)) out << "- " << line << "\n";
  out << "\n## Results\n\n"
      << results(result) << "\n## Settings\n\n```yaml\n"
      << to_yaml(setup.options) << "```\n";
  return out.str();
}

}  // namespace liger
