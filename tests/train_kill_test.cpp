// A fine-tune killed at any moment and started again by the same command ends as if nothing had happened.

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <random>
#include <regex>

#include "run_files.h"
#include "train_test_util.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::CommandOptions;
using test::CommandResult;
using test::slurp;

/// When to kill a process: some time after its folder shows that it got somewhere.
struct Moment {
  enum class Kind { kStart, kRow, kSave, kLastSave } kind;
  int rows = 0;  ///< of the metrics, to be written before it counts; of the last save, its update
  int microseconds = 0;
};

std::string name_of(const Moment& moment) {
  const char* const kinds[] = {"start", "row", "save", "last save"};
  return cat(moment.microseconds, " us after ", kinds[static_cast<int>(moment.kind)], " ", moment.rows);
}

class KilledRun : public testing::Test {
 protected:
  void SetUp() override {
    test::write_tiny_model(folder_ / "model");
    test::write_text_rows(folder_ / "rows.jsonl", 220);
  }

  fs::path run_folder(const std::string& run) const { return folder_ / run / "run"; }

  void configure(const std::string& settings) const {
    write_text_atomic(folder_ / "run.yaml", cat("model: {path: ", (folder_ / "model").string(), "}\n",
                                                "data: {train: ", (folder_ / "rows.jsonl").string(), ", val_size: 4, ",
                                                "format: text, max_length: 64, over_length: split}\n", settings));
  }
  CommandResult start(const std::string& run, const CommandOptions& options = {}) const {
    std::vector<std::string> arguments = {(folder_ / "run.yaml").string(),       "--threads", "1", "--json", "--set",
                                          "save.dir=" + run_folder(run).string()};
    return test::run_tool("liger-finetune", arguments, options);
  }

  /// The run that nobody stops; returns its updates.
  int64_t straight() const {
    const CommandResult result = start("straight");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return parse_json(result.out, "stdout")["steps"].get<int64_t>();
  }
  void go_on(const std::string& run) const {
    const CommandResult result = start(run);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_NE(result.err.find("going on from"), std::string::npos) << result.err;
  }

  int rows(const std::string& run) const {
    const fs::path file = run_folder(run) / "metrics.jsonl";
    const std::string text = fs::exists(file) ? slurp(file) : "";
    return static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  }
  bool in_a_save(const std::string& run) const {
    std::error_code none_yet;
    for (fs::directory_iterator at(run_folder(run), none_yet), end; !none_yet && at != end; at.increment(none_yet)) {
      const std::string name = at->path().filename().string();
      if (name.starts_with(".ckpt-") && name.find(".tmp-") != std::string::npos) return true;
    }
    return false;
  }

  /// `before`: rows of its metrics when it started. Some of them may have been cut off since, and then it gets further.
  bool reached(const std::string& run, const Moment& moment, int before) const {
    switch (moment.kind) {
      case Moment::Kind::kStart: return true;
      case Moment::Kind::kRow: return rows(run) >= before + moment.rows;
      case Moment::Kind::kSave: return rows(run) >= before + moment.rows && in_a_save(run);
      case Moment::Kind::kLastSave: return fs::exists(run_folder(run) / cat("ckpt-", moment.rows));
    }
    return false;
  }
  /// Starts it and kills it at that moment; false if it ended before, which it may do at the end of the run only.
  bool kill_at(const std::string& run, const Moment& moment) const {
    SCOPED_TRACE(name_of(moment));
    const int before = rows(run);
    CommandOptions options;
    options.on_tick = [&, killed = false](pid_t pid) mutable {
      if (killed || !reached(run, moment, before)) return;
      usleep(static_cast<useconds_t>(moment.microseconds));
      killed = kill(pid, SIGKILL) == 0;
    };
    const CommandResult result = start(run, options);
    if (result.exit_code == 128 + SIGKILL) return true;
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return false;
  }

