#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "command.h"
#include "hub_server.h"
#include "liger/core/download.h"
#include "liger/core/hub.h"
#include "liger/error.h"
#include "tiny_model.h"

namespace liger::test {

inline void clear_hub_variables() {
  for (const char* name :
       {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "https_proxy",
        "HTTPS_PROXY", "all_proxy", "ALL_PROXY"})
    unsetenv(name);
}

/// A hub that has org/model, a small one in two parts, and an empty cache.
class HubTest : public testing::Test {
 protected:
  HubTest() {
    clear_hub_variables();
    setenv("HOME", folder_.path().c_str(), 1);
    TinyModel model;
    model.shards = 2;
    model.write(folder_ / "model");
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "model"))
      server_.files[entry.path().filename()] = {read_file(entry.path()), entry.path().extension() == ".safetensors"};
    options_.endpoint = server_.endpoint();
    options_.retry_seconds = 0.01;
    options_.retries = 3;
  }

  std::filesystem::path cache() const { return folder_ / ".cache/huggingface/hub"; }

  /// What the CDN was asked for.
  std::string content_of(const Asked& asked) const {
    for (const auto& [_, file] : server_.files)
      if (asked.path.find(hash_of(file.content, true)) != std::string::npos) return file.content;
    return "";
  }

  std::string error_of(ErrorCode code) {
    try {
      download_model("org/model", "main", options_);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      server_.settle();
      return e.what();
    }
    ADD_FAILURE() << "it was downloaded";
    return "";
  }

  void expect_whole(const std::filesystem::path& snapshot) const {
    server_.settle();
    for (const char* name : {"config.json", "tokenizer.json", "model.safetensors.index.json",
                             "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}) {
      ASSERT_TRUE(server_.files.contains(name));
      EXPECT_TRUE(read_file(snapshot / name) == server_.files.at(name).content) << name;
    }
  }
  /// That a later run, which may not look at the network, takes what is there for no model.
  void expect_refused() const { EXPECT_THROW(resolve_model("org/model"), Error); }

  TemporaryFolder folder_;
  HubServer server_;
  DownloadOptions options_;
};

}  // namespace liger::test
