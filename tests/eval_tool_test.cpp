// liger-eval as users run it: results, files, errors and exit codes.

#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "command.h"
#include "liger/core/checkpoint.h"
#include "liger/io/files.h"
#include "liger/io/json.h"
#include "model_folder.h"

namespace liger {
namespace {

using test::CommandResult;

class EvalTool : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new test::TemporaryFolder;
    test::write_model_folder(*shared_ / "plain");
    test::write_model_folder(*shared_ / "liger", test::short_window());
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name) << text; }
  CommandResult run(std::vector<std::string> arguments, const std::string& model = "plain") const {
    std::vector<std::string> all = {"--model", (*shared_ / model).string(), "--quiet", "--threads", "1"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return test::run_tool("liger-eval", all);
  }
  Json run_json(std::vector<std::string> arguments, const std::string& model = "plain") const {
    arguments.push_back("--json");
    const CommandResult result = run(std::move(arguments), model);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.err, "");
    return parse_json(result.out, "stdout");
  }
  std::string data() const { return folder_.path().string(); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  static test::TemporaryFolder* shared_;
  test::TemporaryFolder folder_;
};

test::TemporaryFolder* EvalTool::shared_ = nullptr;

constexpr const char* kTwoTexts = R"({"text": "Ada met the tiger near the harbour."}
{"text": "Nobody followed them across the river, and the long road home was dark, so they sang and told stories about lanterns, drums and maps until the morning came and the old mill turned again."}
)";

TEST_F(EvalTool, PerplexityOfAFile) {
  write("texts.jsonl", kTwoTexts);
  for (const char* model : {"plain", "liger"}) {
    const Json document = run_json({"--tasks", "perplexity", "--data", path("texts.jsonl")}, model);
    const Json& result = document.at("results").at("perplexity");
    EXPECT_GT(result.at("loss").get<double>(), 1.0);
    EXPECT_NEAR(result.at("perplexity").get<double>(), std::exp(result.at("loss").get<double>()), 1e-9);
    const auto tokenizer = Tokenizer::load(*shared_ / model);
    size_t tokens = 0;
    for (const Json& row : {parse_json(std::string(kTwoTexts).substr(0, std::string(kTwoTexts).find('\n')), "1"),
                            parse_json(std::string(kTwoTexts).substr(std::string(kTwoTexts).find('\n') + 1), "2")}) {
      tokens += tokenizer->encode(row.at("text").get<std::string>()).size();
    }
    EXPECT_EQ(result.at("tokens").get<size_t>(), tokens);
    EXPECT_EQ(document.at("n-samples").at("perplexity").at("effective"), 2);
  }
}

TEST_F(EvalTool, PerplexityIsTheSameInTextAndByBatch) {
  write("perplexity.test.jsonl", kTwoTexts);
  const Json one = run_json({"--tasks", "perplexity", "--data", data(), "--batch_size", "1"});
  const Json many = run_json({"--tasks", "perplexity", "--data", data(), "--batch_size", "auto"});
  const double loss = one.at("results").at("perplexity").at("loss").get<double>();
  EXPECT_NEAR(loss, many.at("results").at("perplexity").at("loss").get<double>(), 1e-6);
  const CommandResult text = run({"--tasks", "perplexity", "--data", data()});
  EXPECT_EQ(text.out.find("|Tasks"), 0u);
  char shown[32];
  std::snprintf(shown, sizeof shown, "%.4f", loss);
  EXPECT_NE(text.out.find(shown), std::string::npos) << text.out;
}

TEST_F(EvalTool, AttentionCanBeChosen) {
  write("perplexity.test.jsonl", kTwoTexts);
  const auto loss = [&](const std::string& model, std::vector<std::string> more) {
    more.insert(more.end(), {"--tasks", "perplexity", "--data", data()});
    return run_json(std::move(more), model).at("results").at("perplexity").at("loss").get<double>();
  };
  // The same weights in both folders.
  EXPECT_NEAR(loss("liger", {"--attention", "softmax"}), loss("plain", {}), 1e-6);
  EXPECT_NE(loss("liger", {}), loss("plain", {}));
  EXPECT_NEAR(loss("liger", {"--attention", "liger_gla"}), loss("liger", {}), 1e-6);
  EXPECT_NE(loss("plain", {"--attention", "liger_gla"}), loss("plain", {}));
}