  /// Everything that does not depend on the clock.
  void expect_same(const std::string& straight, const std::string& killed, int64_t steps) const {
    const fs::path a = run_folder(straight), b = run_folder(killed);
    EXPECT_EQ(test::metrics_without_clock(a), test::metrics_without_clock(b));
    EXPECT_EQ(test::csv_without_clock(a), test::csv_without_clock(b));
    EXPECT_EQ(test::curves_without_clock(a), test::curves_without_clock(b));
    const std::string last = cat("ckpt-", steps);
    for (const fs::path& file : files_below(a)) {
      const std::string name = file.filename().string();
      const bool weights = name.ends_with(".safetensors") || name.ends_with(".bin");
      if (weights || name.starts_with("adapter_") || name == "samples.jsonl") {
        EXPECT_TRUE(slurp(a / file) == slurp(b / file)) << file;
      } else if (name == "trainer.json") {
        EXPECT_EQ(state(a / file), state(b / file)) << file;
      }
    }
    EXPECT_TRUE(fs::exists(a / last / "optimizer.safetensors"));
    EXPECT_EQ(card(a), card(b));
    EXPECT_EQ(files_below(a), files_below(b));
    for (const char* folder : {"final", last.c_str()}) EXPECT_NO_THROW(verify_manifest(b / folder));
    for (const auto& entry : fs::directory_iterator(folder_ / killed)) EXPECT_EQ(entry.path(), b);
  }

  test::TemporaryFolder folder_;

 private:
  // Hidden ones included; an event file's name tells when it was begun.
  static std::vector<fs::path> files_below(const fs::path& folder) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      const bool events = entry.path().filename().string().starts_with("events.out.");
      if (!entry.is_directory() && !events) files.push_back(entry.path().lexically_relative(folder));
    }
    std::sort(files.begin(), files.end());
    return files;
  }
  static Json state(const fs::path& file) {
    Json state = read_json(file);
    state.erase("seconds");
    state.erase("metrics");  // sizes of files in which times are written
    return state;
  }
  static std::string card(const fs::path& run) {
    const std::string text = slurp(run / "final" / "README.md");
    return std::regex_replace(text, std::regex("\\| time \\|[^\n]*|dir: [^\n]*"), "");
  }
};

