// What the tools do with configurations, data and adapters that are wrong: exit 2 or 3, one line on stderr that says
// where and what, nothing written, and little time and memory. One row of a table a case.

#include <ATen/ops/full.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>

#include "liger/core/checkpoint.h"
#include "liger/error.h"
#include "liger/io/manifest.h"
#include "train_test_util.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::CommandResult;
using test::slurp;

constexpr int kUsage = 2, kBadInput = 3;
constexpr int64_t kMegabyte = int64_t{1} << 20;

std::string repeat(const std::string& piece, size_t times) {
  std::string out;
  for (size_t i = 0; i < times; ++i) out += piece;
  return out;
}

/// A folder with a model, rows, a configuration and an adapter, all of them good.
class BadInput : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new test::TemporaryFolder;
    test::write_tiny_model(*folder_ / "model");
    test::write_text_rows(*folder_ / "rows.jsonl", 40);
    write_text_atomic(*folder_ / "run.yaml", test::tiny_run(folder_->path()));
    const CommandResult good = finetune({"run.yaml", "--json"});
    ASSERT_EQ(good.exit_code, 0) << good.err;
    fs::rename(*folder_ / "run" / "final", *folder_ / "adapter");
    fs::remove_all(*folder_ / "run");
    own_ = good;
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }

  static CommandResult finetune(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--threads", "1"});
    return test::run_tool("liger-finetune", arguments, {.directory = folder_->path()});
  }
  static std::string tiny(const std::string& from = "", const std::string& to = "") {
    std::string yaml = test::tiny_run(folder_->path());
    if (!from.empty()) yaml.replace(yaml.find(from), from.size(), to);
    return yaml;
  }
  static std::set<std::string> listing() {
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(folder_->path())) names.insert(entry.path().string());
    return names;
  }

  /// Runs the tool and holds it to all of the above. `bytes`: of the file that is wrong.
  static void expect_refused(const std::string& what, const std::string& tool, std::vector<std::string> arguments,
                             int code, const std::vector<std::string>& parts, int64_t bytes) {
    SCOPED_TRACE(what);
    const auto before = listing();
    arguments.insert(arguments.end(), {"--threads", "1"});
    const CommandResult result = test::run_tool(tool, arguments, {.directory = folder_->path()});
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_EQ(result.out, "");
    const size_t at = result.err.rfind("error: ");
    ASSERT_NE(at, std::string::npos) << result.err;
    EXPECT_EQ(result.err.find('\n', at), result.err.size() - 1) << "one line, the last one: " << result.err;
    EXPECT_LT(result.err.size() - at, 1500u) << result.err;
    for (const std::string& part : parts) EXPECT_NE(result.err.find(part, at), std::string::npos) << result.err;
    EXPECT_EQ(listing(), before);
    EXPECT_LT(result.peak_memory, own_.peak_memory + 2 * bytes + 64 * kMegabyte) << "its own is " << own_.peak_memory;
    EXPECT_LT(result.cpu_seconds, own_.cpu_seconds + 2);
  }

  static test::TemporaryFolder* folder_;
  static CommandResult own_;  // of a good run: time and memory that are the tool's own
};
test::TemporaryFolder* BadInput::folder_ = nullptr;
CommandResult BadInput::own_;

