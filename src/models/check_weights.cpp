#include "liger/models/check_weights.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "liger/error.h"
#include "liger/io/log.h"
#include "liger/models/family.h"

namespace liger {
namespace {

// Findings of one kind, those that differ in the layer's number alone as one entry.
class Findings {
 public:
  void add(const std::string& name, const std::string& detail) {
    Entry entry{name, "", detail, {}};
    if (const auto layer = layer_and_name(name)) {
      const size_t after = name.size() - layer->second.size() - 1;
      entry.before = name.substr(0, name.rfind('.', after - 1) + 1);
      entry.after = name.substr(after);
      entry.layers.insert(layer->first);
    }
    for (Entry& known : entries_) {
      if (!known.layers.empty() && !entry.layers.empty() && known.before == entry.before &&
          known.after == entry.after && known.detail == detail) {
        known.layers.merge(entry.layers);
        return;
      }
    }
    entries_.push_back(std::move(entry));
  }

  std::string text(const std::string& title) const {
    std::string text;
    for (const Entry& e : entries_) {
      text += cat(text.empty() ? cat("; ", title, " ") : ", ", e.before, ranges(e.layers), e.after, e.detail);
    }
    return text;
  }

 private:
  struct Entry {
    std::string before, after, detail;
    std::set<int64_t> layers;
  };

  static std::string ranges(const std::set<int64_t>& layers) {
    if (layers.empty()) return "";
    if (layers.size() == 1) return std::to_string(*layers.begin());
    std::string text;
    for (auto it = layers.begin(); it != layers.end();) {
      const int64_t first = *it;
      int64_t last = first;
      while (++it != layers.end() && *it == last + 1) last = *it;
      text += cat(text.empty() ? "" : ",", first);
      if (last > first) text += cat("-", last);
    }
    return cat("{", text, "}");
  }

