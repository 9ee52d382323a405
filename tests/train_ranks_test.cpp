// Runs shared by several processes of this machine, as a launcher would start them.

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "liger/core/checkpoint.h"
#include "liger/distributed/launch.h"
#include "liger/error.h"
#include "liger/train/optimizer.h"
#include "train_test_util.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::CommandOptions;
using test::CommandResult;

Launch launch_of(const std::map<std::string, std::string>& environment) {
  return read_launch([&](const char* name) {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

TEST(Launch, IsReadFromEachLauncher) {
  const Launch alone = launch_of({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}});  // a batch script outside srun
  EXPECT_EQ(alone.size, 1);

  const Launch torchrun = launch_of({{"RANK", "5"},
                                     {"WORLD_SIZE", "8"},
                                     {"LOCAL_RANK", "1"},
                                     {"LOCAL_WORLD_SIZE", "4"},
                                     {"MASTER_ADDR", "node1"},
                                     {"MASTER_PORT", "1234"},
                                     {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                     {"TORCHELASTIC_RESTART_COUNT", "2"}});
  EXPECT_EQ(torchrun.rank, 5);
  EXPECT_EQ(torchrun.size, 8);
  EXPECT_EQ(torchrun.local_rank, 1);
  EXPECT_EQ(torchrun.local_size, 4);
  EXPECT_EQ(torchrun.host, "node1");
  EXPECT_EQ(torchrun.port, 1234);
  EXPECT_TRUE(torchrun.agent_listens);
  EXPECT_EQ(torchrun.attempt, "2");

  const Launch open_mpi = launch_of({{"OMPI_COMM_WORLD_RANK", "1"},
                                     {"OMPI_COMM_WORLD_SIZE", "2"},
                                     {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                     {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  EXPECT_EQ(open_mpi.rank, 1);
  EXPECT_EQ(open_mpi.host, "127.0.0.1");

  const Launch mpich = launch_of({{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}, {"MASTER_ADDR", "a"}});
  EXPECT_EQ(mpich.size, 3);

  const Launch slurm = launch_of({{"SLURM_PROCID", "3"},
                                  {"SLURM_STEP_NUM_TASKS", "4"},
                                  {"SLURM_LOCALID", "1"},
                                  {"SLURM_STEP_NODELIST", "gpu[07-09,12],cpu1"},
                                  {"SLURM_JOB_ID", "123456"}});
  EXPECT_EQ(slurm.rank, 3);
  EXPECT_EQ(slurm.local_rank, 1);
  EXPECT_EQ(slurm.host, "gpu07");
  EXPECT_EQ(slurm.port, 15000 + 3456);
}

TEST(Launch, WhatMakesNoSenseIsNamed) {
  const auto message = [](const std::map<std::string, std::string>& environment) {
    try {
      launch_of(environment);
      return std::string("no error");
    } catch (const Error& e) {
      return std::string(e.what());
    }
  };
  EXPECT_NE(message({{"WORLD_SIZE", "2"}}).find("no RANK"), std::string::npos);
  EXPECT_NE(message({{"RANK", "2"}, {"WORLD_SIZE", "2"}}).find("RANK: expected a number from 0 to 1, got '2'"),
            std::string::npos);
  EXPECT_NE(message({{"RANK", "0"}, {"WORLD_SIZE", "2x"}}).find("got '2x'"), std::string::npos);
  EXPECT_NE(message({{"RANK", "0"}, {"WORLD_SIZE", "4"}, {"LOCAL_WORLD_SIZE", "2"}}).find("MASTER_ADDR is not set"),
            std::string::npos);
}

TEST(Shards, CoverEveryNumberOnceInAboutEqualParts) {
  const std::vector<NamedParameter> parameters = {
      {"a", at::empty({7})}, {"b", at::empty({100, 1000})}, {"c", at::empty({300})}, {"d", at::empty({513, 97})}};
  int64_t all = 0;
  for (const NamedParameter& p : parameters) all += p.value.numel();
  for (const int ranks : {1, 2, 3, 4, 7}) {
    std::vector<int64_t> held(ranks);
    const auto parts = shards(parameters, ranks);
    for (size_t i = 0; i < parameters.size(); ++i) {
      int64_t end = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const Shard& shard = parts[i][rank];
        EXPECT_EQ(shard.begin, end);
        EXPECT_GE(shard.count, 0);
        EXPECT_TRUE(shard.count == 0 || shard.begin % 256 == 0);
        end = shard.begin + shard.count;
        held[rank] += shard.count;
      }
      EXPECT_EQ(end, parameters[i].value.numel());
    }
    for (const int64_t count : held) EXPECT_NEAR(count, all / ranks, 512) << ranks;
  }
}

class RanksTest : public testing::Test {
 protected:
  void SetUp() override {
    test::write_tiny_model(folder_ / "model");
    test::write_text_rows(folder_ / "rows.jsonl", 40);
    write_text_atomic(folder_ / "run.yaml", test::tiny_run(folder_.path()));
    port_ = free_port();
  }

  static int free_port() {
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(socket, reinterpret_cast<sockaddr*>(&address), length) != 0) throw std::runtime_error("no port is free");
    getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length);
    close(socket);
    return ntohs(address.sin_port);
  }

  /// Starts `size` ranks side by side. `on_stderr` sees what rank 0 says; `own` is set for one rank alone.
  std::vector<CommandResult> run(int size, const std::string& name, std::vector<std::string> assignments,
                                 const std::function<void(const std::string&)>& on_stderr = {},
                                 const std::map<int, std::string>& own = {}) {
    std::vector<CommandResult> results(size);
    std::vector<std::thread> threads;
    pids_ = std::vector<std::atomic<pid_t>>(size);
    assignments.push_back("save.dir=" + (folder_ / name).string());
    for (int rank = 0; rank < size; ++rank) {
      std::vector<std::string> arguments = {(folder_ / "run.yaml").string(), "--threads", "1"};
      for (const std::string& assignment : assignments) arguments.insert(arguments.end(), {"--set", assignment});
      if (own.contains(rank)) arguments.insert(arguments.end(), {"--set", own.at(rank)});
      CommandOptions options;
      options.environment = {
          {"RANK", cat(rank)},         {"WORLD_SIZE", cat(size)},       {"LOCAL_RANK", cat(rank)},
          {"MASTER_PORT", cat(port_)}, {"LOCAL_WORLD_SIZE", cat(size)}, {"MASTER_ADDR", "127.0.0.1"}};
      options.on_start = [this, rank](pid_t pid) { pids_[rank] = pid; };
      if (rank == 0 && on_stderr) options.on_stderr = [&](pid_t, const std::string& text) { on_stderr(text); };
      threads.emplace_back([&results, rank, arguments, options] {
        results[rank] = test::run_tool("liger-finetune", arguments, options);
      });
    }
    for (std::thread& thread : threads) thread.join();
    port_ = free_port();
    return results;
  }

  void expect_success(const std::vector<CommandResult>& results) {
    for (const CommandResult& result : results) ASSERT_EQ(result.exit_code, 0) << result.err;
    for (size_t rank = 1; rank < results.size(); ++rank) EXPECT_EQ(results[rank].out, "") << "rank 0 has the result";
  }

  void expect_same_curve(const std::string& one, const std::string& other, double tolerance) {
    const std::vector<Json> expected = rows(one), actual = rows(other);
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      for (const char* key : {"loss", "eval_loss", "lr", "epoch", "total_tokens", "tokens"}) {
        if (!expected[i].contains(key) || expected[i][key].is_null()) continue;
        const double value = expected[i][key];
        EXPECT_NEAR(actual[i][key].get<double>(), value, tolerance * std::abs(value))
            << other << " " << key << " " << i;
      }
    }
  }
  std::vector<Json> rows(const std::string& name) const {
    std::vector<Json> rows;
    std::istringstream lines(test::slurp(folder_ / name / "metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) rows.push_back(parse_json(line, "metrics.jsonl"));
    return rows;
  }
  // The largest difference of any number of two files of tensors.
  static double difference(const fs::path& one, const fs::path& other) {
    const auto a = load_tensors(one), b = load_tensors(other);
    EXPECT_EQ(a.size(), b.size());
    double largest = 0;
    for (const auto& [name, tensor] : a) largest = std::max(largest, (tensor - b.at(name)).abs().max().item<double>());
    return largest;
  }

  test::TemporaryFolder folder_;
  int port_ = 0;
  std::vector<std::atomic<pid_t>> pids_;  // of the ranks of the run
};

const std::vector<std::string> kSinglesWithDropout = {"train.micro_batch_size=1", "lora.dropout=0.1",
                                                      "train.eval_every=2"};

TEST_F(RanksTest, LearnTheSameAsOne) {
  expect_success(run(1, "one", kSinglesWithDropout));
  for (const int size : {2, 3, 4}) {
    const std::string name = cat("ranks", size);
    expect_success(run(size, name, kSinglesWithDropout));
    expect_same_curve("one", name, 1e-6);
    EXPECT_LT(
        difference(folder_ / "one/final/adapter_model.safetensors", folder_ / name / "final/adapter_model.safetensors"),
        1e-5);
  }
}

// The last batch of an epoch has a micro-batch for one of them only.
TEST_F(RanksTest, WithoutAMicroBatchARankTakesPartAllTheSame) {
  const std::vector<std::string> settings = {"train.micro_batch_size=2", "data.pack=none", "data.val_size=7",
                                             "train.max_steps=20", "model.dtype=f64"};
  expect_success(run(1, "one", settings));
  expect_success(run(2, "two", settings));
  expect_same_curve("one", "two", 1e-12);
}

TEST_F(RanksTest, ShareTheOptimizerOfAllParameters) {
  for (const char* optimizer : {"adamw", "adamw8bit"}) {
    const std::vector<std::string> settings = {"lora=null", "train.micro_batch_size=1", "model.dtype=f64",
                                               cat("train.optimizer=", optimizer)};
    const std::string one = cat(optimizer, 1), three = cat(optimizer, 3);
    expect_success(run(1, one, settings));
    expect_success(run(3, three, settings));
    expect_same_curve(one, three, 1e-9);
    EXPECT_LT(
        difference(folder_ / one / "ckpt-8/optimizer.safetensors", folder_ / three / "ckpt-8/optimizer.safetensors"),
        1e-9)
        << optimizer;
  }
}

// A checkpoint of three ranks is gone on from by two, and by one alone.
TEST_F(RanksTest, ACheckpointFitsAnyNumberOfThem) {
  for (const char* lora : {"lora.r=4", "lora=null"}) {
    const std::vector<std::string> settings = {lora, "train.micro_batch_size=1", "model.dtype=f64", "save.keep=9"};
    expect_success(run(1, "straight", settings));
    expect_success(run(3, "three", settings));
    for (const int size : {2, 1}) {
      const std::string name = cat("resumed", size);
      fs::copy(folder_ / "three", folder_ / name, fs::copy_options::recursive);
      for (const char* later : {"ckpt-6", "ckpt-8", "final"}) fs::remove_all(folder_ / name / later);
      const auto results = run(size, name, settings);
      expect_success(results);
      EXPECT_NE(results[0].err.find("going on from"), std::string::npos);
      expect_same_curve("straight", name, 1e-9);
    }
    for (const char* name : {"straight", "three", "resumed2", "resumed1"}) fs::remove_all(folder_ / name);
  }
}

TEST_F(RanksTest, OneThatIsKilledEndsTheOthersAndTheRunGoesOn) {
  const std::vector<std::string> settings = {"train.micro_batch_size=1", "save.every=0", "lora.dropout=0.1"};
  std::vector<std::string> long_run = settings;
  long_run.push_back("train.max_steps=400");
  bool sent = false;
  std::chrono::steady_clock::time_point killed;
  const auto results = run(3, "run", long_run, [&](const std::string& text) {
    if (sent || text.find("update 6:") == std::string::npos) return;
    sent = true;
    killed = std::chrono::steady_clock::now();
    kill(pids_[1], SIGKILL);
  });
  ASSERT_TRUE(sent) << results[0].err;
  EXPECT_LT(std::chrono::steady_clock::now() - killed, std::chrono::seconds(30));
  EXPECT_EQ(results[1].exit_code, 128 + SIGKILL);
  for (const int rank : {0, 2}) {
    EXPECT_EQ(results[rank].exit_code, static_cast<int>(ErrorCode::kIo)) << results[rank].err;
    EXPECT_NE(results[rank].err.find(cat("rank ", rank, " of 3 lost another one")), std::string::npos)
        << results[rank].err;
  }
  EXPECT_NE(results[0].err.find("saved in"), std::string::npos) << results[0].err;

  int64_t saved = 0;
  for (const auto& entry : fs::directory_iterator(folder_ / "run")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("ckpt-")) saved = std::stoll(name.substr(5));
  }
  ASSERT_GE(saved, 6);
  std::vector<std::string> to_the_end = settings;
  to_the_end.push_back(cat("train.max_steps=", saved + 5));
  expect_success(run(2, "run", to_the_end));
  EXPECT_EQ(rows("run").back()["current_steps"], saved + 5);
}

// The reason of the first one is everybody's.
TEST_F(RanksTest, AnErrorOfOneIsToldToAll) {
  const std::vector<std::string> settings = {"train.micro_batch_size=1"};
  const auto results = run(3, "run", settings, {}, {{2, "data.train=" + (folder_ / "nowhere.jsonl").string()}});
  for (const CommandResult& result : results) {
    EXPECT_EQ(result.exit_code, static_cast<int>(ErrorCode::kBadInput)) << result.err;
    EXPECT_NE(result.err.find("nowhere.jsonl: no such file"), std::string::npos) << result.err;
  }
  EXPECT_NE(results[0].err.find("rank 2 of 3 stopped"), std::string::npos) << results[0].err;
}

TEST_F(RanksTest, DifferentSettingsAreNamed) {
  const auto results = run(2, "run", {"train.micro_batch_size=1"}, {}, {{1, "train.lr=0.5"}});
  for (const CommandResult& result : results) {
    EXPECT_EQ(result.exit_code, static_cast<int>(ErrorCode::kUsage)) << result.err;
    EXPECT_NE(result.err.find("rank 1 has train.lr 0.5 where rank 0 has train.lr 0.01"), std::string::npos)
        << result.err;
  }
}

TEST_F(RanksTest, MoreOfThemThanMicroBatchesAreRefused) {
  for (const CommandResult& result : run(3, "run", {"train.micro_batch_size=2"})) {
    EXPECT_EQ(result.exit_code, static_cast<int>(ErrorCode::kUsage)) << result.err;
    EXPECT_NE(result.err.find("fewer than the 3 ranks"), std::string::npos) << result.err;
  }
}

// A launcher tells one of them, or all: they end together, after the same update.
TEST_F(RanksTest, ASignalToOneStopsAllAfterASave) {
  std::vector<std::string> settings = {"train.micro_batch_size=1", "train.max_steps=40", "save.every=0",
                                       "lora.dropout=0.1", "model.dtype=f64"};
  expect_success(run(2, "straight", settings));
  bool sent = false;
  const auto results = run(2, "run", settings, [&](const std::string& text) {
    if (sent || text.find("update 6:") == std::string::npos) return;
    sent = true;
    kill(pids_[1], SIGTERM);
  });
  ASSERT_TRUE(sent);
  for (const CommandResult& result : results) EXPECT_EQ(result.exit_code, 75) << result.err;
  expect_success(run(2, "run", settings));
  EXPECT_TRUE(test::slurp(folder_ / "run/final/adapter_model.safetensors") ==
              test::slurp(folder_ / "straight/final/adapter_model.safetensors"));
}

}  // namespace
}  // namespace liger
