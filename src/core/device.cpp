#include "liger/core/device.h"

#include <ATen/DeviceAccelerator.h>

#include <charconv>

#include "liger/error.h"

namespace liger {
namespace {

int gpus() {
  const auto kind = at::getAccelerator();
  return kind == at::kCUDA ? at::accelerator::deviceCount() : 0;
}

}  // namespace

c10::Device device_from_string(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  int index = 0;
  const char *begin = name.data(), *end = begin + name.size();
  const bool numbered = name.starts_with("cuda:");
  const auto [rest, error] = numbered ? std::from_chars(begin + 5, end, index) : std::from_chars_result{end, {}};
  LIGER_CHECK_USAGE((name == "cuda" || numbered) && error == std::errc() && rest == end && index >= 0, "device '", name,
                    "': expected cpu, cuda or cuda:N");
  const int count = gpus();
  LIGER_CHECK_USAGE(count > 0, "device '", name,
                    "': no GPU that this program could use: the machine has none, its driver does not answer, or the "
                    "LibTorch in use was built without CUDA");
  LIGER_CHECK_USAGE(index < count, "device '", name, "': this machine has ", count, count == 1 ? " GPU" : " GPUs",
                    ", the last is cuda:", count - 1);
  return {at::kCUDA, static_cast<c10::DeviceIndex>(index)};
}

}  // namespace liger
