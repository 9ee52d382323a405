#pragma once

#include <filesystem>

namespace liger {

/// Writes DIR/MANIFEST.json: size and sha256 of every file in the folder, as AtomicDirectory does. Throws Error(kIo).
void write_manifest(const std::filesystem::path& dir);

/// Checks `file` against the MANIFEST.json of its folder. False where the folder has none, or it does not list the
/// file. Throws Error(kBadInput) if size or sha256 differ.
bool verify_by_manifest(const std::filesystem::path& file);

}  // namespace liger
