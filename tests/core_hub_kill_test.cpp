// A download is killed before every single one of its system calls that read or change files or bring bytes: what a
// later run finds must be a whole model or none, and the next download must end with the same bytes.

#ifdef __x86_64__

#include <gtest/gtest.h>

#include <set>

#include "hub_testing.h"
#include "liger/io/log.h"
#include "traced_child.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

class HubKill : public test::HubTest {
 protected:
  HubKill() {
    configure_log(LogLevel::kWarning);
    options_.retries = 0;
  }

  // What a run without a network would take: "" = no model.
  std::string offline() const {
    try {
      return resolve_model("org/model");
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage) << e.what();
      return "";
    }
  }

  void check() {
    const std::string found = offline();
    if (!found.empty()) expect_whole(found);
    outcomes_.insert(found.empty() ? "none" : "whole");
    for (const auto& blob : fs::directory_iterator(blobs_, ignored_))
      if (blob.path().extension() != ".incomplete") expect_content(blob.path());
    if (++checks_ % 8 != 0) return;  // each time would take as long as all the kills
    expect_whole(download_model("org/model", "main", options_));
    EXPECT_EQ(left_over(), "");
  }

  void expect_content(const fs::path& blob) const {
    const std::string content = test::read_file(blob), name = blob.filename();
    EXPECT_EQ(test::hash_of(content, name.size() == 64), name) << "a blob that is not what its name says";
  }

  std::string left_over() const {
    for (const std::string& name : test::listing(cache()))
      if (name.find("incomplete") != std::string::npos || name.find(".staged") != std::string::npos ||
          name.find(".tmp-") != std::string::npos)
        return name;
    return "";
  }

  const fs::path blobs_ = cache() / "models--org--model/blobs";
  std::error_code ignored_;
  std::set<std::string> outcomes_;
  int checks_ = 0;
};

TEST_F(HubKill, ANewModelIsAbsentOrWhole) {
  const int runs = test::kill_everywhere([&] { fs::remove_all(cache()); },
                                         [&] { download_model("org/model", "main", options_); }, [&] { check(); });
  if (runs == 0) GTEST_SKIP() << "ptrace is not allowed here";
  EXPECT_EQ(outcomes_, (std::set<std::string>{"none", "whole"}));
  EXPECT_GT(runs, 50);
}

TEST_F(HubKill, ANewCommitLeavesTheOldOneWhole) {
  const auto old_files = server_.files;
  const std::string old_commit = server_.commit, new_commit = std::string(39, 'b') + "2";
  auto new_files = old_files;
  new_files["tokenizer.json"].content += " ";
  std::set<std::string> seen;
  const int runs = test::kill_everywhere(
      [&] {
        fs::remove_all(cache());
        server_.settle();
        server_.files = old_files, server_.commit = old_commit;
        download_model("org/model", "main", options_);
        server_.settle();
        server_.files = new_files, server_.commit = new_commit;
      },
      [&] { download_model("org/model", "main", options_); },
      [&] {
        const fs::path found = offline();
        seen.insert(found.filename());
        server_.settle();
        server_.files = found.filename() == old_commit ? old_files : new_files;
        expect_whole(found);
      });
  if (runs == 0) GTEST_SKIP() << "ptrace is not allowed here";
  EXPECT_EQ(seen, (std::set<std::string>{old_commit, new_commit})) << "never absent";
}

// Ctrl-C and kill, with a server that takes its time.
TEST_F(HubKill, ASignalEndsItAndKeepsWhatCame) {
  server_.files["model-00001-of-00002.safetensors"].content.resize(3 << 20);  // not read, only fetched
  server_.change = [&](const test::Asked& asked, test::Answer answer) {
    if (asked.cdn) answer.seconds = 20;
    return answer;
  };
  const fs::path kept =
      blobs_ / (test::hash_of(server_.files["model-00001-of-00002.safetensors"].content, true) + ".incomplete");
  const std::vector<std::string> arguments = {"--model", "org/model", "--download", "--arch", "gla", "--dry-run"};
  test::CommandOptions command;
  command.environment = {{"HF_ENDPOINT", server_.endpoint()}};
  bool sent = false;
  command.on_tick = [&](pid_t child) {
    std::error_code error;
    if (!sent && fs::file_size(kept, error) > 100000 && !error) sent = ::kill(child, SIGINT) == 0;
  };
  const test::CommandResult result = test::run_tool("liger-convert", arguments, command);
  EXPECT_EQ(result.exit_code, static_cast<int>(ErrorCode::kInterrupted)) << result.err;
  EXPECT_NE(result.err.find("goes on from there"), std::string::npos) << result.err;
  EXPECT_TRUE(sent);
  EXPECT_GT(fs::file_size(kept), 100000u);
  EXPECT_EQ(offline(), "");
  server_.settle();
  server_.forget();
  server_.change = nullptr;
  download_model("org/model", "main", options_);
  size_t parts = 0;
  for (const test::Asked& asked : server_.asked()) parts += asked.cdn && !asked.header("range").empty();
  EXPECT_GE(parts, 1u);
}

// As the processes of a distributed run do.
TEST_F(HubKill, SeveralAtOnceFetchItOnce) {
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        fetch_model("org/model", options_);
        ::_exit(0);
      } catch (...) {
        ::_exit(1);
      }
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(server_.count("/resolve/"), 5u);
  expect_whole(resolve_model("org/model"));
}

TEST_F(HubKill, WithoutDownloadNobodyIsAsked) {
  // Every tool that takes a model, on a name that is not here: it ends with the error, and asks nobody.
  test::write_file(folder_ / "config.yaml", "model: {path: org/model}\ndata: {train: x.jsonl}\nsave: {dir: run}\n");
  const std::vector<std::vector<std::string>> commands = {
      {"liger-convert", "--model", "org/model", "--arch", "gla", "--dry-run"},
      {"liger-generate", "--model", "org/model", "--prompt", "x"},
      {"liger-eval", "--model", "org/model", "--input-ids", "x", "--logits", "y"},
      {"liger-finetune", (folder_ / "config.yaml").string()}};
  for (const auto& command : commands) {
    test::CommandOptions options;
    options.environment = {{"HF_ENDPOINT", server_.endpoint()}};
    const auto result = test::run_tool(command[0], {command.begin() + 1, command.end()}, options);
    EXPECT_EQ(result.exit_code, 2) << command[0] << ": " << result.err;
    EXPECT_NE(result.err.find("--download"), std::string::npos) << command[0] << ": " << result.err;
  }
  EXPECT_TRUE(server_.asked().empty());
}

TEST_F(HubKill, ToolsFetchWhenAsked) {
  test::CommandOptions options;
  options.environment = {{"HF_ENDPOINT", server_.endpoint()}};
  for (int run = 0; run < 2; ++run) {
    const auto result = test::run_tool(
        "liger-convert", {"--model", "org/model", "--download", "--arch", "gla", "--dry-run", "--json"}, options);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_TRUE(Json::accept(result.out)) << "progress is not a result: " << result.out;
    EXPECT_EQ(server_.count("/resolve/"), 5u) << "once";
  }
}

}  // namespace
}  // namespace liger

#endif
