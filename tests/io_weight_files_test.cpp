#include <sys/stat.h>

#include "io_test_util.h"
#include "liger/io/json.h"
#include "liger/io/safetensors.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::put;
using test::TempDir;

void write_shard(const fs::path& file, const std::vector<std::string>& names) {
  std::vector<TensorInfo> tensors;
  for (const std::string& name : names) tensors.push_back({name, Dtype::kF32, {2}, 0, 0});
  SafetensorsWriter writer(file, tensors);
  for (const TensorInfo& info : writer.order()) writer.write(std::vector<std::byte>(info.bytes));
  writer.finish();
}

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kOne = "model-00001-of-00002.safetensors";
constexpr const char* kTwo = "model-00002-of-00002.safetensors";

/// A good folder of two shards that each test then spoils.
class WeightFolder : public testing::Test {
 protected:
  WeightFolder() {
    write_shard(dir_ / kOne, {"a", "b"});
    write_shard(dir_ / kTwo, {"c"});
    map_ = {{"a", kOne}, {"b", kOne}, {"c", kTwo}};
  }
  void write_index(Json total = 24) {
    put(dir_ / kIndex,
        Json{{"metadata", {{"total_size", total}, {"total_parameters", 6}}}, {"weight_map", map_}}.dump(2));
  }
  void refused(const std::string& expected, ErrorCode code = ErrorCode::kBadInput) {
    EXPECT_LIGER_ERROR(WeightFiles(dir_.path()), code, expected);
  }
  TempDir dir_;
  Json map_;
};

TEST_F(WeightFolder, ReadsShards) {
  write_index();
  const WeightFiles weights(dir_.path());
  EXPECT_EQ(weights.entries().size(), 3u);
  EXPECT_EQ(weights.files().size(), 2u);
  EXPECT_EQ(weights.total_bytes(), 24u);
  EXPECT_EQ(weights.find("c")->file->path().filename(), kTwo);
  EXPECT_EQ(weights.find("d"), nullptr);
}

TEST_F(WeightFolder, ReadsAnIndexWithoutTotals) {
  put(dir_ / kIndex, Json{{"weight_map", map_}}.dump());
  EXPECT_EQ(WeightFiles(dir_.path()).entries().size(), 3u);
  put(dir_ / kIndex, Json{{"metadata", {{"total_size", 24.0}}}, {"weight_map", map_}}.dump());
  EXPECT_EQ(WeightFiles(dir_.path()).entries().size(), 3u) << "older writers give a float";
}

TEST_F(WeightFolder, OneFileNeedsNoIndex) {
  write_shard(dir_ / "model.safetensors", {"x"});
  const WeightFiles weights(dir_.path());
  EXPECT_EQ(weights.entries().size(), 1u);
}

TEST_F(WeightFolder, AbsentShard) {
  map_["c"] = "model-00003-of-00003.safetensors";
  write_index();
  refused("model-00003-of-00003.safetensors: missing, though model.safetensors.index.json names it");
}

TEST_F(WeightFolder, AbsentTensor) {
  map_["d"] = kTwo;
  write_index();
  refused("index.json: tensor 'd' is not in model-00002-of-00002.safetensors");
}

TEST_F(WeightFolder, TensorMissingFromTheIndex) {
  map_.erase("b");
  write_index(16);
  refused("index.json: tensor 'b' of model-00001-of-00002.safetensors is not in 'weight_map'");
}

TEST_F(WeightFolder, TensorInTwoShards) {
  write_shard(dir_ / kTwo, {"c", "a"});
  write_index(32);
  refused("tensor 'a' is in two files, model-00001-of-00002.safetensors and model-00002-of-00002.safetensors");
}

TEST_F(WeightFolder, TensorInTheOtherShard) {
  map_["b"] = kTwo;
  write_index();
  refused("tensor 'b' is in model-00001-of-00002.safetensors, but 'weight_map' names model-00002");
}

TEST_F(WeightFolder, WrongTotal) {
  write_index(25);
  refused("'total_size' is 25, but the tensors take 24 bytes");
  for (const Json& bad : {Json("24"), Json(-24), Json(1e30), Json(23.5), Json(nullptr), Json::array()}) {
    write_index(bad);
    refused("'total_size': expected a number of bytes");
  }
}

TEST_F(WeightFolder, ShardNamesAreCheckedBeforeAnyIsOpened) {
  write_shard(dir_ / "outside.safetensors", {"c"});
  fs::create_directory(dir_ / "sub");
  write_shard(dir_ / "sub" / "in.safetensors", {"c"});
  for (const std::string& name :
       {std::string("../outside.safetensors"), (dir_ / kTwo).string(), std::string("/etc/passwd"),
        std::string("sub/in.safetensors"), std::string("./") + kTwo, std::string(".."), std::string("."),
        std::string(""), std::string("a\\b.safetensors"), std::string("a\0b.safetensors", 15)}) {
    map_["c"] = name;
    write_index();
    refused("expected the plain name of a file in the folder");
  }
  for (const char* name : {"pytorch_model.bin", "a.pt", "a.pth", "a.ckpt"}) {
    map_["c"] = name;
    write_index();
    refused("is pickled, which can run code");
  }
  map_["c"] = "model.gguf";
  write_index();
  refused("expected a name that ends in .safetensors");
}

