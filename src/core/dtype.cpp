#include "liger/core/dtype.h"

#include "liger/error.h"

namespace liger {

at::ScalarType to_scalar_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBool: return at::kBool;
    case Dtype::kU8: return at::kByte;
    case Dtype::kI8: return at::kChar;
    case Dtype::kF8E5M2: return at::kFloat8_e5m2;
    case Dtype::kF8E4M3: return at::kFloat8_e4m3fn;
    case Dtype::kI16: return at::kShort;
    case Dtype::kU16: return at::kUInt16;
    case Dtype::kF16: return at::kHalf;
    case Dtype::kBF16: return at::kBFloat16;
    case Dtype::kI32: return at::kInt;
    case Dtype::kU32: return at::kUInt32;
    case Dtype::kF32: return at::kFloat;
    case Dtype::kF64: return at::kDouble;
    case Dtype::kI64: return at::kLong;
    case Dtype::kU64: return at::kUInt64;
  }
  fail(ErrorCode::kInternal, "unknown dtype");
}

Dtype to_file_dtype(at::ScalarType type) {
  for (int i = 0; i <= static_cast<int>(Dtype::kU64); ++i)
    if (to_scalar_type(static_cast<Dtype>(i)) == type) return static_cast<Dtype>(i);
  fail(ErrorCode::kBadInput, "a tensor of type ", type, " cannot be stored in a safetensors file");
}

at::ScalarType scalar_type_from_string(const std::string& name) {
  if (name == "f32" || name == "fp32" || name == "float32") return at::kFloat;
  if (name == "bf16" || name == "bfloat16") return at::kBFloat16;
  if (name == "f16" || name == "fp16" || name == "float16") return at::kHalf;
  if (name == "f64" || name == "fp64" || name == "float64") return at::kDouble;
  fail(ErrorCode::kUsage, "dtype '", name, "': expected f32, bf16, f16 or f64");
}

}  // namespace liger
