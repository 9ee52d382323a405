#include <ATen/ops/from_blob.h>

#include <cstring>

#include "liger/core/checkpoint.h"
#include "liger/core/dtype.h"

namespace liger {

at::Tensor map_tensor(const SafetensorsFile& file, const TensorInfo& info) {
  // The deleter's copy of the pointer is what keeps the mapping.
  std::shared_ptr<MappedFile> mapping = file.mapping();
  void* data = mapping->mutable_data() + info.offset;
  return at::from_blob(data, info.shape, [mapping](void*) {}, at::TensorOptions(to_scalar_type(info.dtype)));
}

void save_tensors(const std::filesystem::path& file, const std::map<std::string, at::Tensor>& tensors,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<TensorInfo> infos;
  for (const auto& [name, tensor] : tensors)
    infos.push_back({name, to_file_dtype(tensor.scalar_type()), tensor.sizes().vec(), 0, 0});
  SafetensorsWriter writer(file, std::move(infos), metadata);
  for (const TensorInfo& info : writer.order()) {
    const at::Tensor ready = tensors.at(info.name).detach().to(at::kCPU).contiguous();
    writer.write({static_cast<const std::byte*>(ready.const_data_ptr()), ready.nbytes()});
  }
  writer.finish();
}

std::map<std::string, at::Tensor> load_tensors(const std::filesystem::path& file) {
  const SafetensorsFile source(file);
  std::map<std::string, at::Tensor> out;
  for (const TensorInfo& info : source.tensors()) out.emplace(info.name, map_tensor(source, info));
  return out;
}

}  // namespace liger