TEST_F(WeightFolder, LinksMustStayInside) {
  TempDir elsewhere;
  fs::rename(dir_ / kTwo, elsewhere / kTwo);
  fs::create_symlink(elsewhere / kTwo, dir_ / kTwo);
  write_index();
  refused("is a symbolic link out of the model folder");
  fs::create_directory(dir_ / "real");
  fs::rename(elsewhere / kTwo, dir_ / "real" / "weights");
  fs::remove(dir_ / kTwo);
  fs::create_symlink("real/weights", dir_ / kTwo);
  EXPECT_EQ(WeightFiles(dir_.path()).entries().size(), 3u) << "a link within the folder is fine";
  fs::remove(dir_ / kTwo);
  fs::create_symlink("nowhere", dir_ / kTwo);
  refused("cannot open: No such file", ErrorCode::kIo);
  fs::remove(dir_ / kTwo);
  fs::create_symlink(kTwo, dir_ / kTwo);
  refused("cannot open: Too many levels of symbolic links", ErrorCode::kIo);
}

TEST_F(WeightFolder, SiblingWithTheSamePrefixIsOutside) {
  TempDir top;
  fs::create_directories(top / "model");
  fs::create_directories(top / "model-secret");
  write_shard(top / "model-secret" / "w", {"a"});
  fs::create_symlink("../model-secret/w", top / "model" / "model.safetensors");
  EXPECT_LIGER_ERROR(WeightFiles(top / "model"), ErrorCode::kBadInput, "out of the model folder");
}

TEST(WeightFiles, HuggingFaceCacheIsFollowed) {
  TempDir cache;
  const fs::path entry = cache / "models--org--name", snapshot = entry / "snapshots" / "0123abc";
  fs::create_directories(snapshot);
  fs::create_directories(entry / "blobs");
  fs::create_directories(cache / "models--other" / "blobs");
  write_shard(entry / "blobs" / "deadbeef", {"a"});
  fs::create_symlink("../../blobs/deadbeef", snapshot / "model.safetensors");
  const WeightFiles weights(snapshot);
  EXPECT_NE(weights.find("a"), nullptr);
  fs::create_directory_symlink(snapshot, cache / "mine");
  EXPECT_NE(WeightFiles(cache / "mine").find("a"), nullptr);
  write_shard(cache / "models--other" / "blobs" / "feed", {"a"});
  fs::remove(snapshot / "model.safetensors");
  fs::create_symlink("../../../models--other/blobs/feed", snapshot / "model.safetensors");
  EXPECT_LIGER_ERROR(WeightFiles{snapshot}, ErrorCode::kBadInput, "out of the model folder");
}

TEST_F(WeightFolder, BadIndexes) {
  const std::vector<std::pair<std::string, const char*>> corpus = {
      {"", "index.json:1:1: "},
      {"[]", "expected an object"},
      {"{}", "expected an object 'weight_map'"},
      {"{\"weight_map\": []}", "expected an object 'weight_map'"},
      {"{\"weight_map\": {}}", "expected an object 'weight_map'"},
      {"{\"weight_map\": {\"a\": 1}}", "'weight_map': 'a': expected a file name"},
      {"{\"weight_map\": {\"a\": \"x.safetensors\", \"a\": \"y.safetensors\"}}", "duplicate key 'a'"},
      {"{\"metadata\": 3, \"weight_map\": {\"a\": \"x.safetensors\"}}", "'metadata': expected an object"},
      {"<html>", "index.json:1:1: "}};
  for (const auto& [text, expected] : corpus) {
    put(dir_ / kIndex, text);
    refused(expected);
  }
}

TEST(WeightFiles, FoldersWithoutSafetensors) {
  TempDir dir;
  EXPECT_LIGER_ERROR(WeightFiles(dir / "none"), ErrorCode::kBadInput, "none: expected a model folder; there is none");
  put(dir / "file", "");
  EXPECT_LIGER_ERROR(WeightFiles(dir / "file"), ErrorCode::kBadInput, "file: expected a model folder, got a file");
  EXPECT_LIGER_ERROR(WeightFiles(dir.path()), ErrorCode::kBadInput, "expected model.safetensors or");
  put(dir / "model.Q4.gguf", "");
  EXPECT_LIGER_ERROR(WeightFiles(dir.path()), ErrorCode::kBadInput, "found neither (but model.Q4.gguf)");
  put(dir / "pytorch_model.bin", "");
  EXPECT_LIGER_ERROR(WeightFiles(dir.path()), ErrorCode::kBadInput,
                     "pickled weights (pytorch_model.bin), which can run");
  fs::create_directory(dir / "model.safetensors");
  EXPECT_LIGER_ERROR(WeightFiles(dir.path()), ErrorCode::kBadInput,
                     "model.safetensors: expected a file, got a directory");
}

}  // namespace
}  // namespace liger
