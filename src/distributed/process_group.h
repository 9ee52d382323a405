#pragma once

#include <chrono>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace liger {

using Store = c10::intrusive_ptr<c10d::Store>;
using ProcessGroup = c10::intrusive_ptr<c10d::Backend>;

/// Gloo: tensors on the CPU. `address`: of this machine, as the others reach it; the interface that GLOO_SOCKET_IFNAME
/// names goes before it.
ProcessGroup make_gloo(const Store& store, int rank, int size, const std::string& address,
                       std::chrono::seconds timeout);

/// NCCL: tensors on GPUs. Throws Error(kUsage) where liger was built without it.
ProcessGroup make_nccl(const Store& store, int rank, int size, std::chrono::seconds timeout);

}  // namespace liger
