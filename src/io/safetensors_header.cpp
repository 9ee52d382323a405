#include "io/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "io/json_sax.h"

namespace liger::detail {
namespace {

/// Accepts exactly { "__metadata__": {string: string}, name: {dtype, shape, data_offsets}, ... } and refuses anything
/// else at the byte where it begins, so that a hostile header costs no more memory than the tensors it lists.
class HeaderSax : public StrictSax {
 public:
  HeaderSax(JsonText& text, SafetensorsHeader& out) : StrictSax(text), out_(out) {}

  bool null() { refuse("null"); }
  bool boolean(bool) { refuse("a boolean"); }
  bool number_integer(int64_t value) { refuse("the integer " + std::to_string(value)); }
  bool number_float(double, const std::string& digits) { refuse("the number " + printable(digits, 40)); }
  bool number_unsigned(uint64_t value);
  bool string(std::string& value);
  bool key(std::string& name);
  bool start_object(size_t);
  bool end_object();
  bool start_array(size_t);
  bool end_array();

 private:
  enum class In { kNothing, kRoot, kTensor, kShape, kOffsets, kMetadata };
  enum Field { kNoField = 0, kDtype = 1, kShape = 2, kOffsets = 4, kAllFields = 7 };

  const char* expected() const;
  [[noreturn]] void refuse(const std::string& got) const {
    fail_here(std::string("expected ") + expected() + ", got " + got);
  }
  void start_tensor(std::string& name);
  void start_field(const std::string& name);
  std::string tensor() const { return "tensor '" + printable(now_.name) + "'"; }

  SafetensorsHeader& out_;
  In in_ = In::kNothing;
  TensorInfo now_;
  std::vector<uint64_t> offsets_;
  int seen_ = kNoField;
  Field field_ = kNoField;
  bool metadata_next_ = false, metadata_seen_ = false;
  std::string* metadata_value_ = nullptr;
};

const char* HeaderSax::expected() const {
  switch (in_) {
    case In::kNothing: return "an object";
    case In::kRoot: return metadata_next_ ? "an object of strings" : "an object with dtype, shape and data_offsets";
    case In::kTensor:
      return field_ == kDtype ? "the name of a dtype" : field_ == kShape ? "a list of sizes" : "a list of two offsets";
    case In::kShape: return "a size, a whole number from 0";
    case In::kOffsets: return "an offset, a whole number from 0";
    case In::kMetadata: return "a string";
  }
  return "";
}

bool HeaderSax::number_unsigned(uint64_t value) {
  if (in_ == In::kShape) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) fail_here(tensor() + ": size too large");
    if (now_.shape.size() == kMaxRank) fail_here(tensor() + ": more than 8 dimensions");
    now_.shape.push_back(static_cast<int64_t>(value));
  } else if (in_ == In::kOffsets) {
    if (offsets_.size() == 2) fail_here(tensor() + ": expected two data_offsets, got more");
    offsets_.push_back(value);
  } else {
    refuse("the integer " + std::to_string(value));
  }
  return true;
}

bool HeaderSax::string(std::string& value) {
  if (in_ == In::kMetadata) {
    *metadata_value_ = std::move(value);
  } else if (in_ == In::kTensor && field_ == kDtype) {
    try {
      now_.dtype = dtype_from_string(value);
    } catch (const Error& error) {
      fail_at_string(tensor() + ": " + error.what());
    }
  } else {
    refuse("a string");
  }
  return true;
}

bool HeaderSax::key(std::string& name) {
  if (in_ == In::kMetadata) {
    const auto [at, fresh] = out_.metadata.try_emplace(name);
    if (!fresh) fail_at_string("duplicate metadata key '" + printable(name) + "'");
    metadata_value_ = &at->second;
  } else if (in_ == In::kTensor) {
    start_field(name);
  } else if (name == "__metadata__") {
    if (metadata_seen_) fail_at_string("duplicate '__metadata__'");
    metadata_next_ = metadata_seen_ = true;
  } else {
    start_tensor(name);
  }
  return true;
}

void HeaderSax::start_tensor(std::string& name) {
  if (name.empty()) fail_at_string("a tensor without a name");
  if (name.size() > kMaxName)
    fail_at_string("tensor name of " + std::to_string(name.size()) + " bytes, at most 1024 are allowed");
  if (name.find('\0') != std::string::npos) fail_at_string("NUL in the tensor name '" + printable(name) + "'");
  if (out_.tensors.size() == kMaxTensors) fail_at_string("more than 1000000 tensors");
  if (!out_.by_name.try_emplace(name, 0).second) fail_at_string("duplicate tensor '" + printable(name) + "'");
  now_ = TensorInfo{};
  now_.name = std::move(name);
  offsets_.clear();
  seen_ = kNoField;
}

void HeaderSax::start_field(const std::string& name) {
  field_ = name == "dtype" ? kDtype : name == "shape" ? kShape : name == "data_offsets" ? kOffsets : kNoField;
  if (field_ == kNoField) fail_at_string(tensor() + ": unknown field '" + printable(name) + "'");
  if ((seen_ & field_) != 0) fail_at_string(tensor() + ": duplicate field '" + name + "'");
  seen_ |= field_;
}

bool HeaderSax::start_object(size_t) {
  if (in_ == In::kNothing) {
    in_ = In::kRoot;
  } else if (in_ == In::kRoot) {
    in_ = metadata_next_ ? In::kMetadata : In::kTensor;
  } else {
    refuse("an object");
  }
  return true;
}

