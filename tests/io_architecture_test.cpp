// Every #include of ours against the direction of dependencies.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

namespace {

namespace fs = std::filesystem;

// What a folder of src/ (and its counterpart in include/liger/) may include besides itself.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"io", {}},
    {"core", {"io"}},
    {"distributed", {"core", "io"}},
    {"models", {"core", "io"}},
    {"ops", {"cpu", "core", "io"}},
    {"cpu", {"core"}},
    {"recurrence", {"cpu", "core", "io"}},
    {"nn", {"ops", "recurrence", "cpu", "models", "core", "io"}},
    {"convert", {"nn", "models", "core", "io"}},
    {"train", {"generate", "nn", "ops", "models", "distributed", "core", "io"}},
    {"eval", {"nn", "ops", "models", "core", "io"}},
    {"generate", {"nn", "ops", "models", "core", "io"}},
};
const std::set<std::string> kAnywhere = {"error.h"};

void check_folder(const fs::path& folder, const std::string& name, std::vector<std::string>& wrong) {
  static const std::regex include(R"re(^\s*#include "(?:liger/)?([a-z_]+)(/[a-z_./]+|\.h)")re");
  if (!fs::exists(folder)) return;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".h" && entry.path().extension() != ".cpp") continue;
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      std::smatch match;
      if (!std::regex_search(line, match, include)) continue;
      const std::string target = match[1];
      if (match[2] == ".h" && kAnywhere.contains(target + ".h")) continue;
      if (target == name || kMayInclude.at(name).contains(target)) continue;
      // Only the bridge to the CUDA kernels, nn/cuda_*, knows their headers.
      const bool is_bridge = name == "nn" && entry.path().filename().string().starts_with("cuda_");
      if (is_bridge && fs::exists(fs::path(LIGER_SOURCE) / "kernels" / (target + ".h"))) continue;
      wrong.push_back(entry.path().string() + ": " + line);
    }
  }
}

TEST(Architecture, IncludesFollowTheDirectionOfDependencies) {
  const fs::path root = LIGER_SOURCE;
  std::vector<std::string> wrong;
  for (const auto& [name, allowed] : kMayInclude) {
    ASSERT_TRUE(fs::exists(root / "src" / name)) << name;
    check_folder(root / "src" / name, name, wrong);
    check_folder(root / "include" / "liger" / name, name, wrong);
  }
  for (const std::string& line : wrong) ADD_FAILURE() << line;
}

TEST(Architecture, KernelsKnowNeitherTorchNorTheRest) {
  for (const auto& entry : fs::directory_iterator(fs::path(LIGER_SOURCE) / "kernels")) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path());
    static const std::regex ours("#include .*(torch/|ATen|c10/|\"liger/)");
    for (std::string line; std::getline(in, line);)
      EXPECT_FALSE(std::regex_search(line, ours)) << entry.path() << ": " << line;
  }
}

TEST(Architecture, FilesStayShort) {
  const fs::path root = LIGER_SOURCE;
  for (const char* top : {"src", "include", "tools", "kernels", "tests", "benchmarks"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      const auto extension = entry.path().extension();
      if (extension != ".h" && extension != ".cpp" && extension != ".cu") continue;
      if (entry.path().filename() == "unicode_tables.cpp") continue;  // generated
      std::ifstream in(entry.path());
      int64_t lines = 0;
      for (std::string line; std::getline(in, line);) ++lines;
      EXPECT_LE(lines, 600) << entry.path();
    }
  }
}

}  // namespace
