// An evaluation that is killed, or asked to end, goes on where it was and ends with the same numbers.

#include <gtest/gtest.h>

#include <csignal>

#include "command.h"
#include "liger/error.h"
#include "liger/eval/response_log.h"
#include "liger/io/files.h"
#include "liger/io/json.h"
#include "model_folder.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

class EvalResume : public testing::Test {
 protected:
  void SetUp() override {
    test::write_model_folder(folder_ / "model", test::short_window());
    std::ofstream rows(folder_ / "multiple_choice.test.jsonl");
    for (int i = 0; i < 60; ++i) {
      rows << R"({"query": "Where is )" << i << R"( on the map?", "choices": ["at the mill", "here, with )" << i * 7
           << R"( drums", "gone"], "gold": 1})" << "\n";
    }
    std::ofstream texts(folder_ / "perplexity.test.jsonl");
    for (int i = 0; i < 20; ++i)
      texts << R"({"text": "The tiger met )" << i * 31 << R"( lions near the harbour."})" << "\n";
  }

  test::CommandResult run(const std::string& out, const test::CommandOptions& options = {}) const {
    return test::run_tool(
        "liger-eval",
        {"--model", path("model"), "--tasks", "multiple_choice,perplexity", "--data", folder_.path().string(),
         "--output_path", path(out), "--log_samples", "--quiet", "--threads", "1", "--batch_size", "2"},
        options);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  /// Files under a run's folder whose name begins so; the time in it left out.
  static std::map<std::string, std::string> files(const fs::path& dir, const std::string& begin) {
    std::map<std::string, std::string> found;
    if (!fs::exists(dir)) return found;
    for (const auto& entry : fs::recursive_directory_iterator(dir)) {
      const std::string name = entry.path().filename().string();
      if (entry.is_regular_file() && name.starts_with(begin))
        found[name.substr(0, name.rfind('_'))] = read_text(entry.path());
    }
    return found;
  }
  Json results(const std::string& out) const {
    const auto found = files(folder_ / out, "results_");
    return found.empty() ? Json() : parse_json(found.begin()->second, out);
  }
  void expect_same(const std::string& out) const {
    EXPECT_EQ(files(folder_ / out, "samples_"), files(folder_ / "straight", "samples_"));
    EXPECT_EQ(files(folder_ / "straight", "samples_").size(), 2u);
    for (const char* key : {"results", "n-samples", "task_hashes", "versions"})
      EXPECT_EQ(results(out).at(key), results("straight").at(key)) << key;
    EXPECT_TRUE(files(folder_ / out, "unfinished").empty());
  }
  /// Sends a signal once the log has that many bytes.
  test::CommandOptions stop_at(const std::string& out, int signal, size_t bytes) const {
    test::CommandOptions options;
    options.on_tick = [this, out, signal, bytes, sent = false](pid_t child) mutable {
      if (sent) return;
      const auto log = files(folder_ / out, "unfinished");
      if (log.empty() || log.begin()->second.size() < bytes) return;
      sent = true;
      kill(child, signal);
    };
    return options;
  }

  test::TemporaryFolder folder_;
};

TEST_F(EvalResume, KilledAgainAndAgain) {
  ASSERT_EQ(run("straight").exit_code, 0);
  int kills = 0;
  for (const size_t bytes : {1, 1500, 6000, 12000}) {
    const test::CommandResult result = run("killed", stop_at("killed", SIGKILL, bytes));
    if (result.exit_code != 128 + SIGKILL) break;
    ++kills;
  }
  EXPECT_GT(kills, 0);
  const test::CommandResult last = run("killed");
  ASSERT_TRUE(last.exit_code == 0 || !files(folder_ / "killed", "results_").empty()) << last.err;
  expect_same("killed");
}

TEST_F(EvalResume, AskedToEnd) {
  ASSERT_EQ(run("straight").exit_code, 0);
  const test::CommandResult stopped = run("stopped", stop_at("stopped", SIGTERM, 1));
  ASSERT_EQ(stopped.exit_code, 75) << stopped.err;
  EXPECT_NE(stopped.err.find("answers are kept in "), std::string::npos) << stopped.err;
  EXPECT_TRUE(files(folder_ / "stopped", "results_").empty());
  ASSERT_EQ(run("stopped").exit_code, 0);
  expect_same("stopped");
}

TEST_F(EvalResume, ALogThatIsCutOffOrDamaged) {
  const fs::path file = folder_ / "log.jsonl";
  const ScoreRequest a{{1, 2}, {3}}, b{{1}, {2, 3}};
  {
    ResponseLog log(file, "x");
    log.add(a, {-1.0 / 3, true});
    log.add(b, {-2.5, false});
    log.add(b, {-9, true});  // is there
    EXPECT_THROW(ResponseLog(file, "x"), Error);
  }
  const std::string whole = read_text(file);
  std::ofstream(file) << whole.substr(0, whole.size() - 5);
  {
    ResponseLog log(file, "x");
    EXPECT_EQ(log.found(), 1);
    EXPECT_EQ(log.find(a)->log_likelihood, -1.0 / 3);
    EXPECT_FALSE(log.find(b));
    log.add(b, {-2.5, false});
  }
  EXPECT_EQ(read_text(file), whole);
  EXPECT_FALSE(ResponseLog(file, "y").find(a));  // another model
  std::ofstream(file) << "{}\n";
  try {
    ResponseLog(file, "x");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()),
              file.string() + R"(:1: expected {"request", "log_likelihood", "greedy"}; remove the file to begin anew)");
  }
}

}  // namespace
}  // namespace liger