TEST_F(BadInput, Configurations) {
  const auto train = [](const std::string& keys) { return tiny("train: {", "train: {" + keys + ", "); };
  std::string laughs = "a0: &a0 ha\n";
  for (int i = 1; i < 30; ++i) laughs += cat("a", i, ": &a", i, " [*a", i - 1, ", *a", i - 1, "]\n");
  struct Case {
    const char* name;
    std::string yaml;
    std::vector<std::string> parts;
    std::vector<std::string> arguments = {};
  };
  const std::vector<Case> cases = {
      {"unknown key", train("learning_rat: 1"), {"bad.yaml:4:9: unknown key 'learning_rat'"}},
      {"duplicate key", train("lr: 1"), {"bad.yaml:4:", "duplicate key 'lr', first at bad.yaml:4:9"}},
      {"wrong type", tiny("lr: 1e-2", "lr: fast"), {"bad.yaml:4:", "'train.lr': expected a number, got text 'fast'"}},
      {"tab", tiny("train: {", "\ttrain: {"), {"bad.yaml:4:1: a tab"}},
      {"alias", train("min_lr: *x"), {"bad.yaml:4:17: "}},
      {"cyclic alias", tiny() + "x: &x [*x]\n", {"bad.yaml:6:4: anchors"}},
      {"laughs", laughs, {"bad.yaml:1:5: anchors"}},
      {"nesting", "a: " + repeat("[", 100'000) + repeat("]", 100'000), {"bad.yaml:1:67: nesting deeper than 64"}},
      {"deep and large", "a: " + repeat("[", 1'000'000), {"bad.yaml: expected at most 262144 bytes, got 1000003"}},
      {"second document", tiny() + "---\na: 1\n", {"bad.yaml:6:1: a second document"}},
      {"number with a tail", tiny("lr: 1e-2", "lr: 1e-3x"), {"'train.lr': expected a number, got text '1e-3x'"}},
      {"not a number", tiny("lr: 1e-2", "lr: .nan"), {"bad.yaml:4:", "'.nan': numbers must be finite"}},
      {"infinite", tiny("lr: 1e-2", "lr: .inf"), {"bad.yaml:4:", "'.inf': numbers must be finite"}},
      {"negative", tiny("lr: 1e-2", "lr: -1e-3"), {"'train.lr': expected more than 0, got -0.001"}},
      {"integer overflow", tiny("max_steps: 8", "max_steps: 99999999999999999999"), {"bad.yaml:4:", "does not fit"}},
      {"bad UTF-8", tiny() + "# \xc3\x28\n", {"bad.yaml:6:3: not valid UTF-8"}},
      {"NUL", tiny() + std::string("\0", 1), {"bad.yaml:6:1: control character \\x00"}},
      {"10 MB", tiny() + std::string(10 * kMegabyte, '#'), {"bad.yaml: expected at most 262144 bytes"}},
      {"--set without =", tiny(), {"--set train.lr: expected key=value"}, {"--set", "train.lr"}},
      {"--set into a list", tiny(), {"'lora.targets' is a list"}, {"--set", "lora.targets.0=q_proj"}},
      {"--set twice", tiny(), {"'train.lr' is set twice"}, {"--set", "train.lr=1", "--set", "train.lr=2"}},
  };
  write_text_atomic(*folder_ / "bad.yaml", "");
  for (const Case& c : cases) {
    write_text_atomic(*folder_ / "bad.yaml", c.yaml);
    std::vector<std::string> arguments = {"bad.yaml"};
    arguments.insert(arguments.end(), c.arguments.begin(), c.arguments.end());
    expect_refused(c.name, "liger-finetune", arguments, kUsage, c.parts, std::ssize(c.yaml));
  }
}

std::string gzip_of(const std::string& piece, int times) {
  const test::TemporaryFolder folder;
  const gzFile out = gzopen((folder / "a").c_str(), "wb9");
  for (int i = 0; i < times; ++i) gzwrite(out, piece.data(), static_cast<unsigned>(piece.size()));
  EXPECT_EQ(gzclose(out), Z_OK);
  return slurp(folder / "a");
}