  std::vector<Entry> entries_;
};

bool equal_bytes(const WeightFiles::Entry& a, const WeightFiles::Entry& b) {
  constexpr uint64_t kPiece = uint64_t{4} << 20;
  std::vector<std::byte> from_a(kPiece), from_b(kPiece);
  for (uint64_t begin = 0; begin < a.info->bytes; begin += kPiece) {
    const uint64_t count = std::min(kPiece, a.info->bytes - begin);
    a.file->mapping()->read_at(a.info->offset + begin, std::span(from_a).first(count));
    b.file->mapping()->read_at(b.info->offset + begin, std::span(from_b).first(count));
    if (std::memcmp(from_a.data(), from_b.data(), count) != 0) return false;
  }
  return true;
}

// Bits of a number's exponent and fraction: it is NaN if the first are all set and the second are not all zero.
bool is_nan(Dtype dtype, uint64_t bits) {
  const int fraction = dtype == Dtype::kF64 ? 52 : dtype == Dtype::kF32 ? 23 : dtype == Dtype::kBF16 ? 7 : 10;
  const uint64_t exponent = dtype == Dtype::kF64 ? 0x7FF : dtype == Dtype::kF16 ? 0x1F : 0xFF;
  return (bits >> fraction & exponent) == exponent && (bits & ((uint64_t{1} << fraction) - 1)) != 0;
}

uint64_t bytes_of(Dtype dtype) { return dtype == Dtype::kF64 ? 8 : dtype == Dtype::kF32 ? 4 : 2; }
uint64_t numbers_in(const WeightFiles::Entry& entry) { return entry.info->bytes / bytes_of(entry.info->dtype); }

// What all numbers of a tensor are, as far as a look has gone.
struct Sameness {
  bool nan = true, equal = true;
};

// The numbers from `begin` on, `count` of them, added to what is known.
void look(const WeightFiles::Entry& entry, uint64_t begin, uint64_t count, std::optional<uint64_t>& first,
          Sameness& same) {
  const uint64_t width = bytes_of(entry.info->dtype);
  std::vector<std::byte> bytes(count * width);
  entry.file->mapping()->read_at(entry.info->offset + begin * width, bytes);
  for (uint64_t i = 0; i < count && (same.nan || same.equal); ++i) {
    uint64_t bits = 0;
    std::memcpy(&bits, bytes.data() + i * width, width);
    if (!first) first = bits;
    same.nan = same.nan && is_nan(entry.info->dtype, bits);
    same.equal = same.equal && bits == *first;
  }
}

// Nearly every tensor is told by its first numbers.
Sameness sameness(const WeightFiles::Entry& entry) {
  constexpr uint64_t kFirst = 64, kPiece = uint64_t{1} << 20;
  Sameness same;
  std::optional<uint64_t> first;
  const uint64_t count = numbers_in(entry);
  for (uint64_t begin = 0; begin < count && (same.nan || same.equal);) {
    const uint64_t piece = std::min(count - begin, begin == 0 ? kFirst : kPiece);
    look(entry, begin, piece, first, same);
    begin += piece;
  }
  return same;
}

// The head of a tied model: a copy of the embedding is as good as none.
void check_tied_head(const WeightFiles& weights, const Family& family, const std::string& where) {
  const auto* head = weights.find(family.head_weight());
  const auto* embedding = weights.find(family.embedding_weight());
  if (head == nullptr || embedding == nullptr) return;
  const bool equal = head->info->dtype == embedding->info->dtype && head->info->shape == embedding->info->shape &&
                     equal_bytes(*head, *embedding);
  LIGER_CHECK(equal, where, ": config.json says tie_word_embeddings, but ", family.head_weight(), " differs from ",
              family.embedding_weight(), "; if the head is meant, set \"tie_word_embeddings\": false");
}

}  // namespace

std::string unsound_weights(const WeightFiles& weights) {
  std::vector<std::string> nan, equal;
  for (const auto& [name, entry] : weights.entries()) {
    if (!is_weight_dtype(entry.info->dtype) || entry.info->bytes == 0) continue;
    const Sameness same = sameness(entry);
    if (same.nan) {
      nan.push_back(name);
    } else if (same.equal && entry.info->shape.size() > 1 && numbers_in(entry) > 1) {
      equal.push_back(name);
    }
  }
  const auto told = [](const std::vector<std::string>& names, const char* what) {
    if (names.empty()) return std::string();
    return cat(names.size(), names.size() == 1 ? " tensor holds " : " tensors hold ", what, " (", names.front(),
               names.size() > 1 ? ", ...)" : ")");
  };
  const std::string first = told(nan, "nothing but NaN"), second = told(equal, "one value only");
  return first + (first.empty() || second.empty() ? "" : "; ") + second;
}

bool is_weight_dtype(Dtype dtype) {
  return dtype == Dtype::kF64 || dtype == Dtype::kF32 || dtype == Dtype::kBF16 || dtype == Dtype::kF16;
}

bool is_derived_tensor(const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attention.bias") ||
         name.ends_with(".attention.masked_bias");
}

void check_weights(const WeightFiles& weights, const ModelConfig& config, const std::string& where) {
  Findings missing, extra, misshapen, mistyped;
  std::set<std::string, std::less<>> expected;
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    expected.insert(tensor.name);
    const auto* entry = weights.find(tensor.name);
    if (entry == nullptr) {
      missing.add(tensor.name, cat(" ", shape_to_string(tensor.shape)));
      continue;
    }
    if (entry->info->shape != tensor.shape) {
      misshapen.add(tensor.name,
                    cat(" expected ", shape_to_string(tensor.shape), ", got ", shape_to_string(entry->info->shape)));
    }
    if (!is_weight_dtype(entry->info->dtype)) mistyped.add(tensor.name, cat(" ", to_string(entry->info->dtype)));
  }
  for (const auto& [name, entry] : weights.entries()) {
    const bool tied_head = config.tie_word_embeddings && name == config.family->head_weight();
    if (!expected.contains(name) && !tied_head && !is_derived_tensor(name)) {
      extra.add(name, cat(" ", shape_to_string(entry.info->shape)));
    }
  }
  const std::string found = missing.text("missing") + extra.text("unexpected") + misshapen.text("wrong shape:") +
                            mistyped.text("no floating-point numbers:");
  if (!found.empty()) fail(ErrorCode::kBadInput, where, ": weights do not fit config.json: ", found.substr(2));
  if (config.tie_word_embeddings) check_tied_head(weights, *config.family, where);
  const std::string unsound = unsound_weights(weights);
  if (!unsound.empty()) log_warning(cat(where, ": ", unsound, "; was it saved whole?"));
}

}  // namespace liger
