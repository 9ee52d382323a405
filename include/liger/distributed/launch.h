#pragma once

#include <functional>
#include <string>

namespace liger {

/// This process among those that were started together.
struct Launch {
  int rank = 0, size = 1;              ///< of all processes
  int local_rank = 0, local_size = 1;  ///< of those on this machine; Slurm does not tell their number
  std::string host = "127.0.0.1";      ///< where rank 0 (or torchrun itself) is waited for
  int port = 29500;
  bool agent_listens = false;  ///< torchrun already answers at host:port
  std::string attempt = "0";   ///< of torchrun, which may start the processes again
};

using Environment = std::function<const char*(const char*)>;

/// Reads the variables of whoever started this process, the first of these that is there:
///   torchrun               RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE
///   mpirun of Open MPI     OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE
///   mpirun of MPICH, Intel PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS
///   srun of Slurm          SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID
/// and MASTER_ADDR and MASTER_PORT; without these, this machine, the first one of the Slurm step, and 29500 or a port
/// that follows from Slurm's job number. Without a launcher the process is alone.
/// Throws Error(kUsage) naming the variable that is missing or makes no sense.
Launch read_launch(const Environment& environment);
Launch read_launch();  ///< of this process

}  // namespace liger
