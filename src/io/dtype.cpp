#include <array>

#include "io/text.h"
#include "liger/error.h"
#include "liger/io/safetensors.h"

namespace liger {
namespace {

struct DtypeRow {
  const char* name;
  size_t bytes;
};
// In the order of Dtype.
constexpr std::array<DtypeRow, 15> kDtypes = {{{"BOOL", 1},
                                               {"U8", 1},
                                               {"I8", 1},
                                               {"F8_E5M2", 1},
                                               {"F8_E4M3", 1},
                                               {"I16", 2},
                                               {"U16", 2},
                                               {"F16", 2},
                                               {"BF16", 2},
                                               {"I32", 4},
                                               {"U32", 4},
                                               {"F32", 4},
                                               {"F64", 8},
                                               {"I64", 8},
                                               {"U64", 8}}};
static_assert(kDtypes.size() == static_cast<size_t>(Dtype::kU64) + 1);

const DtypeRow& row(Dtype dtype) { return kDtypes.at(static_cast<size_t>(dtype)); }

}  // namespace

const char* to_string(Dtype dtype) { return row(dtype).name; }
size_t item_size(Dtype dtype) { return row(dtype).bytes; }

Dtype dtype_from_string(std::string_view name) {
  for (size_t i = 0; i < kDtypes.size(); ++i) {
    if (name == kDtypes[i].name) return static_cast<Dtype>(i);
  }
  std::string known;
  for (const DtypeRow& each : kDtypes) known += (known.empty() ? "" : ", ") + std::string(each.name);
  fail(ErrorCode::kBadInput, "unknown dtype '", detail::printable(name, 20), "'; expected one of ", known);
}

std::string shape_to_string(std::span<const int64_t> shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return out + "]";
}

}  // namespace liger
