// liger-eval: perplexity and multiple-choice accuracy in lm-evaluation-harness's form, or raw logits.

#include <torch/nn/module.h>

#include <chrono>
#include <cstdio>
#include <iostream>

#include "liger/convert/calibration_text.h"
#include "liger/core/tensor_memory.h"
#include "liger/error.h"
#include "liger/eval/evaluate.h"
#include "liger/eval/logits.h"
#include "liger/eval/response_log.h"
#include "liger/eval/results.h"
#include "liger/generate/exits.h"
#include "liger/io/log.h"
#include "liger/io/manifest.h"
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
  bool write_out = false, write_manifest = false;
  std::filesystem::path output_path, use_cache, input_ids, logits;
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
    "Tasks (--tasks list): piqa, arc_easy, arc_challenge, hellaswag, winogrande, openbookqa, mmlu, lambada_openai,\n"
    "wikitext; multiple_choice and perplexity for rows of your own; the suites liger and recursive; and YAML files in\n"
    "lm-evaluation-harness's keys. Rows are those of the Hugging Face dataset, in DIR/{task}.{split}.jsonl. Requests\n"
    "longer than the model's max_position_embeddings are cut on the left and longer documents read in rolling windows\n"
    "of that length, for Liger models too, as lm-evaluation-harness does.";