/// Kills a run at 20 moments, most of them within a save or right after one.
TEST_F(KilledRun, LoraEndsAsTheStraightRunDoes) {
  configure(
      "lora: {r: 4, alpha: 8, dropout: 0.1, targets: [q_proj, k_proj, v_proj]}\n"
      "train: {epochs: 2, batch_size: 4, micro_batch_size: 2, lr: 1e-2, scheduler: cosine, warmup_steps: 5, "
      "eval_every: 5}\nsave: {every: 1, keep: 2}\n"
      "sample: {prompts: [ann has, bob], every: 3, max_new_tokens: 8, temperature: 1}\n");
  const int64_t steps = straight();
  ASSERT_GT(steps, 60);
  // Before there is anything, before the first save, and within it.
  std::vector<Moment> moments = {{Moment::Kind::kStart, 0, 50'000}, {Moment::Kind::kRow, 1}, {Moment::Kind::kSave}};
  std::mt19937 random(20);
  while (moments.size() < 20) {
    const auto kind = random() % 3 == 0 ? Moment::Kind::kRow : Moment::Kind::kSave;
    moments.push_back({kind, 1 + static_cast<int>(random() % 3), static_cast<int>(random() % 30'000)});
  }
  int in_saves = 0;
  std::set<std::string> pictures;
  // How long a save takes is the machine's affair: it goes on until enough of them were hit.
  for (size_t i = 0; i < moments.size() || (in_saves < 5 && i < 35); ++i) {
    const Moment moment = i < moments.size() ? moments[i] : Moment{Moment::Kind::kSave};
    ASSERT_TRUE(kill_at("killed", moment)) << "the run is too short for " << i << " kills";
    if (!in_a_save("killed")) continue;
    ++in_saves;
    pictures.insert(slurp(run_folder("killed") / "loss.svg"));
  }
  EXPECT_GE(pictures.size(), 5u) << "it is drawn at each save";
  EXPECT_GE(in_saves, 5);
  go_on("killed");
  expect_same("straight", "killed", steps);
}

TEST_F(KilledRun, FullTrainingWithEightBitMomentsToo) {
  configure(
      "lora: null\n"
      "train: {max_steps: 14, batch_size: 4, micro_batch_size: 2, optimizer: adamw8bit, scheduler: plateau, "
      "plateau_patience: 0, eval_every: 2}\nsave: {every: 2}\n");
  const int64_t steps = straight();
  for (const Moment& moment : {Moment{Moment::Kind::kSave}, Moment{Moment::Kind::kRow, 3, 5'000},
                               Moment{Moment::Kind::kSave, 3, 20'000}, Moment{Moment::Kind::kSave, 4, 3'000}}) {
    ASSERT_TRUE(kill_at("killed", moment));
  }
  go_on("killed");
  expect_same("straight", "killed", steps);
}

TEST_F(KilledRun, AfterTheLastUpdateOnlyTheResultIsWrittenAgain) {
  configure("train: {max_steps: 3, batch_size: 4, scheduler: cosine}\nsave: {every: 1}\n");
  const int64_t steps = straight();
  int kills = 0;
  for (const int delay : {0, 4'000, 12'000}) {
    const std::string run = cat("killed-", delay);
    if (kill_at(run, {Moment::Kind::kLastSave, 3, delay})) ++kills;
    if (fs::exists(run_folder(run) / "final")) {  // the machine was faster than the kill
      EXPECT_NO_THROW(verify_manifest(run_folder(run) / "final"));
      continue;
    }
    go_on(run);
    expect_same("straight", run, steps);
  }
  EXPECT_GT(kills, 0);
}

/// A signal asks for a save out of turn; whoever sent it does not wait. No later save is one of that update.
TEST_F(KilledRun, WhatAHurriedSaveLeftIsRemoved) {
  configure("train: {max_steps: 30, batch_size: 4, scheduler: cosine}\nsave: {every: 29, keep: 1}\n");
  const int64_t steps = straight();
  for (int attempt = 0; attempt < 10 && !in_a_save("killed"); ++attempt) {  // a quick save is over before the kill
    fs::remove_all(run_folder("killed"));
    CommandOptions options;
    options.on_tick = [&, asked = false](pid_t pid) mutable {
      if (rows("killed") < 4) return;
      if (!std::exchange(asked, true)) kill(pid, SIGTERM);
      if (in_a_save("killed")) kill(pid, SIGKILL);
    };
    start("killed", options);
  }
  ASSERT_TRUE(in_a_save("killed"));
  EXPECT_EQ(start("killed").exit_code, 0);
  expect_same("straight", "killed", steps);
}

/// The disk is full from the second checkpoint on, and has room again later.
TEST_F(KilledRun, ADiskThatFillsUpKeepsTheLastSave) {
  configure("train: {max_steps: 6, batch_size: 4, scheduler: cosine}\nsave: {every: 2}\n");
  const int64_t steps = straight();
  CommandOptions full;
  full.on_tick = [&](pid_t pid) {
    const rlimit limit{12'000, RLIM_INFINITY};  // less than a checkpoint's largest file, more than the metrics
    if (fs::exists(run_folder("full") / "ckpt-2")) prlimit(pid, RLIMIT_FSIZE, &limit, nullptr);
  };
  const CommandResult result = start("full", full);
  EXPECT_EQ(result.exit_code, 4) << result.err;
  EXPECT_NE(result.err.find("optimizer.safetensors: cannot"), std::string::npos) << result.err;
  EXPECT_NO_THROW(verify_manifest(run_folder("full") / "ckpt-2"));
  EXPECT_FALSE(fs::exists(run_folder("full") / "ckpt-4"));
  EXPECT_FALSE(in_a_save("full")) << "what was half written is gone at once: the disk is full";
  go_on("full");
  expect_same("straight", "full", steps);
}

}  // namespace
}  // namespace liger
