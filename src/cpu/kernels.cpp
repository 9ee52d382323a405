#include "cpu/kernels.h"

#include <cstdlib>
#include <string>

#include "liger/error.h"

namespace liger {

extern const CpuKernels kBaselineKernels;
#ifdef LIGER_X86_KERNELS
extern const CpuKernels kAvx2Kernels, kAvx512Kernels;
#endif

int64_t runnable_cpu_kernels(const CpuKernels* (&all)[3]) {
  int64_t count = 0;
  all[count++] = &kBaselineKernels;
#ifdef LIGER_X86_KERNELS
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all[count++] = &kAvx2Kernels;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    all[count++] = &kAvx512Kernels;
#endif
  return count;
}

namespace {

const CpuKernels& choose() {
  const CpuKernels* all[3];
  const int64_t count = runnable_cpu_kernels(all);
  const char* wanted = std::getenv("LIGER_CPU");
  if (!wanted) return *all[count - 1];
  std::string known;
  for (int64_t i = 0; i < count; ++i) {
    if (all[i]->name == std::string(wanted)) return *all[i];
    known += cat(known.empty() ? "" : ", ", all[i]->name);
  }
  fail(ErrorCode::kUsage, "LIGER_CPU=", wanted, ": this processor and build run ", known);
}

}  // namespace

const CpuKernels& cpu_kernels() {
  static const CpuKernels& chosen = choose();
  return chosen;
}

}  // namespace liger