TEST_F(EvalTool, MultipleChoiceWithSamples) {
  write("multiple_choice.test.jsonl", R"({"query": "Where is the map?", "choices": ["at the mill", "here"], "gold": 1}
{"query": "Where is the drum?", "choices": ["at the mill", "here", "gone"], "gold": 0}
{"query": "Where is Ada?", "choices": ["gone"], "gold": 0}
)");
  write("multiple_choice.train.jsonl", R"({"query": "Who?", "choices": ["Ada", "Chen"], "gold": 1}
{"query": "When?", "choices": ["now"], "gold": 0}
)");
  const Json document = run_json({"--tasks", "multiple_choice", "--data", data(), "--num_fewshot", "2", "--limit",
                                  "0.5", "--output_path", path("out"), "--log_samples"});
  EXPECT_EQ(document.at("n-shot").at("multiple_choice"), 2);
  EXPECT_EQ(document.at("n-samples").at("multiple_choice"), (Json{{"original", 3}, {"effective", 2}}));
  const Json& result = document.at("results").at("multiple_choice");
  EXPECT_EQ(result.at("sample_len"), 2);
  EXPECT_TRUE(result.at("acc_stderr,none").is_number());

  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_ / "out")) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  ASSERT_EQ(files.size(), 2u);
  std::sort(files.begin(), files.end());
  EXPECT_EQ(read_json(files[0]).at("results"), document.at("results"));
  const std::string samples = read_text(files[1]);
  const Json first = parse_json(samples.substr(0, samples.find('\n')), "samples");
  EXPECT_EQ(first.at("arguments").at("gen_args_1").at("arg_1"), " here");
  const std::string prompt = first.at("arguments").at("gen_args_0").at("arg_0").get<std::string>();
  EXPECT_TRUE(prompt.ends_with("\n\nWhere is the map?")) << prompt;
  EXPECT_EQ(first.at("prompt_hash"), sha256_hex(prompt));
  EXPECT_EQ(first.at("target"), "1");
  EXPECT_EQ(first.at("target_hash"), sha256_hex("1"));
  EXPECT_EQ(first.at("filtered_resps").size(), 2u);
}

TEST_F(EvalTool, LogitsOfGivenIds) {
  const at::Tensor ids = at::arange(12).reshape({2, 6}).contiguous();
  at::Tensor mask = at::ones({2, 6}, at::kLong);
  mask[0][0] = 0;
  mask[0][1] = 0;
  save_tensors(folder_ / "ids.safetensors", {{"input_ids", ids}, {"attention_mask", mask}});
  const CommandResult result =
      run({"--input-ids", path("ids.safetensors"), "--logits", path("out.safetensors"), "--dtype", "f64"}, "liger");
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const at::Tensor logits = load_tensors(folder_ / "out.safetensors").at("logits");
  EXPECT_EQ(logits.scalar_type(), at::kDouble);
  EXPECT_EQ(logits.size(0), 2);
  EXPECT_EQ(logits.size(1), 6);

  LoadOptions options;
  options.dtype = at::kDouble;
  const auto model = CausalLM::load(*shared_ / "liger", options);
  const at::NoGradGuard no_grad;
  const at::Tensor expected = model->logits(model->hidden_states(Sequences({{2, 3, 4, 5}})));
  EXPECT_TRUE(at::allclose(logits[0].narrow(0, 2, 4), expected, 1e-10, 1e-10));
  EXPECT_EQ(logits[0].narrow(0, 0, 2).abs().max().item<double>(), 0.0);
}

