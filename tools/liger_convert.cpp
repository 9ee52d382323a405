// liger-convert: turns a pretrained Transformer's attention into gated linear recurrence, and back.

#include <chrono>
#include <cstdio>
#include <iostream>

#include "liger/convert/convert.h"
#include "liger/core/hub.h"
#include "liger/error.h"
#include "liger/io/log.h"
#include "tool.h"

namespace {

using namespace liger;

struct Options {
  tool::CommonOptions common;
  ConvertOptions convert;
  std::string model, dtype;
  uint64_t shard_size = 0;
  bool dry_run = false;
};

std::string human_bytes(uint64_t bytes) {
  const char* const units[] = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < std::size(units); ++unit) value /= 1000;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 || value >= 99.5 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

void add_options(CLI::App& app, Options& o) {
  app.add_option("--model", o.model, "A Hugging Face folder, \"org/name\", or llama3-8b, gemma-2b, tinyllama ...")
      ->required()
      ->option_text("NAME|DIR");
  app.add_option("--arch", o.convert.arch, "gla: linearize; softmax: turn a linearized model back")
      ->required()
      ->check(CLI::IsMember({"gla", "softmax"}))
      ->option_text("ARCH");
  app.add_option("--out", o.convert.out, "New folder; by default ./<model's name>-liger-gla")->option_text("DIR");
  app.add_flag("--overwrite", o.convert.overwrite, "Replace an output that liger wrote earlier");
  app.add_flag("--dry-run", o.dry_run, "Check everything, print what would be done, write nothing");
  app.add_option("--dtype", o.dtype, "Convert the weights: bf16, f16 or f32. Without: they are linked, not copied")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->option_text("TYPE");
  app.add_option("--shard-size", o.shard_size, "Divide the weights into files of at most this size; 5GB with --dtype")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->option_text("SIZE");
  LigerConfig& liger = o.convert.liger;
  const auto setting = [&](const char* name, auto& value, const char* text) {
    app.add_option(name, value, text)->group("Liger attention (stored in config.json)")->capture_default_str();
  };
  setting("--window", liger.window, "Keys a query sees in the softmax branch, itself included");
  setting("--sinks", liger.sinks, "First tokens of the text that every query sees as well");
  setting("--mix", liger.mix, "Share of the softmax branch in the output, 0 to 1");
  setting("--gate-divisor", liger.gate_divisor, "log-decay = logsigmoid(k) / this");
  app.footer(
      "The default window counts 65 keys, as the released checkpoints do (their 64 counts the keys before the\n"
      "query); the paper's Eq. 10 says 64. Example: liger-convert --model llama3-8b --arch gla --dry-run");
}

void check_options(const CLI::App& app, Options& o) {
  LIGER_CHECK_USAGE(app.count("--shard-size") == 0 || o.shard_size > 0, "--shard-size: expected 1 byte or more, got 0");
  if (o.convert.arch == "softmax") {
    for (const char* name : {"--window", "--sinks", "--mix", "--gate-divisor"}) {
      LIGER_CHECK_USAGE(app.count(name) == 0, name, " has no meaning with --arch softmax");
    }
  }
  if (o.dtype == "f32") o.convert.dtype = Dtype::kF32;
  if (o.dtype == "f16") o.convert.dtype = Dtype::kF16;
  if (o.dtype == "bf16") o.convert.dtype = Dtype::kBF16;
  if (o.shard_size > 0) o.convert.shard_size = o.shard_size;
}

void print_plan(const ConvertPlan& plan) {
  std::cout << plan.options.model.string() << " -> " << plan.options.out.string() << " (nothing is written)\n";
  for (const PlannedFile& file : plan.files) {
    char line[64];
    std::snprintf(line, sizeof line, "  %-8s %9s  ", to_string(file.action), human_bytes(file.bytes).c_str());
    std::cout << line << file.name << "\n";
  }
  std::cout << "config.json:\n";
  for (const std::string& change : plan.config_changes) std::cout << "  " << change << "\n";
  std::cout << "disk: " << human_bytes(plan.bytes_written) << " to write; memory: about "
            << human_bytes(plan.peak_memory_bytes) << "\n";
}

void print_result(const ConvertPlan& plan, const std::filesystem::path& out, double seconds) {
  uint64_t linked = 0, written = 0;
  for (const PlannedFile& file : plan.files) (file.action == FileAction::kLink ? linked : written) += file.bytes;
  char time[32];
  std::snprintf(time, sizeof time, "%.1f", seconds);
  std::cout << out.string() << ": " << human_bytes(linked) << " linked, " << human_bytes(written) << " written in "
            << time << " s\n";
  if (plan.options.arch != "softmax") {
    std::cout << "next: liger-finetune configs/lora.yaml --set model.path=" << plan.options.out.string() << "\n";
  }
}

void convert(Options& o) {
  o.convert.model = resolve_model(o.model);
  const ConvertPlan plan = plan_conversion(o.convert);
  for (const std::string& warning : plan.warnings) log_warning(warning);
  const auto start = std::chrono::steady_clock::now();
  const std::filesystem::path out = o.dry_run ? plan.options.out : run_conversion(plan);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (o.common.json) {
    OrderedJson document = to_json(plan);
    document["out"] = out.string();
    document["dry_run"] = o.dry_run;
    if (!o.dry_run) document["seconds"] = seconds;
    tool::print_json(document);
  } else if (o.dry_run) {
    print_plan(plan);
  } else {
    print_result(plan, out, seconds);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Turns a pretrained Transformer's attention into gated linear recurrence (Liger), and back.",
               "liger-convert");
  Options options;
  add_options(app, options);
  tool::add_common_options(app, options.common);
  return tool::run(app, options.common, argc, argv, [&] {
    check_options(app, options);
    convert(options);
  });
}
