// liger-eval: perplexity and multiple-choice accuracy in lm-evaluation-harness's form, or raw logits.

#include <torch/nn/module.h>

#include <chrono>
#include <cstdio>
#include <iostream>

#include "liger/convert/calibration_text.h"
#include "liger/core/hub.h"
#include "liger/core/tensor_memory.h"
#include "liger/error.h"
#include "liger/eval/evaluate.h"
#include "liger/eval/logits.h"
#include "liger/eval/results.h"
#include "liger/generate/exits.h"
#include "liger/io/log.h"
#include "liger/io/tokenizer.h"
#include "liger/nn/causal_lm.h"
#include "model_arguments.h"
#include "tool.h"

namespace liger {
namespace {

struct Arguments {
  tool::CommonOptions common;
  tool::ModelArguments model;
  std::string attention, limit;
  std::filesystem::path output_path, input_ids, logits;
  std::string batch_size = "auto", softmax_dtype = "float32";
  EvalOptions eval;
  CalibrationText exit_text{.file = {}, .tokens = 16384};
  double exit_loss = 0.01;
};

constexpr const char* kDescription =
    "Scores a model on local data, equal to lm-evaluation-harness 0.4.13, without Python or a network.\n\n"
    "  liger-eval --model DIR --tasks perplexity --data stories.jsonl\n"
    "  liger-eval --model DIR --tasks piqa,arc_easy --data DIR --num_fewshot 5 --json\n"
    "  liger-eval --model DIR --input-ids ids.safetensors --logits out.safetensors --dtype f64\n\n"
    "Tasks read DIR/{task}.{split}.jsonl, rows as in the Hugging Face dataset: piqa (validation), arc_easy,\n"
    "arc_challenge, openbookqa (test), multiple_choice (test; rows {\"query\", \"choices\", \"gold\"}), perplexity\n"
    "(test; rows {\"text\"}); few-shot examples come from {task}.train.jsonl. Requests longer than the model's\n"
    "max_position_embeddings are cut on the left and longer documents read in rolling windows of that length, for\n"
    "Liger models too, as lm-evaluation-harness does.";

void add_options(CLI::App& app, Arguments& a) {
  tool::add_model_options(app, a.model);
  CLI::Option* tasks = app.add_option("--tasks", a.eval.tasks, "Tasks, separated by commas");
  tasks->delimiter(',')->option_text("A,B");
  CLI::Option* data = app.add_option("--data", a.eval.data, "Folder of the tasks' files, or perplexity's own file");
  data->option_text("DIR|FILE");
  tasks->needs(data);
  app.add_option("--num_fewshot", a.eval.num_fewshot, "Answered examples in front of every question")
      ->check(CLI::NonNegativeNumber)
      ->option_text("N");
  app.add_option("--limit", a.limit, "Rows per task: a number, or a share below 1")->option_text("N|0.x");
  app.add_option("--batch_size", a.batch_size, "Sequences at once; auto = by a budget of tokens")
      ->option_text("N|auto");
  app.add_option("--output_path", a.output_path, "Also write results_{time}.json under DIR/{model}")
      ->option_text("DIR");
  app.add_flag("--log_samples", a.eval.keep_samples, "With --output_path: every row's requests and scores as well");
  app.add_option("--softmax-dtype", a.softmax_dtype, "float32, or model to round as lm-evaluation-harness does")
      ->check(CLI::IsMember({"float32", "model"}))
      ->option_text("TYPE");
  app.add_option("--attention", a.attention, "Run the weights with softmax or liger_gla, whatever config.json says")
      ->check(CLI::IsMember({"softmax", "liger_gla"}))
      ->option_text("KIND");
  CLI::Option* ids = app.add_option("--input-ids", a.input_ids, "input_ids [B, T] (and attention_mask) to run");
  ids->option_text("FILE")->excludes(tasks);
  CLI::Option* logits = app.add_option("--logits", a.logits, "Where the logits [B, T, V] of --input-ids go");
  logits->option_text("FILE")->needs(ids);
  ids->needs(logits);
  CLI::Option* fit =
      app.add_option("--fit-exit", a.exit_text.file, "A recursive model's exit thresholds, on this text");
  fit->option_text("FILE")->excludes(tasks)->excludes(ids);
  app.add_option("--exit-loss", a.exit_loss, "Share of tokens that may be others than after all loops")
      ->needs(fit)
      ->option_text("X (0.01)");
  app.add_option("--fit-tokens", a.exit_text.tokens, "Tokens of it to read")->needs(fit)->option_text("N (16384)");
  tool::add_common_options(app, a.common);
}

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::shared_ptr<CausalLM> load_model(const Arguments& a, LoadOptions options, const std::filesystem::path& dir) {
  options.softmax = a.attention == "softmax";
  // A Liger model keeps its own window, sinks and mix; a plain one gets the defaults.
  if (a.attention == "liger_gla" && !ModelConfig::read(dir).liger) options.liger = LigerConfig{};
  return CausalLM::load(dir, options);
}

template <typename Number>
Number parse_number(const std::string& option, const std::string& text, const char* expected) {
  Number value{};
  LIGER_CHECK_USAGE(CLI::detail::lexical_cast(text, value) && value > 0, option, ": expected ", expected, ", got '",
                    text, "'");
  return value;
}

int64_t count_parameters(const CausalLM& model) {
  int64_t count = 0;
  for (const at::Tensor& parameter : model.parameters()) count += parameter.numel();
  return count;
}

void run_tasks(Arguments& a) {
  if (!a.limit.empty()) a.eval.limit = parse_number<double>("--limit", a.limit, "a number above 0");
  if (a.batch_size != "auto") {
    a.eval.scoring.batch_size = parse_number<int64_t>("--batch_size", a.batch_size, "a number above 0 or auto");
  }
  a.eval.scoring.model_softmax = a.softmax_dtype == "model";
  LIGER_CHECK_USAGE(!a.eval.keep_samples || !a.output_path.empty(), "--log_samples needs --output_path");
  RunDescription run;
  run.started = now();
  const LoadOptions options = tool::load_options(a.model);
  const std::filesystem::path dir = resolve_model(a.model.model);
  const std::vector<PreparedTask> tasks = prepare_tasks(a.eval);
  const auto tokenizer = Tokenizer::load(dir);
  const auto model = load_model(a, options, dir);
  std::vector<TaskResult> results;
  for (const PreparedTask& task : tasks) results.push_back(evaluate(*model, *tokenizer, task, a.eval));
  run.model = a.model.model;
  run.adapter = a.model.adapter.string();
  run.device = a.model.device;
  run.dtype = cat(model->dtype());
  run.batch_size = a.batch_size;
  run.limit = a.eval.limit;
  run.parameters = count_parameters(*model);
  run.max_length = max_length(*model);
  run.seconds = now() - run.started;
  const OrderedJson document = results_json(results, a.eval, run, *tokenizer);
  if (a.common.json) {
    tool::print_json(document);
  } else {
    std::cout << results_table(results) << std::flush;
  }
  if (!a.output_path.empty()) {  // after printing: what was computed is not lost if it cannot be written
    log_info("results written to " + write_results(a.output_path, results, document, run).string());
  }
}

// The loosest threshold of every rule, and what it does.
void run_fit_exit(Arguments& a) {
  const std::filesystem::path dir = resolve_model(a.model.model);
  const std::vector<Sequences> texts = read_calibration_text(a.exit_text, *Tokenizer::load(dir));
  const auto model = load_model(a, tool::load_options(a.model), dir);
  OrderedJson document = OrderedJson::object();
  if (!a.common.json) std::cout << "rule             threshold   mean loops   same token   left after each loop\n";
  for (const ExitRule rule : {ExitRule::kMargin, ExitRule::kEntropy, ExitRule::kPatience}) {
    const ExitOutcome found = fit_exit(*model, texts, rule, a.exit_loss);
    std::string left;
    for (const int64_t n : found.left) {
      char share[16];
      std::snprintf(share, sizeof share, " %5.1f %%",
                    100 * static_cast<double>(n) / static_cast<double>(found.tokens()));
      left += share;
    }
    const bool never = found.policy.is_never();
    document[to_string(rule)] = {{"threshold", never ? OrderedJson("never") : OrderedJson(found.policy.threshold)},
                                 {"tokens", found.tokens()},
                                 {"mean_loops", found.mean_loops()},
                                 {"agreement", found.agreement()},
                                 {"left", found.left}};
    if (a.common.json) continue;
    char threshold[32] = "never", line[96];
    if (!never) std::snprintf(threshold, sizeof threshold, "%.16g", found.policy.threshold);
    std::snprintf(line, sizeof line, "%-8s %18s %12.3f %10.2f %% ", to_string(rule), threshold, found.mean_loops(),
                  100 * found.agreement());
    std::cout << line << left << "\n";
  }
  if (a.common.json) tool::print_json(document);
}

void run(Arguments& a) {
  keep_tensor_memory();  // every pass asks for the same again
  if (!a.exit_text.file.empty()) return run_fit_exit(a);
  if (!a.input_ids.empty()) {
    const auto model = load_model(a, tool::load_options(a.model), resolve_model(a.model.model));
    write_logits(*model, a.input_ids, a.logits);
    if (a.common.json) tool::print_json({{"logits", a.logits.string()}});
    return;
  }
  LIGER_CHECK_USAGE(!a.eval.tasks.empty(),
                    "nothing to do: give --tasks with --data, --input-ids with --logits, or --fit-exit");
  run_tasks(a);
}

}  // namespace
}  // namespace liger

int main(int argc, char** argv) {
  CLI::App app(liger::kDescription, "liger-eval");
  liger::Arguments arguments;
  liger::add_options(app, arguments);
  return liger::tool::run(app, arguments.common, argc, argv, [&] { liger::run(arguments); });
}