TEST_F(EvalTool, LogitsEqualTransformers) {
  const std::filesystem::path golden = std::filesystem::path(LIGER_TEST_DATA) / "golden" / "llama_rope3";
  const std::string ids = (golden / "expected.safetensors").string();
  const CommandResult result = test::run_tool(
      "liger-eval", {"--model", golden.string(), "--input-ids", ids, "--logits", path("out.safetensors"), "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(parse_json(result.out, "stdout"), (Json{{"logits", path("out.safetensors")}}));
  const auto expected = load_tensors(ids);
  const auto every_tenth = [](const at::Tensor& x) { return x.slice(1, 0, x.size(1), 10); };  // what the file keeps
  const at::Tensor mask = every_tenth(expected.at("attention_mask")).unsqueeze(-1);
  const at::Tensor wanted = expected.at("logits") * mask;
  const at::Tensor logits = every_tenth(load_tensors(folder_ / "out.safetensors").at("logits")) * mask;
  EXPECT_LT((logits - wanted).abs().max().item<double>(), 1e-5 * wanted.abs().max().item<double>());
}

TEST_F(EvalTool, Errors) {
  write("multiple_choice.test.jsonl", "{\"query\": \"a\", \"choices\": [\"1\"], \"gold\": 0}\n{\"query\": \n");
  write("piqa.validation.jsonl", "\n");
  write("texts.jsonl", R"({"text": ""})");
  write("other.jsonl", R"({"body": "x"})");
  const auto expect = [&](std::vector<std::string> arguments, int code, const std::string& text) {
    const CommandResult result = run(std::move(arguments));
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_NE(result.err.find(text), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  };
  expect({"--tasks", "arc_easy", "--data", data()}, 3, "arc_easy.test.jsonl: no such file");
  expect({"--tasks", "multiple_choice", "--data", data()}, 3, "multiple_choice.test.jsonl:2");
  expect({"--tasks", "piqa", "--data", data()}, 3, "no rows");
  expect({"--tasks", "perplexity", "--data", path("texts.jsonl")}, 3, "texts.jsonl:1: the text has no tokens");
  expect({"--tasks", "perplexity", "--data", path("other.jsonl")}, 3,
         "other.jsonl:1: doc_to_target: column 'text' is missing");
  expect({"--tasks", "perplexity", "--data", path("none.jsonl")}, 3, "none.jsonl: no such file or folder");
  expect({"--tasks", "piqa", "--data", path("texts.jsonl")}, 2, "is not a folder");
  expect({"--tasks", "pica", "--data", data()}, 2, "did you mean 'piqa'?");
  expect({"--tasks", "piqa", "--data", data(), "--limit", "0"}, 2, "--limit: expected a number above 0, got '0'");
  expect({"--tasks", "piqa", "--data", data(), "--batch_size", "many"}, 2, "--batch_size: expected");
  expect({"--tasks", "piqa", "--data", data(), "--log_samples"}, 2, "--log_samples needs --output_path");
  expect({"--tasks", "piqa"}, 2, "task piqa needs --data: a folder with piqa.validation.jsonl");
  expect({}, 2, "nothing to do");
  expect({"--input-ids", path("none.safetensors"), "--logits", path("out.safetensors")}, 4, "none.safetensors");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out.safetensors"));
}

TEST_F(EvalTool, BadIdsAreRefused) {
  const auto expect = [&](const std::map<std::string, at::Tensor>& tensors, const std::string& text) {
    save_tensors(folder_ / "ids.safetensors", tensors);
    const CommandResult result = run({"--input-ids", path("ids.safetensors"), "--logits", path("out.safetensors")});
    EXPECT_EQ(result.exit_code, 3) << result.err;
    EXPECT_NE(result.err.find(text), std::string::npos) << result.err;
    EXPECT_FALSE(std::filesystem::exists(folder_ / "out.safetensors"));
  };
  const at::Tensor ids = at::zeros({2, 3}, at::kLong), mask = at::ones({2, 3}, at::kLong);
  expect({{"ids", ids}}, "tensor 'input_ids' [B, T] int64 is missing");
  expect({{"input_ids", ids.to(at::kFloat)}}, "expected I64, got F32");
  expect({{"input_ids", ids.flatten()}}, "expected [B, T], got [6]");
  expect({{"input_ids", ids + 100000}}, "id 100000 is outside of the model's vocabulary");
  expect({{"input_ids", ids - 1}}, "id -1 is outside of the model's vocabulary");
  expect({{"input_ids", ids}, {"attention_mask", at::ones({2, 2}, at::kLong)}}, "expected [2, 3]");
  expect({{"input_ids", ids}, {"attention_mask", mask.to(at::kFloat)}}, "expected integers or BOOL");
  expect({{"input_ids", ids}, {"attention_mask", at::zeros({2, 3}, at::kLong)}}, "ids.safetensors");
}

}  // namespace
}  // namespace liger
