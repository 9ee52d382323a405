// The kernels against what the device can do: milliseconds of each row of rows.cpp, and the shares of the time that its
// bytes would take at the bandwidth of a copy, and its products at cuBLAS's rate. The larger is the share of the roof.
//
//   gpu_bench [--json FILE] [--only TEXT]

#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "rows.h"
#include "timing.h"

namespace liger::benchmarks {

namespace {

using nlohmann::json;

std::string shape_of(const Sizes& s) {
  const std::string heads = std::to_string(s.H) + (s.H == s.Hkv ? "" : ":" + std::to_string(s.Hkv));
  return std::to_string(s.B) + "," + std::to_string(s.T) + "," + heads + "," + std::to_string(s.D);
}

json describe(const Gpu& gpu, const Peaks& peaks) {
  return {{"name", gpu.name},
          {"capability", std::to_string(gpu.major) + "." + std::to_string(gpu.minor)},
          {"multiprocessors", gpu.multiprocessors},
          {"l2_bytes", gpu.l2_bytes},
          {"memory_bytes", gpu.memory_bytes},
          {"driver", gpu.driver},
          {"runtime", gpu.runtime},
          {"nominal_bytes_per_s", gpu.nominal_bandwidth},
          {"copy_bytes_per_s", peaks.bandwidth},
          {"cublas_bf16_flop_per_s", peaks.tensor}};
}

json measure(const Row& row, const Gpu& gpu, const Peaks& peaks) {
  const Case c = row.make(row.sizes);
  const Time time = time_of(gpu, [&] {
    if (const char* problem = c.launch()) throw std::runtime_error(problem);
  });
  for (const at::Tensor& x : c.outputs)
    if (!at::isfinite(x).all().item<bool>()) throw std::runtime_error("its output is not finite");
  const double seconds = time.median_ms * 1e-3;
  const double memory = c.bytes / peaks.bandwidth / seconds, tensor = c.flops / peaks.tensor / seconds;
  return {{"ms", time.median_ms},
          {"fastest_ms", time.fastest_ms},
          {"slowest_ms", time.slowest_ms},
          {"runs", time.runs},
          {"bytes", c.bytes},
          {"flops", c.flops},
          {"share_of_bandwidth", memory},
          {"share_of_tensor_cores", tensor},
          {"share_of_roof", std::max(memory, tensor)}};
}

int run(const std::string& file, const std::string& only) {
  const Gpu gpu = current_gpu();
  const Peaks peaks = measure_peaks(gpu);
  json out = {{"gpu", describe(gpu, peaks)}, {"rows", json::array()}};
  std::printf("%s, %d multiprocessors: copy %.2f TB/s (nominal %.2f), cuBLAS bf16 %.0f TFLOP/s\n", gpu.name.c_str(),
              gpu.multiprocessors, peaks.bandwidth * 1e-12, gpu.nominal_bandwidth * 1e-12, peaks.tensor * 1e-12);
  std::printf("%-28s %-20s %10s %8s %8s %8s %8s\n", "kernel", "B,T,H,D", "ms", "GB", "TFLOP", "memory", "tensor");
  bool failed = false;
  for (const Row& row : rows()) {
    if (!std::strstr(row.kernel, only.c_str())) continue;
    json item = {{"kernel", row.kernel}, {"shape", shape_of(row.sizes)}, {"type", "bfloat16"}};
    if (row.peer) item["peer"] = row.peer;
    try {
      item.update(measure(row, gpu, peaks));
      std::printf("%-28s %-20s %10.4f %8.3f %8.4f %7.1f%% %7.1f%%\n", row.kernel, shape_of(row.sizes).c_str(),
                  item["ms"].get<double>(), item["bytes"].get<double>() * 1e-9, item["flops"].get<double>() * 1e-12,
                  100 * item["share_of_bandwidth"].get<double>(), 100 * item["share_of_tensor_cores"].get<double>());
    } catch (const std::exception& e) {  // the other rows may run; what went wrong stands in this one
      failed = true;
      item["error"] = e.what();
      std::printf("%-28s %-20s %s\n", row.kernel, shape_of(row.sizes).c_str(), e.what());
    }
    std::fflush(stdout);
    out["rows"].push_back(item);
    if (!file.empty()) std::ofstream(file) << out.dump(1) << "\n";  // at once: a later row may hang
  }
  return failed;
}

}  // namespace
}  // namespace liger::benchmarks

int main(int count, char** arguments) {
  std::string file, only;
  for (int i = 1; i < count; i += 2) {
    const std::string option = arguments[i];
    if ((option != "--json" && option != "--only") || i + 1 == count) {
      std::cerr << "usage: gpu_bench [--json FILE] [--only TEXT]\n";
      return 2;
    }
    (option == "--json" ? file : only) = arguments[i + 1];
  }
  try {
    return liger::benchmarks::run(file, only);
  } catch (const std::exception& e) {
    std::cerr << "gpu_bench: " << e.what() << "\n";
    return 1;
  }
}