TEST_F(BadInput, TrainingData) {
  const std::string good = "{\"text\": \"a b c\"}\n", text = OrderedJson{{"text", std::string(100, 'x')}}.dump() + "\n";
  const std::string prompt = OrderedJson{{"prompt", std::string(90, 'x')}, {"completion", "y"}}.dump() + "\n";
  struct Case {
    const char* name;
    std::string file, bytes;
    std::vector<std::string> parts;
    std::vector<std::string> settings = {};
    int64_t size = 0;  ///< made longer by a hole
  };
  const std::vector<Case> cases = {
      {"empty", "d.jsonl", "", {"expected one JSON object a line, got no row at all"}},
      {"blank lines", "d.jsonl", "\n\r\n  \n", {"got no row at all"}},
      {"broken JSON", "d.jsonl", good + "\n{\"text\": \n", {"d.jsonl:3:"}},
      {"missing field", "d.jsonl", good + "{\"txt\": \"a\"}\n", {"d.jsonl:2: the field 'text' is missing"}},
      {"wrong type", "d.jsonl", good + good + "{\"text\": 5}\n", {"d.jsonl:3: 'text': expected text, got number"}},
      {"byte-order mark", "d.jsonl", "\xef\xbb\xbf" + good, {"d.jsonl:1:1: ", "byte-order mark"}},
      {"bad UTF-8", "d.jsonl", good + "{\"text\": \"\xc3\x28\"}\n", {"d.jsonl:2:12: "}},
      {"a line of 1 GB",
       "d.jsonl",
       good + "{\"text\": \"",
       {"d.jsonl:2: a line of more than 32 MiB"},
       {},
       1024 * kMegabyte},
      {"all rows too long", "d.jsonl", text + text, {"d.jsonl:1: ", "2 were dropped"}, {"data.over_length=drop"}},
      {"one row too long", "d.jsonl", good + text, {"d.jsonl:2: the row has 102 tokens"}, {"data.over_length=error"}},
      {"nothing to learn",
       "d.jsonl",
       prompt,
       {"d.jsonl:1", "leaves a token to learn"},
       {"data.format=completion", "data.over_length=truncate", "data.pack=none"}},
      {"bomb of one line",
       "d.jsonl.gz",
       gzip_of(std::string(kMegabyte, ' '), 512),
       {"d.jsonl.gz:1: ", "unpack the file first"}},
      {"bomb of lines", "d.jsonl.gz", gzip_of(std::string(kMegabyte, '\n'), 512), {"unpack the file first"}},
      {"bomb of an array", "d.json.gz", gzip_of("[" + std::string(kMegabyte, ' '), 512), {"unpack the file first"}},
      {"no gzip", "d.jsonl.gz", good, {"d.jsonl.gz:1: the gzip stream is damaged"}},
  };
  for (const char* name : {"d.jsonl", "d.jsonl.gz", "d.json.gz"}) write_text_atomic(*folder_ / name, "");
  for (const Case& c : cases) {
    write_text_atomic(*folder_ / c.file, c.bytes);
    const int64_t size = std::max<int64_t>(c.size, std::ssize(c.bytes));
    fs::resize_file(*folder_ / c.file, size);
    std::vector<std::string> arguments = {"run.yaml", "--set", "data.val_size=0", "--set", "data.train=" + c.file};
    for (const std::string& setting : c.settings) arguments.insert(arguments.end(), {"--set", setting});
    expect_refused(c.name, "liger-finetune", arguments, kBadInput, c.parts, size);
  }
}

