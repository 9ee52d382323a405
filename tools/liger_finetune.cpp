// liger-finetune: LoRA or full-parameter training of a model folder, as a YAML file says.

#include <iomanip>
#include <iostream>
#include <string>
#include <vector>

#include "liger/core/download.h"
#include "liger/core/tensor_memory.h"
#include "liger/error.h"
#include "liger/io/settings.h"
#include "liger/train/dry_run.h"
#include "liger/train/options.h"
#include "liger/train/trainer.h"
#include "model_arguments.h"
#include "tool.h"

namespace {

using namespace liger;

struct Options {
  std::string config, model;
  std::vector<std::string> assignments;
  std::string dry_run;
  bool print_config = false, download = false;
};

DryRunStep step_of(const std::string& name) {
  if (name == "auto") return DryRunStep::kIfQuick;
  if (name == "plan") return DryRunStep::kNever;
  LIGER_CHECK_USAGE(name == "step", "--dry-run: expected auto, plan or step, got '", name, "'");
  return DryRunStep::kAlways;
}

OrderedJson to_json(const FinetuneResult& r) {
  const auto number = [](const std::optional<double>& x) { return x ? OrderedJson(*x) : OrderedJson(); };
  return {{"output", r.output.string()},
          {"steps", r.steps},
          {"tokens", r.tokens},
          {"loss", number(r.loss)},
          {"first_eval_loss", number(r.first_eval_loss)},
          {"eval_loss", number(r.eval_loss)},
          {"best_eval_loss", number(r.best_eval_loss)},
          {"best_step", r.best_step},
          {"seconds", r.seconds},
          {"tokens_per_second", r.tokens_per_second},
          {"peak_memory_bytes", r.peak_memory_bytes}};
}

void print(const FinetuneResult& r) {
  std::cout << "output              " << r.output.string() << "\n"
            << "updates             " << r.steps << "\n"
            << "tokens              " << r.tokens << "\n";
  const auto loss = [](const char* name, const std::optional<double>& value) {
    if (value) std::cout << name << std::fixed << std::setprecision(4) << *value << "\n";
  };
  loss("training loss       ", r.loss);
  loss("validation before   ", r.first_eval_loss);
  loss("validation after    ", r.eval_loss);
  std::cout << std::setprecision(1) << "tokens per second   " << r.tokens_per_second << "\n"
            << std::setprecision(3) << "peak memory         " << static_cast<double>(r.peak_memory_bytes) / 1e9
            << " GB\n";
}

void finetune(const Options& o, bool json) {
  Settings settings = Settings::from_yaml_file(o.config);
  if (!o.model.empty()) settings.override_with("model.path=" + OrderedJson(o.model).dump());
  for (const std::string& assignment : o.assignments) settings.override_with(assignment);
  const FinetuneOptions options = read_finetune_options(settings);
  if (o.print_config) {
    if (json) return tool::print_json(liger::to_json(options));
    std::cout << to_yaml(options);
    return;
  }
  if (o.download) {  // every rank: one of them fetches, and the others wait for it
    fetch_model(options.model.path);
    if (options.distill && options.distill->teacher) fetch_model(*options.distill->teacher);
  }
  if (!o.dry_run.empty()) {
    const DryRun run = dry_run(options, step_of(o.dry_run));
    if (json) return tool::print_json(liger::to_json(run));
    std::cout << to_text(run);
  } else {
    Trainer trainer(options);
    const FinetuneResult result = trainer.run();
    if (!trainer.first()) return;
    if (json) return tool::print_json(to_json(result));
    print(result);
  }
}

}  // namespace

int main(int argc, char** argv) {
  keep_tensor_memory();  // every update asks for the same again
  CLI::App app(
      "Fine-tunes a model: LoRA, or all parameters (lora: null). Every key of the configuration and what it "
      "means: --help-config.",
      "liger-finetune");
  tool::CommonOptions common;
  Options options;
  app.add_option("config", options.config, "Configuration, such as configs/lora.yaml")
      ->required()
      ->option_text("CONFIG.yaml");
  app.add_option("--model", options.model, "Folder or name of the model; the same as --set model.path=...")
      ->option_text("NAME|DIR");
  tool::add_download_option(app, options.download);
  app.add_option("--set", options.assignments, "Another value for a key, e.g. train.lr=2e-4; repeatable")
      ->option_text("KEY=VALUE")
      ->take_all()
      ->expected(1);
  app.add_flag(
      "--dry-run{auto}", options.dry_run,
      "Check everything, foretell memory and disk, and make one update on random tokens; keep nothing but the "
      "tokens in data.cache. --dry-run=plan: no update, the model is not loaded; =step: an update in any case; "
      "otherwise where it takes seconds");
  app.add_flag("--print-config", options.print_config, "Print the configuration with every key, and end");
  app.add_flag_callback(
      "--help-config",
      [] {
        std::cout << options_table();
        throw CLI::Success();
      },
      "Print what every key of a configuration means and accepts, and end");
  tool::add_common_options(app, common);
  return tool::run(app, common, argc, argv, [&] { finetune(options, common.json); });
}
