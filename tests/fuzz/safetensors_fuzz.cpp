#include "fuzz_util.h"
#include "liger/io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using liger::fuzz::require;
  static liger::fuzz::InputFile input(".safetensors");
  const auto& path = input.set(data, size);
  liger::fuzz::accept_or_refuse([&] {
    const liger::SafetensorsFile file(path);
    uint64_t end = size;
    for (auto info = file.tensors().rbegin(); info != file.tensors().rend(); ++info) {
      require(file.find(info->name) == &*info, "every tensor is found by its name");
      require(info->offset + info->bytes == end, "the tensors tile the file");
      require(info->offset % liger::item_size(info->dtype) == 0, "data are aligned");
      uint64_t elements = 1;
      for (const int64_t n : info->shape) elements *= static_cast<uint64_t>(n);
      require(elements * liger::item_size(info->dtype) == info->bytes, "shape and bytes agree");
      end = info->offset;
      liger::fuzz::accept_or_refuse([&] { require(file.data(*info).size() == info->bytes, "data are all there"); });
    }
  });
  return 0;
}