void add_options(CLI::App& app, Arguments& a) {
  tool::add_model_options(app, a.model);
  app.get_option("--model")->required(false);  // a list of tasks needs none
  CLI::Option* tasks = app.add_option("--tasks", a.eval.tasks, "Tasks, groups, patterns (mmlu_*) or YAML files; list");
  tasks->delimiter(',')->option_text("A,B");
  app.add_option("--data", a.eval.data, "Folder of the tasks' files, or perplexity's own file")
      ->option_text("DIR|FILE");
  app.add_option("--include_path", a.eval.include_paths, "Folder of YAML files with tasks of your own")
      ->option_text("DIR");
  app.add_option("--num_fewshot", a.eval.num_fewshot, "Answered examples in front; default what the task says, or 0")
      ->check(CLI::NonNegativeNumber)
      ->option_text("N");
  app.add_option("--limit", a.limit, "Rows per task: a number, or a share below 1")->option_text("N|0.x");
  app.add_option("--batch_size", a.batch_size, "Sequences at once; auto = by a budget of tokens")
      ->option_text("N|auto");
  app.add_option("--fewshot_seed", a.eval.fewshot_seed, "Of the draw of examples")->option_text("N (1234)");
  app.add_option("--system_instruction", a.eval.system_instruction, "Text in front of every context")
      ->option_text("TEXT");
  app.add_option("--apply_chat_template", a.eval.chat_template, "Contexts as conversations: auto or a template's name")
      ->option_text("NAME");
  app.add_flag("--fewshot_as_multiturn", a.eval.fewshot_as_multiturn, "Of these, examples as turns of their own");
  app.add_flag("--write_manifest", a.write_manifest, "Write MANIFEST.json, the hashes of what is in --data, and end");
  app.add_flag("--write_out", a.write_out, "Show the first requests of every task and end");
  app.add_option("--output_path", a.output_path, "Also write results_{time}.json under DIR/{model}")
      ->option_text("DIR");
  app.add_flag("--log_samples", a.eval.keep_samples, "With --output_path: every row's requests and scores as well");
  app.add_option("--use_cache", a.use_cache, "Keep every answer here, and do not ask again what is answered")
      ->option_text("FILE");
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

// What the first row of every task asks.
void show_requests(const PreparedTasks& tasks) {
  for (const PreparedTask& task : tasks.tasks) {
    const Document& first = task.documents.front();
    std::cout << "---- " << task.task->name << ", row 0 of " << task.documents.size() << ", " << task.shots
              << "-shot\n";
    for (size_t i = 0; i < first.continuations.size(); ++i) {
      if (i == 0 || first.contexts.size() > 1) {
        if (!first.contexts.empty()) std::cout << first.context(i) << "\n";
      }
      std::cout << "  -> " << OrderedJson(first.continuations[i]).dump() << "\n";
    }
  }
}

void list_tasks(const EvalOptions& options) {
  for (const auto& [name, kind] : TaskIndex(options.include_paths).names()) {
    if (kind == "task") std::cout << name << "\n";
    if (kind != "task") std::cout << name << "  (" << kind << ")\n";
  }
}

// What decides the answers besides the requests.
std::string fingerprint(const Arguments& a, const std::filesystem::path& dir, const std::string& dtype) {
  const std::string adapter = a.model.adapter.empty() ? "" : model_fingerprint(a.model.adapter, "");
  return model_fingerprint(
      dir, cat(adapter, " ", dtype, " ", a.model.device, " ", a.model.backend, " ", a.attention, " ", a.softmax_dtype));
}

// Without --use_cache beside the results, for as long as there are none.
ResponseLog open_log(const Arguments& a, const std::string& fingerprint) {
  const std::string name = cat("unfinished_", fingerprint.substr(0, 12), ".jsonl");
  return {a.use_cache.empty() ? results_folder(a.output_path, a.model.model) / name : a.use_cache, fingerprint};
}

Evaluation evaluate_resumably(CausalLM& model, const Tokenizer& tokenizer, const PreparedTasks& tasks,
                              const EvalOptions& options, std::optional<ResponseLog>& log) {
  if (log && log->found() > 0) log_info(cat(log->file().string(), ": ", log->found(), " answers from before"));
  try {
    return evaluate(model, tokenizer, tasks, options, log ? &*log : nullptr);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kCancelled || !log || log->size() == 0) throw;
    fail(ErrorCode::kInterrupted, "interrupted; ", log->size(), " answers are kept in ", log->file().string(),
         ", and the same command goes on from there");
  }
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
  const bool plain = a.eval.chat_template.empty();  // then rows are checked before a model is looked for
  PreparedTasks tasks;
  if (plain) tasks = prepare_tasks(a.eval);
  if (plain && a.write_out) return show_requests(tasks);
  const std::filesystem::path dir = tool::model_folder(a.model);
  const auto tokenizer = Tokenizer::load(dir);
  if (!plain) tasks = prepare_tasks(a.eval, tokenizer.get());
  if (a.write_out) return show_requests(tasks);
  const auto model = load_model(a, options, dir);
  std::optional<ResponseLog> log;
  if (!a.use_cache.empty() || !a.output_path.empty())
    log.emplace(open_log(a, fingerprint(a, dir, cat(model->dtype()))));
  const Evaluation evaluation = evaluate_resumably(*model, *tokenizer, tasks, a.eval, log);
  run.model = a.model.model;
  run.adapter = a.model.adapter.string();
  run.device = a.model.device;
  run.dtype = cat(model->dtype());
  run.batch_size = a.batch_size;
  run.limit = a.eval.limit;
  run.parameters = count_parameters(*model);
  run.max_length = max_length(*model);
  run.seconds = now() - run.started;
  const OrderedJson document = results_json(evaluation, a.eval, run, *tokenizer);
  if (a.common.json) {
    tool::print_json(document);
  } else {
    std::cout << results_table(evaluation) << std::flush;
  }
  if (a.output_path.empty()) return;
  const std::filesystem::path folder = results_folder(a.output_path, run.model);
  write_results(folder, evaluation, document, run);  // after printing: what was computed is not lost if it fails
  log_info("results written to " + folder.string());
  if (a.use_cache.empty()) log->remove();
}

// The loosest threshold of every rule, and what it does.
void run_fit_exit(Arguments& a) {
  const std::filesystem::path dir = tool::model_folder(a.model);
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
    const auto model = load_model(a, tool::load_options(a.model), tool::model_folder(a.model));
    write_logits(*model, a.input_ids, a.logits);
    if (a.common.json) tool::print_json({{"logits", a.logits.string()}});
    return;
  }
  if (a.eval.tasks == std::vector<std::string>{"list"}) return list_tasks(a.eval);
  if (a.write_manifest) {
    LIGER_CHECK_USAGE(std::filesystem::is_directory(a.eval.data), "--write_manifest needs --data: a folder");
    return liger::write_manifest(a.eval.data);
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
