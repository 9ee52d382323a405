#include "liger/distributed/launch.h"

#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "liger/error.h"

namespace liger {
namespace {

struct Launcher {
  const char *name, *rank, *size, *local_rank, *local_size;
};

// Slurm's size is that of a step: in a batch script outside srun, where SLURM_PROCID is set too, one process is alone.
constexpr std::array kLaunchers = {
    Launcher{"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    Launcher{"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
             "OMPI_COMM_WORLD_LOCAL_SIZE"},
    Launcher{"mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    Launcher{"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", nullptr},
};

std::optional<int> number(const Environment& environment, const char* name, int min, int max) {
  const char* text = name == nullptr ? nullptr : environment(name);
  if (text == nullptr || *text == '\0') return {};
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto [parsed, error] = std::from_chars(text, end, value);
  LIGER_CHECK_USAGE(error == std::errc() && parsed == end && value >= min && value <= max, "the environment's ", name,
                    ": expected a number from ", min, " to ", max, ", got '", text, "'");
  return value;
}

/// "gpu[03-05,9]" -> "gpu03".
std::string first_host(const std::string& list) {
  const size_t end = list.find_first_of("[,");
  std::string host = list.substr(0, end);
  if (end != std::string::npos && list[end] == '[')
    host += list.substr(end + 1, list.find_first_of("-,]", end) - end - 1);
  return host;
}

void find_meeting_place(Launch& launch, const Launcher& launcher, const Environment& environment) {
  const bool slurm = std::strcmp(launcher.name, "srun") == 0;
  const char* nodes = environment("SLURM_STEP_NODELIST");
  if (const char* host = environment("MASTER_ADDR"); host != nullptr && *host != '\0') {
    launch.host = host;
  } else if (slurm && nodes != nullptr) {
    launch.host = first_host(nodes);
  } else {
    LIGER_CHECK_USAGE(launch.local_size == launch.size, "MASTER_ADDR is not set and only ", launch.local_size, " of ",
                      launch.size,
                      " processes are on this machine; set it everywhere to the address of the machine of "
                      "rank 0 (Open MPI: mpirun -x MASTER_ADDR=ADDRESS)");
  }
  // Jobs that share a machine must not share a port.
  if (const auto job = slurm ? number(environment, "SLURM_JOB_ID", 0, 1 << 30) : std::nullopt) {
    launch.port = 15000 + *job % 10000;
  }
  launch.port = number(environment, "MASTER_PORT", 1, 65535).value_or(launch.port);
  const char* agent = environment("TORCHELASTIC_USE_AGENT_STORE");
  launch.agent_listens = agent != nullptr && std::strcmp(agent, "True") == 0;
  if (const char* attempt = environment("TORCHELASTIC_RESTART_COUNT")) launch.attempt = attempt;
}

}  // namespace

Launch read_launch(const Environment& environment) {
  constexpr int kMost = 1 << 20;
  Launch launch;
  for (const Launcher& launcher : kLaunchers) {
    const auto size = number(environment, launcher.size, 1, kMost);
    if (!size) continue;
    const auto rank = number(environment, launcher.rank, 0, *size - 1);
    LIGER_CHECK_USAGE(rank.has_value(), "the environment has ", launcher.size, " ", *size, " but no ", launcher.rank,
                      "; ", launcher.name, " sets both");
    launch.rank = *rank;
    launch.size = *size;
    launch.local_rank = number(environment, launcher.local_rank, 0, *size - 1).value_or(0);
    launch.local_size = number(environment, launcher.local_size, 1, *size).value_or(1);
    if (*size > 1) find_meeting_place(launch, launcher, environment);
    return launch;
  }
  return launch;
}

Launch read_launch() {
  return read_launch([](const char* name) { return std::getenv(name); });
}

}  // namespace liger