bool HeaderSax::end_object() {
  if (in_ == In::kTensor) {
    if (seen_ != kAllFields) {
      const char* missing = !(seen_ & kDtype) ? "dtype" : !(seen_ & kShape) ? "shape" : "data_offsets";
      fail_here(tensor() + ": '" + missing + "' is missing");
    }
    if (offsets_[0] > offsets_[1]) fail_here(tensor() + ": data_offsets end before they begin");
    now_.offset = offsets_[0];
    now_.bytes = offsets_[1] - offsets_[0];
    out_.tensors.push_back(std::move(now_));
  }
  if (in_ == In::kMetadata) metadata_next_ = false;
  in_ = in_ == In::kRoot ? In::kNothing : In::kRoot;
  return true;
}

bool HeaderSax::start_array(size_t) {
  if (in_ != In::kTensor || field_ == kDtype) refuse("a list");
  in_ = field_ == kShape ? In::kShape : In::kOffsets;
  return true;
}

bool HeaderSax::end_array() {
  if (in_ == In::kOffsets && offsets_.size() != 2) {
    fail_here(tensor() + ": expected two data_offsets, got " + std::to_string(offsets_.size()));
  }
  in_ = In::kTensor;
  return true;
}

void check_tensor(const TensorInfo& info, uint64_t data_start, const std::string& where) {
  const std::optional<uint64_t> bytes = checked_bytes(info.shape, info.dtype);
  LIGER_CHECK(bytes.has_value(), where, ": shape ", shape_to_string(info.shape), " overflows");
  LIGER_CHECK(*bytes == info.bytes, where, ": ", to_string(info.dtype), " ", shape_to_string(info.shape), " takes ",
              *bytes, " bytes, but data_offsets span ", info.bytes);
  LIGER_CHECK((data_start + info.offset) % item_size(info.dtype) == 0, where, ": its data begin at byte ",
              data_start + info.offset, " of the file, not a multiple of ", item_size(info.dtype),
              "; save the file again with a current safetensors library");
}

}  // namespace

std::optional<uint64_t> checked_bytes(std::span<const int64_t> shape, Dtype dtype) {
  // The product in this order, as the reference forms it: a later 0 does not excuse an overflow.
  uint64_t bytes = 1;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) return std::nullopt;
  }
  if (__builtin_mul_overflow(bytes, item_size(dtype), &bytes)) return std::nullopt;
  if (bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
  return bytes;
}

SafetensorsHeader parse_safetensors_header(std::string_view json, uint64_t data_start, uint64_t data_bytes,
                                           const std::string& source) {
  SafetensorsHeader header;
  JsonText text(json, source + ": header");
  if (!json.starts_with('{')) text.fail_at(0, "expected '{', got '" + printable(json.substr(0, 8)) + "'");
  HeaderSax sax(text, header);
  run_strict_sax(text, sax);
  const size_t last = json.find_last_of('}');
  if (const size_t pad = json.find_first_not_of(' ', last + 1); pad != std::string_view::npos) {
    text.fail_at(pad, "expected spaces after the header");
  }

  std::sort(header.tensors.begin(), header.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  uint64_t end = 0;
  for (size_t i = 0; i < header.tensors.size(); ++i) {
    TensorInfo& info = header.tensors[i];
    const std::string where = source + ": tensor '" + printable(info.name) + "'";
    LIGER_CHECK(info.offset <= data_bytes && info.bytes <= data_bytes - info.offset, where, ": data_offsets [",
                info.offset, ", ", info.offset + info.bytes, "] reach beyond the ", data_bytes,
                " data bytes of the file; an incomplete download?");
    LIGER_CHECK(info.offset >= end, where, ": shares bytes with '", printable(header.tensors[i == 0 ? 0 : i - 1].name),
                "'");
    LIGER_CHECK(info.offset == end, where, ": ", info.offset - end, " unused bytes before it");
    check_tensor(info, data_start, where);
    end = info.offset + info.bytes;
    info.offset += data_start;
    header.by_name.find(info.name)->second = i;
  }
  LIGER_CHECK(end == data_bytes, source, ": ", data_bytes - end, " bytes after the last tensor");
  return header;
}

std::string name_foreign_format(std::string_view head) {
  using namespace std::string_view_literals;
  const size_t text = head.find_first_not_of(" \t\r\n");
  const std::string_view trimmed = text == std::string_view::npos ? ""sv : head.substr(text);
  const auto is = [](std::string_view bytes, std::string_view magic) { return bytes.starts_with(magic); };
  if (is(head, "PK\x03\x04"sv)) {
    return "a zip archive, perhaps weights pickled by torch.save; save them with safetensors.torch.save_file";
  }
  if (head.size() >= 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5) {
    return "a pickle, which can run code; save the weights with safetensors.torch.save_file";
  }
  if (is(head, "GGUF"sv)) return "a GGUF file; take the model's safetensors files instead";
  if (is(head, "version https://git-lfs"sv)) return "a git-lfs pointer, not the file itself; run `git lfs pull`";
  if (is(trimmed, "<!"sv) || is(trimmed, "<html"sv) || is(trimmed, "<HTML"sv) || is(trimmed, "<?xml"sv)) {
    return "a web page, perhaps the error page of a failed download; download the file again";
  }
  if (is(head, "\x1f\x8b"sv)) return "a gzip file; unpack it first";
  if (is(head, "\x28\xb5\x2f\xfd"sv)) return "a zstd file; unpack it first";
  if (is(head, "\x93NUMPY"sv)) return "a NumPy file";
  if (is(head, "\x89HDF"sv)) return "an HDF5 file";
  if (is(trimmed, "{"sv) || is(trimmed, "["sv)) return "a JSON text";
  return "";
}

}  // namespace liger::detail
