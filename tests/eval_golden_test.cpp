// Every task against what lm-evaluation-harness made of the same model and rows (tests/compare/eval_parity.py
// --goldens): texts by their hashes, scores, metrics, means of groups.

#include <gtest/gtest.h>

#include <cmath>

#include "liger/eval/evaluate.h"
#include "liger/eval/results.h"
#include "liger/io/json.h"
#include "liger/io/tokenizer.h"
#include "liger/nn/causal_lm.h"

namespace liger {
namespace {

std::filesystem::path folder() { return std::filesystem::path(LIGER_TEST_DATA) / "golden/eval"; }

class EvalGolden : public testing::TestWithParam<int64_t> {};

void expect_metrics(const std::string& name, const Json& result, const Json& expected) {
  for (const auto& metric : expected.items()) {
    const Json& value = result.at(metric.key());
    if (metric.value().is_string()) {
      EXPECT_EQ(value, metric.value()) << name << " " << metric.key();
      continue;
    }
    const auto wanted = metric.value().get<double>();
    EXPECT_NEAR(value.get<double>(), wanted, 2e-5 * std::max(1.0, std::abs(wanted))) << name << " " << metric.key();
  }
}

void expect_sample(const std::string& name, const OrderedJson& sample, const Json& expected) {
  EXPECT_EQ(sample.at("doc_hash"), expected.at("hashes")[0]) << name;
  EXPECT_EQ(sample.at("prompt_hash"), expected.at("hashes")[1]) << name;
  EXPECT_EQ(sample.at("target_hash"), expected.at("hashes")[2]) << name;
  const OrderedJson& answers = sample.at("filtered_resps");
  ASSERT_EQ(answers.size(), expected.at("scores").size()) << name;
  for (size_t i = 0; i < answers.size(); ++i) {
    const bool pair = answers[i].is_array();
    const double score = std::stod((pair ? answers[i][0] : answers[i]).get<std::string>());
    const auto wanted = expected.at("scores")[i][0].get<double>();
    EXPECT_NEAR(score, wanted, pair ? 1e-4 : 1e-6 * std::abs(wanted)) << name << " request " << i;
    if (!pair) continue;
    EXPECT_EQ(answers[i][1] == "True", expected.at("scores")[i][1].get<bool>()) << name << " request " << i;
  }
}

TEST_P(EvalGolden, EveryTaskEqualsLmEval) {
  const Json expected = read_json(folder() / "expected.json").at(std::to_string(GetParam()));
  EvalOptions options;
  options.include_paths = {folder() / "tasks"};
  options.data = folder() / "data";
  options.num_fewshot = GetParam();
  options.keep_samples = true;
  for (const auto& task : expected.at("tasks").items()) options.tasks.push_back(task.key());
  for (const auto& group : expected.at("groups").items()) options.tasks.push_back(group.key());
  const PreparedTasks prepared = prepare_tasks(options);
  LoadOptions load;
  load.dtype = at::kFloat;
  const auto model = CausalLM::load(folder() / "model", load);
  const auto tokenizer = Tokenizer::load(folder() / "model");
  const Evaluation evaluation = evaluate(*model, *tokenizer, prepared, options);
  const Json document = Json::parse(results_json(evaluation, options, {}, *tokenizer).dump());
  EXPECT_EQ(evaluation.tasks.size(), expected.at("tasks").size());
  for (const TaskResult& result : evaluation.tasks) {
    const Json& task = expected.at("tasks").at(result.task->name);
    expect_metrics(result.task->name, document.at("results").at(result.task->name), task.at("metrics"));
    ASSERT_EQ(result.samples.size(), task.at("rows").size()) << result.task->name;
    for (size_t i = 0; i < result.samples.size(); ++i)
      expect_sample(result.task->name + " row " + std::to_string(i), result.samples[i], task.at("rows")[i]);
  }
  for (const auto& group : expected.at("groups").items())
    expect_metrics(group.key(), document.at("groups").at(group.key()), group.value());
}

INSTANTIATE_TEST_SUITE_P(Shots, EvalGolden, testing::Values(0, 5));

}  // namespace
}  // namespace liger