// Line ends of other systems are no mistake.
TEST_F(BadInput, CarriageReturnsAreNone) {
  write_text_atomic(*folder_ / "crlf.jsonl", repeat("{\"text\": \"a b c\"}\r\n\r\n", 8));
  const CommandResult result = finetune({"run.yaml", "--dry-run", "--set", "data.train=crlf.jsonl"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(BadInput, DataThatChangedSinceTheRunBegan) {
  write_text_atomic(*folder_ / "changing.jsonl", slurp(*folder_ / "rows.jsonl"));
  const std::vector<std::string> arguments = {"run.yaml", "--set", "data.train=changing.jsonl", "--set",
                                              "save.dir=changed"};
  std::vector<std::string> shorter = arguments;
  shorter.insert(shorter.end(), {"--set", "train.max_steps=3"});
  ASSERT_EQ(finetune(shorter).exit_code, 0);
  const std::string more = slurp(*folder_ / "rows.jsonl") + "{\"text\": \"more\"}\n";
  write_text_atomic(*folder_ / "changing.jsonl", more);
  expect_refused("changed", "liger-finetune", arguments, kUsage,
                 {"changed/ckpt-3/trainer.json: the run began with data.train sha256", "set it back to go on"},
                 std::ssize(more));
}

TEST_F(BadInput, EvaluationData) {
  const std::string good = R"({"query": "a", "choices": ["1", "2"], "gold": 0})"
                           "\n";
  struct Case {
    const char* name;
    std::string row;
    std::string part;
  };
  const std::vector<Case> cases = {
      {"label out of range", R"({"query": "a", "choices": ["1", "2"], "gold": 2})",
       "doc_to_target: expected the index of a choice, 0 to 1, got 2"},
      {"negative label", R"({"query": "a", "choices": ["1", "2"], "gold": -1})", "doc_to_target: expected the index"},
      {"no choices", R"({"query": "a", "choices": [], "gold": 0})",
       "doc_to_choice: expected a list of strings, got []"},
      {"missing column", R"({"choices": ["1"], "gold": 0})", "doc_to_text: column 'query' is missing"},
      {"wrong type", R"({"query": ["a"], "choices": ["1"], "gold": 0})", "doc_to_text: expected a string, got a list"},
      {"broken", R"({"query": )", ":2:"},
      {"bad UTF-8", "{\"query\": \"\xc3\x28\", \"choices\": [\"1\"], \"gold\": 0}", ":2:"},
      {"a byte-order mark", "\xEF\xBB\xBF{}", ":2:"},
      {"too deep", repeat("[", 10'000), ":2:"},
  };
  fs::create_directories(*folder_ / "tasks");
  write_text_atomic(*folder_ / "tasks" / "multiple_choice.test.jsonl", "");
  for (const Case& c : cases) {
    write_text_atomic(*folder_ / "tasks" / "multiple_choice.test.jsonl", good + c.row + "\n");
    expect_refused(c.name, "liger-eval",
                   {"--model", "model", "--tasks", "multiple_choice", "--data", "tasks", "--output_path", "results"},
                   kBadInput, {"multiple_choice.test.jsonl:2:", c.part}, 1000);
  }
}

TEST_F(BadInput, EvaluationFiles) {
  const std::string good = R"({"query": "a", "choices": ["1", "2"], "gold": 0})"
                           "\r\n\n";
  fs::create_directories(*folder_ / "files");
  const fs::path file = *folder_ / "files" / "multiple_choice.test.jsonl";
  const std::vector<std::string> arguments = {"--model", "model", "--tasks",       "multiple_choice",
                                              "--data",  "files", "--output_path", "results"};
  const auto refused = [&](const char* what, const std::vector<std::string>& parts, int64_t bytes) {
    expect_refused(what, "liger-eval", arguments, kBadInput, parts, bytes);
  };
  refused("no file", {"multiple_choice.test.jsonl: no such file"}, 0);
  write_text_atomic(file, "\n\n");
  refused("no rows", {"multiple_choice.test.jsonl: no rows"}, 2);
  write_text_atomic(file, "{\"query\": \"" + std::string(40 * kMegabyte, 'a'));
  refused("one long line", {"multiple_choice.test.jsonl:1: "}, 40 * kMegabyte);
  fs::remove(file);
  write_text_atomic(file.string() + ".gz", gzip_of(std::string(kMegabyte, ' '), 64));
  refused("a bomb", {"multiple_choice.test.jsonl.gz:1: "}, kMegabyte);
  fs::remove(file.string() + ".gz");
  write_text_atomic(file, good);
  write_manifest(*folder_ / "files");
  write_text_atomic(file, good + good);
  refused("not the file of the manifest", {"multiple_choice.test.jsonl: expected", "MANIFEST.json"}, 1000);
  fs::remove_all(*folder_ / "files");
}

// A folder with a changed configuration, or other files, is refused before anything is computed.
TEST_F(BadInput, ModelFolders) {
  write_text_atomic(*folder_ / "tasks.jsonl", "{\"text\": \"a b c\"}\n");
  const fs::path model = *folder_ / "model", bad = *folder_ / "bad-model";
  const auto renew = [&] {
    fs::remove_all(bad);
    fs::copy(model, bad);
  };
  const auto refused = [&](const char* what, const std::vector<std::string>& parts) {
    expect_refused(what, "liger-eval", {"--model", "bad-model", "--tasks", "perplexity", "--data", "tasks.jsonl"},
                   kBadInput, parts, 4 * kMegabyte);
  };
  struct Case {
    const char* name;
    std::string patch;  ///< merged into config.json
    std::vector<std::string> parts;
  };
  const std::vector<Case> cases = {
      {"vocab_size 0", R"({"vocab_size": 0})", {"config.json: 'vocab_size': expected an integer from 1"}},
      {"heads",
       R"({"num_attention_heads": 5, "head_dim": null, "num_key_value_heads": 5})",
       {"config.json: 'num_attention_heads': expected a divisor of hidden_size"}},
      {"more kv heads",
       R"({"num_key_value_heads": 64})",
       {"config.json: 'num_key_value_heads': expected an integer from 1"}},
      {"hidden_size 2^40",
       R"({"hidden_size": 1099511627776})",
       {"config.json: 'hidden_size': expected an integer from 1"}},
      {"10^9 layers",
       R"({"num_hidden_layers": 1000000000})",
       {"config.json: 'num_hidden_layers': expected an integer"}},
      {"negative eps", R"({"rms_norm_eps": -1e-5})", {"config.json: 'rms_norm_eps': expected a positive number"}},
      {"model_type", R"({"model_type": "lama"})", {"config.json: model_type 'lama' is not supported (llama, "}},
      {"rope type", R"({"rope_scaling": {"rope_type": "spiral"}})", {"rope type 'spiral' is not supported"}},
      {"rope factor",
       R"({"rope_scaling": {"rope_type": "linear", "factor": "nan"}})",
       {"'factor': expected a positive number"}},
      {"another width", R"({"hidden_size": 64, "head_dim": 8})", {"weights do not fit config.json", "wrong shape"}},
      {"another vocabulary", R"({"vocab_size": 10000})", {"weights do not fit config.json"}},
      {"more layers", R"({"num_hidden_layers": 9})", {"weights do not fit config.json: missing model.layers."}},
      {"fewer layers", R"({"num_hidden_layers": 1})", {"weights do not fit config.json: unexpected model.layers."}},
      {"another head", R"({"tie_word_embeddings": true})", {"tie_word_embeddings"}},
  };
  const Json config = read_json(model / "config.json");
  for (const Case& c : cases) {
    renew();
    Json changed = config;
    changed.merge_patch(Json::parse(c.patch));
    write_text_atomic(bad / "config.json", changed.dump());
    refused(c.name, c.parts);
  }
  renew();
  fs::remove(bad / "config.json");
  refused("no config.json", {"no config.json there"});
  write_text_atomic(bad / "config.json", "{\"model_type\": ");
  refused("no JSON", {"config.json:1:"});
  renew();
  const auto index = [&](const std::string& file) {
    write_text_atomic(bad / "model.safetensors.index.json",
                      Json{{"metadata", {{"total_size", 1}}}, {"weight_map", {{"model.norm.weight", file}}}}.dump());
    fs::remove(bad / "model.safetensors");
  };
  index("absent.safetensors");
  refused("an absent shard", {"absent.safetensors"});
  index("../model/model.safetensors");
  refused("a shard outside", {"'../model/model.safetensors'"});
  index((model / "model.safetensors").string());
  refused("an absolute path", {"model.safetensors"});
  fs::create_symlink(model / "model.safetensors", bad / "linked.safetensors");
  index("linked.safetensors");
  refused("a link that leads outside", {"linked.safetensors"});
  fs::remove_all(bad);
}

// A warning, or with --strict an error.
TEST_F(BadInput, WeightsThatHoldNothing) {
  write_text_atomic(*folder_ / "tasks.jsonl", "{\"text\": \"a b c\"}\n");
  fs::copy(*folder_ / "model", *folder_ / "hollow");
  auto tensors = load_tensors(*folder_ / "hollow" / "model.safetensors");
  tensors.at("model.layers.0.mlp.up_proj.weight").fill_(0.25);
  tensors.at("model.norm.weight").fill_(std::nan(""));
  fs::remove(*folder_ / "hollow" / "model.safetensors");
  save_tensors(*folder_ / "hollow" / "model.safetensors", tensors);
  const std::string found =
      "1 tensor holds nothing but NaN (model.norm.weight); 1 tensor holds one value only "
      "(model.layers.0.mlp.up_proj.weight)";
  const auto run = [&](std::vector<std::string> arguments) {
    const std::vector<std::string> all = {"--model", "hollow", "--tasks", "perplexity", "--data", "tasks.jsonl"};
    arguments.insert(arguments.end(), all.begin(), all.end());
    return test::run_tool("liger-eval", arguments, {.directory = folder_->path()});
  };
  EXPECT_NE(run({}).err.find(found), std::string::npos);
  const CommandResult strict = run({"--strict"});
  EXPECT_EQ(strict.exit_code, kBadInput);
  EXPECT_EQ(strict.err, "error: hollow: " + found + "; without --strict that is a warning\n");
  fs::remove_all(*folder_ / "hollow");
}

TEST_F(BadInput, Adapters) {
  struct Case {
    const char* name;
    std::string config;  ///< merged into adapter_config.json; a key with "remove" goes
    std::vector<std::string> parts;
    const char* without = nullptr;  ///< tensors whose names end so are left out
  };
  const std::vector<Case> cases = {
      {"no peft_type",
       R"({"peft_type": "remove"})",
       {"adapter_config.json: 'peft_type': expected \"LORA\", got nothing"}},
      {"another type", R"({"peft_type": "IA3"})", {"adapter_config.json: 'peft_type': expected \"LORA\", got \"IA3\""}},
      {"rank 0", R"({"r": 0})", {"adapter_config.json: 'r': expected a whole number from 1 to 65536, got 0"}},
      {"another rank", R"({"r": 3})", {"adapter_model.safetensors: ", "lora_A.weight: expected [3, 32], got [4, 32]"}},
      {"A alone", "{}", {"adapter_model.safetensors: ", "missing ", "lora_B.weight [32, 4]"}, ".lora_B.weight"},
      {"a target that is not there",
       R"({"target_modules": ["query"]})",
       {"adapter_config.json: ", "target 'query' matches no"}},
      {"files that disagree",
       R"({"target_modules": ["q_proj", "o_proj"]})",
       {"adapter_model.safetensors: ", "unexpected ", "k_proj.lora_A.weight", "missing "}},
      {"layers out of range",
       R"({"layer_replication": [[0, 9]]})",
       {"adapter_config.json: 'layer_replication': expected each layer once", "got [[0, 9]]"}},
      {"layers reversed",
       R"({"layer_replication": [[2, 0]]})",
       {"adapter_config.json: 'layer_replication': expected a list of ranges", "got [[2,0]]"}},
      {"layers empty",
       R"({"layer_replication": [[]]})",
       {"adapter_config.json: 'layer_replication': expected a list of ranges", "got [[]]"}},
      {"alpha is no number", R"({"lora_alpha": "NaN"})", {"adapter_config.json: 'lora_alpha': expected a number"}},
      {"invalid expression", R"({"rank_pattern": {"(a": 5}})", {"adapter_config.json: ", "regular expression '(a'"}},
      {"expression with many ways",
       R"({"target_modules": "((.*)*)*((a*)*)*x"})",
       {"adapter_config.json: ", "match nothing"}},
      {"expression with many states",
       R"({"rank_pattern": {"((a{1000}){1000}){1000}": 5}})",
       {"adapter_config.json: ", "4096 states"}},
      {"bias beside DoRA",
       R"({"bias": "lora_only", "use_dora": true})",
       {"adapter_config.json: 'bias' = \"lora_only\" is not"}},
  };
  fs::copy(*folder_ / "adapter", *folder_ / "bad");
  for (const Case& c : cases) {
    OrderedJson config = read_ordered_json(*folder_ / "adapter" / "adapter_config.json");
    config.update(parse_ordered_json(c.config, c.name));
    if (config["peft_type"] == "remove") config.erase("peft_type");
    write_text_atomic(*folder_ / "bad" / "adapter_config.json", config.dump());
    auto tensors = load_tensors(*folder_ / "adapter" / "adapter_model.safetensors");
    std::erase_if(tensors, [&](const auto& item) { return c.without && item.first.ends_with(c.without); });
    save_tensors(*folder_ / "bad" / "adapter_model.safetensors", tensors);
    expect_refused(c.name, "liger-finetune", {"run.yaml", "--set", "model.adapter=bad"}, kBadInput, c.parts, 20'000);
  }
  write_text_atomic(*folder_ / "bad" / "adapter_config.json", R"({"peft_type": "LORA", "lora_alpha": NaN})");
  expect_refused("NaN itself", "liger-finetune", {"run.yaml", "--set", "model.adapter=bad"}, kBadInput,
                 {"adapter_config.json:1:"}, 100);
}

/// What may be meant is warned of.
TEST_F(BadInput, AdaptersThatFitButDoNotBelongAreWarnedOf) {
  const auto generate = [&](const std::string& model, const std::string& adapter) {
    const CommandResult result =
        test::run_tool("liger-generate", {"--model", model, "--adapter", adapter, "--prompt", "a", "-m", "1"},
                       {.directory = folder_->path()});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.err;
  };
  EXPECT_EQ(generate("model", "adapter"), "");
  fs::copy(*folder_ / "model", *folder_ / "other");
  auto tensors = load_tensors(*folder_ / "model" / "model.safetensors");
  tensors["model.norm.weight"] = at::full({32}, 2.0);
  save_tensors(*folder_ / "other" / "model.safetensors", tensors);
  EXPECT_NE(generate("other", "adapter")
                .find("adapter/liger_base.json: the adapter was trained over other weights than "
                      "those of other"),
            std::string::npos);
  OrderedJson config = read_ordered_json(*folder_ / "model" / "config.json");
  config["liger"]["window"] = 3;
  save_tensors(*folder_ / "other" / "model.safetensors", load_tensors(*folder_ / "model" / "model.safetensors"));
  write_text_atomic(*folder_ / "other" / "config.json", config.dump());
  const std::string warning = generate("other", "adapter");
  EXPECT_NE(warning.find("was trained over Liger layers"), std::string::npos) << warning;
  EXPECT_NE(warning.find("\"window\":3"), std::string::npos) << warning;

  // A rank above what the weights can have, as PEFT does.
  ASSERT_EQ(
      finetune({"run.yaml", "--set", "lora.r=40", "--set", "save.dir=wide", "--set", "train.max_steps=1"}).exit_code,
      0);
  EXPECT_NE(generate("model", "wide/final")
                .find("rank 40 of model.layers.0.self_attn.k_proj is more than its weight [16, 32]"),
            std::string::npos);
}

}  // namespace
}  // namespace liger
