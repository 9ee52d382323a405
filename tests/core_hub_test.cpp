#include <gtest/gtest.h>

#include <cstdlib>

#include "command.h"
#include "liger/core/hub.h"
#include "liger/error.h"
#include "tiny_model.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

const char* const kVariables[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"};

class Hub : public testing::Test {
 protected:
  Hub() {
    for (const char* name : kVariables) unsetenv(name);
    setenv("HOME", folder_.path().c_str(), 1);
  }

  // As `hf download` leaves it: blobs, a snapshot of links to them, and the commit's name under refs.
  fs::path add_to_cache(const fs::path& hub, const std::string& entry, const std::string& commit = "0123abc") {
    const fs::path root = hub / entry;
    test::write_file(root / "blobs/c0ffee", "{}");
    test::write_file(root / "refs/main", commit);
    const fs::path snapshot = root / "snapshots" / commit;
    fs::create_directories(snapshot);
    for (const char* name : {"config.json", "model.safetensors"})
      fs::create_symlink("../../blobs/c0ffee", snapshot / name);
    return snapshot;
  }

  std::string error_of(const std::string& name) {
    try {
      resolve_model(name);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return e.what();
    }
    ADD_FAILURE() << name << " was found";
    return "";
  }

  test::TemporaryFolder folder_;
};

TEST_F(Hub, AFolderIsItself) { EXPECT_EQ(resolve_model(folder_.path().string()), folder_.path()); }

TEST_F(Hub, FindsNamesAndIdsInTheDefaultCache) {
  const fs::path snapshot = add_to_cache(folder_ / ".cache/huggingface/hub", "models--meta-llama--Llama-3.2-1B");
  EXPECT_EQ(resolve_model("llama3.2-1b"), snapshot);
  EXPECT_EQ(resolve_model("Llama3.2-1B"), snapshot);
  EXPECT_EQ(resolve_model("meta-llama/Llama-3.2-1B"), snapshot);
  EXPECT_EQ(model_display_name(snapshot), "Llama-3.2-1B");
  EXPECT_EQ(repository_of_folder(snapshot), "meta-llama/Llama-3.2-1B");
}

TEST_F(Hub, TheVariablesTakeTurns) {
  const std::string entry = "models--google--gemma-2b";
  const fs::path xdg = add_to_cache(folder_ / "xdg/huggingface/hub", entry);
  setenv("XDG_CACHE_HOME", (folder_ / "xdg").c_str(), 1);
  EXPECT_EQ(resolve_model("gemma-2b"), xdg);
  const fs::path home = add_to_cache(folder_ / "home/hub", entry);
  setenv("HF_HOME", (folder_ / "home").c_str(), 1);
  EXPECT_EQ(resolve_model("gemma-2b"), home);
  const fs::path cache = add_to_cache(folder_ / "cache", entry);
  setenv("HF_HUB_CACHE", (folder_ / "cache").c_str(), 1);
  EXPECT_EQ(resolve_model("gemma-2b"), cache);
}

TEST_F(Hub, WithoutRefsTheOnlySnapshotCounts) {
  const fs::path hub = folder_ / ".cache/huggingface/hub";
  const fs::path snapshot = add_to_cache(hub, "models--google--gemma-7b");
  fs::remove(hub / "models--google--gemma-7b/refs/main");
  EXPECT_EQ(resolve_model("gemma-7b"), snapshot);
  fs::create_directories(snapshot.parent_path() / "4567def");
  EXPECT_NE(error_of("gemma-7b").find("hf download google/gemma-7b"), std::string::npos);
}

TEST_F(Hub, SaysWhereItLookedAndWhatFetchesTheModel) {
  const std::string error = error_of("llama3-8b");
  EXPECT_NE(error.find("hf download meta-llama/Meta-Llama-3-8B"), std::string::npos) << error;
  EXPECT_NE(error.find((folder_ / ".cache/huggingface/hub/models--meta-llama--Meta-Llama-3-8B").string()),
            std::string::npos)
      << error;
}

TEST_F(Hub, SaysWhenADownloadIsNotComplete) {
  const fs::path snapshot = add_to_cache(folder_ / ".cache/huggingface/hub", "models--org--model");
  fs::remove(snapshot / "config.json");
  const std::string error = error_of("org/model");
  EXPECT_NE(error.find("not complete"), std::string::npos) << error;
  EXPECT_NE(error.find("hf download org/model"), std::string::npos) << error;
  EXPECT_NE(error.find("--download"), std::string::npos) << error;
}

TEST_F(Hub, MissingWeightsAreNoticed) {
  const fs::path snapshot = add_to_cache(folder_ / ".cache/huggingface/hub", "models--org--model");
  fs::remove(snapshot / "model.safetensors");
  EXPECT_NE(error_of("org/model").find("its weights"), std::string::npos);
  test::write_file(snapshot / "model.safetensors.index.json", R"({"weight_map": {"a": "one.safetensors"}})");
  EXPECT_NE(error_of("org/model").find("one.safetensors"), std::string::npos);
  test::write_file(snapshot / "one.safetensors", "x");
  EXPECT_EQ(resolve_model("org/model"), snapshot) << "a cache without links";
}

TEST_F(Hub, LinksLeadIntoBlobsOnly) {
  const fs::path hub = folder_ / ".cache/huggingface/hub";
  const fs::path snapshot = add_to_cache(hub, "models--org--model"), link = snapshot / "LICENSE";
  test::write_file(folder_ / "secret", "x");
  test::write_file(hub / "models--org--other/blobs/x", "x");
  fs::create_directories(folder_ / "folder");
  for (const fs::path& target : {folder_ / "secret", fs::path("../../../../../../secret"), folder_ / "folder",
                                 fs::path("../../refs/main"), fs::path("../../../models--org--other/blobs/x")}) {
    fs::create_symlink(target, link);
    EXPECT_THROW(resolve_model("org/model"), Error) << target;
    fs::remove(link);
  }
  EXPECT_EQ(resolve_model("org/model"), snapshot);
  // huggingface_hub 2 keeps equal files of several models once, and links the blob to them.
  const std::string hash = "ab" + std::string(62, '0');
  test::write_file(hub / "blobs/ab" / hash, "x");
  fs::create_symlink("../../blobs/ab/" + hash, snapshot.parent_path().parent_path() / "blobs/shared");
  fs::create_symlink("../../blobs/shared", link);
  EXPECT_EQ(resolve_model("org/model"), snapshot);
  fs::rename(snapshot, folder_ / "moved");
  fs::create_directory_symlink(folder_ / "moved", snapshot);
  EXPECT_THROW(resolve_model("org/model"), Error);
}

TEST_F(Hub, KnownNamesAreRepositories) {
  const std::pair<const char*, const char*> names[] = {
      {"gemma2-2b", "google--gemma-2-2b"},      {"gemma3-1b", "google--gemma-3-1b-pt"},
      {"pythia-70m", "EleutherAI--pythia-70m"}, {"mistral-7b", "mistralai--Mistral-7B-v0.1"},
      {"qwen2.5-0.5b", "Qwen--Qwen2.5-0.5B"},   {"qwen3-0.6b-base", "Qwen--Qwen3-0.6B-Base"}};
  for (const auto& [name, entry] : names)
    EXPECT_NE(error_of(name).find(std::string("models--") + entry), std::string::npos) << name;
  EXPECT_NE(error_of("quen2.5-0.5b").find("did you mean qwen2.5-0.5b?"), std::string::npos);
}

TEST_F(Hub, UnknownNamesAndPathsListWhatIsKnown) {
  for (const char* name : {"lama3-8b", "./missing", "/no/such/folder", "a/b/c", "../x", "org/..", "/x", "x/"}) {
    EXPECT_NE(error_of(name).find("tinyllama"), std::string::npos) << name;
  }
  error_of("");
}

TEST_F(Hub, AFileIsNoFolder) {
  test::write_file(folder_ / "model.gguf", "x");
  EXPECT_NE(error_of((folder_ / "model.gguf").string()).find("got a file"), std::string::npos);
}

TEST_F(Hub, RefsCannotLeadOutOfTheCache) {
  add_to_cache(folder_ / ".cache/huggingface/hub", "models--org--model");
  test::write_file(folder_ / ".cache/huggingface/hub/models--org--model/refs/main", "../../../../..\n");
  EXPECT_THROW(resolve_model("org/model"), Error);
}

}  // namespace
}  // namespace liger
