#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

// The event files TensorBoard reads: records of a length, the length's checksum, a protobuf `Event` and its checksum.

namespace liger::detail {

inline constexpr std::string_view kTfeventsPrefix = "events.out.tfevents.";

/// CRC-32C (Castagnoli).
uint32_t crc32c(std::string_view bytes);

/// events.out.tfevents.TIME.HOST.PID.0, with the time in whole seconds since 1970.
std::string tfevents_name(double wall_time);

/// The record an event file begins with.
std::string tfevents_version_record(double wall_time);

struct TaggedScalar {
  std::string_view tag;  ///< "train/loss": what stands before '/' groups the curves
  double value;          ///< written as float32
};
/// One point of each curve in `scalars`.
std::string tfevents_scalars_record(double wall_time, int64_t step, std::span<const TaggedScalar> scalars);

/// A text (UTF-8; TensorBoard takes it for Markdown) under a tag.
std::string tfevents_text_record(double wall_time, int64_t step, std::string_view tag, std::string_view text);

}  // namespace liger::detail
