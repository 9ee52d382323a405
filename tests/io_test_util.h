#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "liger/error.h"

namespace liger::test {

/// A folder of its own for each test, removed at its end.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "liger-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  /// Names of everything in the folder, hidden files too.
  std::vector<std::string> list() const { return list(path_); }
  static std::vector<std::string> list(const std::filesystem::path& folder) {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::filesystem::path path_;
};

inline void put(const std::filesystem::path& file, std::string_view bytes) {
  std::ofstream out(file, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(out.flush().good()) << file;
}

inline std::string get(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The code and the text of the Error that `body` throws; fails the test if it throws none, or one of several lines.
template <typename Body>
Error error_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error;
  }
  ADD_FAILURE() << "expected a liger::Error";
  return Error("");
}

#define EXPECT_LIGER_ERROR(statement, expected_code, expected_text)                               \
  do {                                                                                            \
    const ::liger::Error error_ = ::liger::test::error_of([&] { statement; });                    \
    EXPECT_EQ(static_cast<int>(error_.code()), static_cast<int>(expected_code)) << error_.what(); \
    EXPECT_NE(std::string(error_.what()).find(expected_text), std::string::npos)                  \
        << "got: " << error_.what() << "\nexpected: " << (expected_text);                         \
  } while (false)

}  // namespace liger::test
