#include "request_batch.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <iostream>

#include "liger/error.h"
#include "liger/io/jsonl.h"
#include "liger/io/log.h"
#include "liger/nn/causal_lm.h"
#include "tool.h"

namespace liger::tool {
namespace {

struct Named {
  Request request;
  Json id;
};

double number(const Json& row, const char* key, double fallback, const std::string& where) {
  if (!row.contains(key)) return fallback;
  const bool good = row[key].is_number() && std::isfinite(row[key].get<double>()) && row[key].get<double>() >= 0;
  LIGER_CHECK(good, where, ": '", key, "': expected a number, 0 or more, got ", row[key].dump());
  return row[key].get<double>();
}

ExitPolicy exit_policy(ExitRule rule, const std::string& threshold) {
  if (threshold == "never") return ExitPolicy::never(rule);
  double value = 0;
  const auto [end, error] = std::from_chars(threshold.data(), threshold.data() + threshold.size(), value);
  LIGER_CHECK_USAGE(error == std::errc() && end == threshold.data() + threshold.size(),
                    "--exit-threshold: expected a number, or never, got '", threshold, "'");
  return {rule, value};
}

std::vector<Named> read_requests(const std::string& file, const Tokenizer& tokenizer, int64_t max_tokens) {
  std::vector<Named> out;
  JsonlReader reader(file);
  while (const auto row = reader.next()) {
    const std::string where = reader.where();
    for (const auto& item : row->items()) {
      const std::string& key = item.key();
      LIGER_CHECK(key == "prompt" || key == "max_tokens" || key == "arrival" || key == "id", where, ": unknown key '",
                  key, "'; expected prompt, max_tokens, arrival, id");
    }
    const double count = number(*row, "max_tokens", static_cast<double>(max_tokens), where);
    LIGER_CHECK(count >= 1 && count == std::floor(count) && count < 1e9, where,
                ": 'max_tokens': expected a whole number, 1 or more, got ", row->at("max_tokens").dump());
    out.push_back({.request = {.prompt = encode_prompt(tokenizer, string_field(*row, "prompt", where)),
                               .max_tokens = static_cast<int64_t>(count),
                               .arrival = number(*row, "arrival", 0, where)},
                   .id = row->value("id", Json(out.size()))});
  }
  LIGER_CHECK(!out.empty(), file, ": no requests there; expected a line such as {\"prompt\": \"Once\"}");
  return out;
}

// What follows the prompt.
std::string text_after(const std::vector<int64_t>& prompt, const std::vector<int64_t>& tokens,
                       const Tokenizer& tokenizer) {
  StreamDecoder decoder(tokenizer, prompt);
  std::string text;
  for (const int64_t id : tokens) text += decoder.push(id);
  return text + decoder.flush();
}

OrderedJson to_json(const Named& named, const Answer& answer, const Tokenizer& tokenizer) {
  return {{"id", named.id},
          {"text", text_after(named.request.prompt, answer.tokens, tokenizer)},
          {"finish_reason", answer.finish_reason},
          {"prompt_tokens", named.request.prompt.size()},
          {"generated_tokens", answer.tokens.size()},
          {"waited_seconds", answer.admitted - named.request.arrival},
          {"first_token_seconds", answer.first_token - named.request.arrival},
          {"seconds", answer.finished - named.request.arrival}};
}

void print_stats(const EngineStats& s) {
  const auto n = [](int64_t x) { return static_cast<double>(x); };
  char line[256];
  std::snprintf(
      line, sizeof line,
      "%lld tokens in %.2f s (%.1f tokens/s), prompts %.2f s; %lld passes of %.1f tokens, %.1f %% of them made "
      "up later\n",
      static_cast<long long>(s.tokens), s.seconds, n(s.tokens) / s.seconds, s.prefill_seconds,
      static_cast<long long>(s.passes), n(s.rows) / n(std::max<int64_t>(1, s.passes)),
      100 * n(s.backfill) / n(std::max<int64_t>(1, s.rows)));
  std::cerr << line;
  for (size_t i = 0; i < s.left.size() && s.left.size() > 1; ++i) {
    std::snprintf(line, sizeof line, "  left after loop %zu: %.1f %%\n", i + 1,
                  100 * n(s.left[i]) / n(std::max<int64_t>(1, s.tokens)));
    std::cerr << line;
  }
}

}  // namespace

void RequestBatch::add_to(CLI::App& app) {
  const char* const group = "Many requests at once";
  CLI::Option* file =
      app.add_option("--requests", file_, "JSON lines of prompt, max_tokens, arrival (s), id: answers them all");
  file->option_text("FILE")->group(group)->excludes("--prompt")->excludes("--file");
  const auto option = [&](const char* name, auto& value, const char* text, const char* shown) {
    return app.add_option(name, value, text)->group(group)->needs(file)->option_text(shown);
  };
  option("--batch", batch_, "Texts at a time", "N (8)")->check(CLI::Range(1, 65536));
  option("--batching", batching_,
         "Places are filled again: depth: between loops, sequence: between tokens, static: all at once", "NAME (depth)")
      ->check(CLI::IsMember({"static", "sequence", "depth"}));
  CLI::Option* rule =
      option("--exit", exit_, "A token may leave a recursive model early: margin, entropy, patience", "RULE");
  rule->check(CLI::IsMember({"margin", "entropy", "patience"}));
  option("--exit-threshold", threshold_, "How sure it must be, or never; liger-eval --fit-exit finds one", "X")
      ->needs(rule);
  rule->needs("--exit-threshold");
  option("--backfill", backfill_, "Loops left out: exact: made up later; propagate: filled with what there is",
         "NAME (exact)")
      ->check(CLI::IsMember({"exact", "propagate"}));
  option("--memory", memory_, "Of keys, values, states and waiting tokens of all texts, as 2GB; without: no limit",
         "SIZE")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true));
}

void RequestBatch::run(CausalLM& model, const Tokenizer& tokenizer, const GenerateOptions& generate,
                       const CommonOptions& common) const {
  const std::vector<Named> named = read_requests(file_, tokenizer, generate.max_tokens);
  EngineOptions options{.batching = batching_from_name(batching_), .batch = batch_};
  if (!exit_.empty()) options.exit = exit_policy(exit_rule_from_name(exit_), threshold_);
  if (backfill_ == "propagate") options.backfill = Backfill::kPropagate;
  options.memory = static_cast<int64_t>(memory_);
  if (!generate.ignore_eos) options.end_ids = end_ids(model, tokenizer);
  std::vector<Request> requests;
  for (const Named& one : named) requests.push_back(one.request);
  Engine engine(model, options);
  Progress progress("answering", std::ssize(requests));
  int64_t done = 0;
  engine.run(requests, [&](size_t i, const Answer& answer) {
    std::cout << to_json(named[i], answer, tokenizer).dump(-1, ' ', false, OrderedJson::error_handler_t::replace)
              << std::endl;
    progress.update(++done);
  });
  progress.finish();
  const EngineStats& s = engine.stats();
  if (common.json) {
    std::cerr << OrderedJson{{"tokens", s.tokens},
                             {"seconds", s.seconds},
                             {"prefill_seconds", s.prefill_seconds},
                             {"layer_seconds", s.layer_seconds},
                             {"judge_seconds", s.judge_seconds},
                             {"passes", s.passes},
                             {"rows", s.rows},
                             {"judged", s.judged},
                             {"backfill", s.backfill},
                             {"left", s.left},
                             {"most_bytes", s.most_bytes}}
                     .dump()
              << "\n";
  } else if (!common.quiet) {
    print_stats(s);
  }
}

}  // namespace liger::tool
