#include <algorithm>
#include <set>

#include "io/atomic_directory.h"
#include "io/text.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/json.h"
#include "liger/io/manifest.h"

namespace liger {
namespace fs = std::filesystem;
namespace {

/// A path from a manifest must stay inside its folder.
bool is_inside(const fs::path& relative) {
  return !relative.empty() && relative.is_relative() &&
         std::none_of(relative.begin(), relative.end(), [](const fs::path& part) { return part == ".."; });
}

void verify_entry(const fs::path& dir, const Json& entry) {
  const std::string manifest = (dir / detail::kManifest).string();
  const auto has = [&](const char* key, auto is_type) { return entry.contains(key) && (entry[key].*is_type)(); };
  LIGER_CHECK(entry.is_object() && has("path", &Json::is_string) && has("size", &Json::is_number_unsigned) &&
                  (!entry.contains("sha256") || entry["sha256"].is_string()),
              manifest, ": each of 'files' needs a path, a size and perhaps a sha256");
  const fs::path relative = entry["path"].get<std::string>();
  LIGER_CHECK(is_inside(relative), manifest, ": '", detail::printable(relative.string()), "' leads outside the folder");
  const fs::path file = dir / relative;
  std::error_code error;
  LIGER_CHECK(fs::exists(file, error), file.string(), ": missing, though ", detail::kManifest, " lists it");
  const uint64_t size = detail::size_of(detail::open_regular(file), file);
  const auto expected = entry["size"].get<uint64_t>();
  LIGER_CHECK(size == expected, file.string(), ": expected ", expected, " bytes, got ", size, "; ", detail::kManifest,
              " lists another size");
  if (!entry.contains("sha256")) return;
  LIGER_CHECK(sha256_file(file) == entry["sha256"].get<std::string>(), file.string(),
              ": its sha256 differs from the one in ", detail::kManifest);
}

/// The array 'files'.
Json read_manifest(const fs::path& dir) {
  const fs::path file = dir / detail::kManifest;
  Json manifest = read_json(file, size_t{64} << 20);
  LIGER_CHECK(manifest.is_object() && manifest.contains("files") && manifest["files"].is_array(), file.string(),
              ": expected an object with an array 'files'");
  LIGER_CHECK(manifest.contains("version") && manifest["version"] == 1, file.string(), ": expected version 1");
  return std::move(manifest["files"]);
}

}  // namespace

namespace detail {

void write_manifest(const fs::path& folder, uint64_t hash_limit) {
  std::vector<fs::path> files, folders{folder};
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_symlink() || (!entry.is_directory() && !entry.is_regular_file())) {
      fail(ErrorCode::kInternal, entry.path().string(), ": only files and folders can be committed");
    }
    (entry.is_directory() ? folders : files).push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  OrderedJson list = OrderedJson::array();
  for (const fs::path& file : files) {
    if (file == folder / kManifest) continue;
    const Fd fd = open_regular(file);
    sync_file(fd, file);
    const uint64_t size = size_of(fd, file);
    OrderedJson entry = {{"path", file.lexically_relative(folder).generic_string()}, {"size", size}};
    if (hash_limit == 0 || size <= hash_limit) entry["sha256"] = sha256_file(file);
    list.push_back(std::move(entry));
  }
  const OrderedJson manifest = {{"version", 1}, {"files", std::move(list)}};
  write_text_atomic(folder / kManifest, manifest.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
  for (const fs::path& at : folders) sync_folder(at);
}

std::optional<fs::path> first_unlisted(const fs::path& folder) {
  std::set<fs::path> listed{kManifest};
  for (const Json& entry : read_manifest(folder)) {
    if (entry.contains("path") && entry["path"].is_string()) listed.insert(fs::path(entry["path"].get<std::string>()));
  }
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_directory() && !entry.is_symlink()) continue;
    if (!listed.contains(entry.path().lexically_relative(folder))) return entry.path();
  }
  return {};
}

}  // namespace detail

void verify_manifest(const fs::path& dir) {
  for (const Json& entry : read_manifest(dir)) verify_entry(dir, entry);
}

void write_manifest(const fs::path& dir) { detail::write_manifest(dir, 0); }

bool verify_by_manifest(const fs::path& file) {
  const fs::path dir = file.parent_path().empty() ? "." : file.parent_path();
  std::error_code error;
  if (!fs::exists(dir / detail::kManifest, error)) return false;
  for (const Json& entry : read_manifest(dir)) {
    const bool named = entry.is_object() && entry.contains("path") && entry["path"].is_string();
    if (!named || entry["path"].get<std::string>() != file.filename().string()) continue;
    verify_entry(dir, entry);
    return true;
  }
  return false;
}

}  // namespace liger
