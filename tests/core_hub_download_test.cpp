// Downloads from a server on this machine that behaves like the hub, well and badly.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>

#include "command.h"
#include "hub_server.h"
#include "hub_testing.h"
#include "liger/core/download.h"
#include "liger/core/hub.h"
#include "liger/error.h"
#include "liger/io/json.h"
#include "tiny_model.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::Answer;
using test::Asked;
using test::HubTest;

class Download : public HubTest {};

TEST_F(Download, WritesTheCacheAsHuggingFacesToolsDo) {
  server_.files["additional_chat_templates/tools.jinja"] = {"{{ messages }}"};
  const fs::path entry = cache() / "models--org--model";
  const fs::path snapshot = download_model("org/model", "main", options_);
  EXPECT_EQ(snapshot, entry / "snapshots" / server_.commit);
  EXPECT_EQ(test::read_file(entry / "refs/main"), server_.commit);
  const std::string hash = test::hash_of(server_.files["model-00001-of-00002.safetensors"].content, true);
  EXPECT_EQ(fs::read_symlink(snapshot / "model-00001-of-00002.safetensors"), "../../blobs/" + hash);
  EXPECT_EQ(fs::read_symlink(snapshot / "additional_chat_templates/tools.jinja"),
            "../../../blobs/" + test::hash_of("{{ messages }}", false));
  expect_whole(snapshot);
  EXPECT_EQ(resolve_model("org/model"), snapshot);
  for (const std::string& name : test::listing(cache())) EXPECT_EQ(name.find("incomplete"), std::string::npos) << name;
  EXPECT_FALSE(fs::exists(entry / ".staged"));
}

TEST_F(Download, TakesWhatItReadsAndNothingElse) {
  for (const char* name : {"pytorch_model.bin", "original/consolidated.00.pth", "model.gguf",
                           "consolidated.safetensors", "onnx/model.safetensors", ".gitattributes", "training.py"})
    server_.files[name] = {"not this"};
  for (const char* name : {"LICENSE.txt", "USE_POLICY.md", "README.md", "chat_template.jinja"})
    server_.files[name] = {name};
  const fs::path snapshot = download_model("org/model", "main", options_);
  EXPECT_EQ(test::listing(snapshot),
            (std::set<std::string>{"LICENSE.txt", "README.md", "USE_POLICY.md", "chat_template.jinja", "config.json",
                                   "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                   "model.safetensors.index.json", "tokenizer.json"}));
  EXPECT_EQ(server_.count("pytorch_model"), 0u);
}

TEST_F(Download, TheTokenGoesToTheHubAlone) {
  options_.token = "hf_secret";
  download_model("org/model", "main", options_);
  size_t at_cdn = 0;
  for (const Asked& asked : server_.asked()) {
    EXPECT_EQ(asked.header("authorization"), asked.cdn ? "" : "Bearer hf_secret") << asked.path;
    at_cdn += asked.cdn;
  }
  EXPECT_EQ(at_cdn, 2u);
}

TEST_F(Download, TokensComeFromTheEnvironmentAndFiles) {
  const auto token_sent = [&] {
    fs::remove_all(cache());
    server_.forget();
    download_model("org/model", "main", options_);
    return server_.asked().front().header("authorization");
  };
  EXPECT_EQ(token_sent(), "");
  test::write_file(folder_ / ".cache/huggingface/token", "hf_home\n");
  EXPECT_EQ(token_sent(), "Bearer hf_home");
  test::write_file(folder_ / "elsewhere", " hf_path\n");
  setenv("HF_TOKEN_PATH", (folder_ / "elsewhere").c_str(), 1);
  EXPECT_EQ(token_sent(), "Bearer hf_path");
  setenv("HF_TOKEN", "hf_variable", 1);
  EXPECT_EQ(token_sent(), "Bearer hf_variable");
  setenv("HF_TOKEN", "hf_x\r\nHost: evil", 1);
  EXPECT_NE(error_of(ErrorCode::kUsage).find("HF_TOKEN"), std::string::npos);
}

TEST_F(Download, OfflineModeForbidsIt) {
  setenv("HF_HUB_OFFLINE", "1", 1);
  EXPECT_NE(error_of(ErrorCode::kUsage).find("HF_HUB_OFFLINE=1"), std::string::npos);
  EXPECT_TRUE(server_.asked().empty());
  setenv("HF_HUB_OFFLINE", "0", 1);
  download_model("org/model", "main", options_);
}

TEST_F(Download, WhatIsHereIsNotAskedForAgain) {
  const fs::path snapshot = fetch_model("org/model", options_);
  server_.forget();
  EXPECT_EQ(fetch_model("org/model", options_), snapshot);
  EXPECT_TRUE(server_.asked().empty());
  fs::remove(fs::canonical(snapshot / "model-00002-of-00002.safetensors"));
  EXPECT_THROW(resolve_model("org/model"), Error);
  EXPECT_EQ(fetch_model("org/model", options_), snapshot);
  EXPECT_EQ(server_.count("/resolve/"), 1u);
  expect_whole(snapshot);
  EXPECT_EQ(fetch_model(snapshot.string(), options_), snapshot) << "a folder is itself";
}

TEST_F(Download, ListingsHavePages) {
  server_.page_size = 2;
  expect_whole(download_model("org/model", "main", options_));
  EXPECT_EQ(server_.count("/tree/"), 3u);
}

TEST_F(Download, RenamedRepositoriesAreFollowed) {
  server_.change = [&](const Asked& asked, const Answer& answer) {
    const size_t old = asked.path.find("org/old-name");
    if (old == std::string::npos) return answer;
    std::string path = asked.path;
    path.replace(old, 12, "org/model");
    return Answer{.status = 307, .headers = {{"Location", path}}};
  };
  options_.token = "hf_secret";
  const fs::path snapshot = download_model("org/old-name", "main", options_);
  expect_whole(snapshot);
  EXPECT_EQ(snapshot.parent_path().parent_path().filename(), "models--org--old-name");
  for (const Asked& asked : server_.asked()) EXPECT_EQ(asked.header("authorization").empty(), asked.cdn) << asked.path;
}

TEST_F(Download, ABrokenConnectionGoesOnWhereItEnded) {
  int cuts = 0;
  server_.change = [&](const Asked& asked, Answer answer) {
    if (asked.cdn && cuts < 3) answer.cut = answer.body.size() / 3 + static_cast<size_t>(cuts++);
    return answer;
  };
  expect_whole(download_model("org/model", "main", options_));
  EXPECT_EQ(cuts, 3);
  size_t parts = 0;
  for (const Asked& asked : server_.asked()) parts += asked.cdn && !asked.header("range").empty();
  EXPECT_EQ(parts, 3u);
}

TEST_F(Download, AServerWithoutRangesStartsOver) {
  int cuts = 0;
  server_.change = [&](const Asked& asked, Answer answer) {
    if (!asked.cdn) return answer;
    Asked whole = asked;
    answer = Answer{.headers = {{"ETag", answer.headers["ETag"]}}, .body = content_of(asked)};
    if (cuts++ < 2) answer.cut = 1000;
    return answer;
  };
  expect_whole(download_model("org/model", "main", options_));
}

TEST_F(Download, AServerThatNeverEndsIsGivenUp) {
  server_.change = [&](const Asked& asked, Answer answer) {
    if (!asked.cdn) return answer;
    return Answer{.headers = {}, .body = content_of(asked), .cut = 1000};
  };
  EXPECT_NE(error_of(ErrorCode::kIo).find("times in a row"), std::string::npos);
  expect_refused();
}

TEST_F(Download, PartsOfSomethingElseAreNotAppended) {
  for (const char* range : {"bytes 5-9/10", "bytes 1000-1009/999999", "nonsense", "bytes 1000-", ""}) {
    fs::remove_all(cache());
    bool first = true;
    server_.change = [&](const Asked& asked, Answer answer) {
      if (!asked.cdn) return answer;
      if (std::exchange(first, false)) answer.cut = 1000;
      if (answer.status == 206) answer.headers["Content-Range"] = range;
      return answer;
    };
    expect_whole(download_model("org/model", "main", options_));
  }
}

TEST_F(Download, AnotherETagStartsOver) {
  bool first = true;
  server_.change = [&](const Asked& asked, Answer answer) {
    if (!asked.cdn) return answer;
    if (std::exchange(first, false)) {
      answer.cut = 1000;
    } else if (answer.status == 206) {
      answer.headers["ETag"] = "\"another\"";
      std::fill(answer.body.begin(), answer.body.end(), 'x');
    }
    return answer;
  };
  expect_whole(download_model("org/model", "main", options_));
}

TEST_F(Download, WhatAnEarlierRunKeptIsGoneOnFrom) {
  options_.retries = 0;
  server_.change = [&](const Asked& asked, Answer answer) {
    if (asked.cdn) answer.cut = 2000;
    return answer;
  };
  const std::string error = error_of(ErrorCode::kIo);
  EXPECT_NE(error.find("goes on from there"), std::string::npos) << error;
  expect_refused();
  server_.change = nullptr;
  server_.forget();
  expect_whole(download_model("org/model", "main", options_));
  size_t parts = 0;
  for (const Asked& asked : server_.asked()) parts += asked.cdn && asked.header("range") == "bytes=2000-";
  EXPECT_GE(parts, 1u);
}

TEST_F(Download, WrongBytesKeptAreFoundAndFetchedAgain) {
  const test::HubServer::File& weights = server_.files["model-00001-of-00002.safetensors"];
  const fs::path kept = cache() / "models--org--model/blobs" / (test::hash_of(weights.content, true) + ".incomplete");
  for (const std::string& bytes : {std::string(100, 'x'), std::string(weights.content.size(), 'x'),
                                   std::string(weights.content.size() + 1, 'x')}) {
    fs::remove_all(cache());
    test::write_file(kept, bytes);
    expect_whole(download_model("org/model", "main", options_));
    EXPECT_FALSE(fs::exists(kept));
  }
}

TEST_F(Download, WrongContentIsRefusedAndRemoved) {
  for (const char* name : {"model-00002-of-00002.safetensors", "config.json"}) {
    fs::remove_all(cache());
    server_.change = [&](const Asked& asked, Answer answer) {
      const bool this_one =
          asked.cdn ? content_of(asked) == server_.files[name].content : asked.path.ends_with(std::string("/") + name);
      if (this_one && answer.status == 200) answer.body[answer.body.size() / 2] ^= 1;
      return answer;
    };
    const std::string error = error_of(ErrorCode::kBadInput);
    EXPECT_NE(error.find("was removed"), std::string::npos) << error;
    EXPECT_NE(error.find(name), std::string::npos) << error;
    const bool large = server_.files[name].large;
    const std::string blob = test::hash_of(server_.files[name].content, large);
    EXPECT_FALSE(fs::exists(cache() / "models--org--model/blobs" / blob));
    expect_refused();
  }
}

TEST_F(Download, WaitsAsLongAsTheServerAsks) {
  int refused = 0;
  server_.change = [&](const Asked& asked, const Answer& answer) {
    if (asked.path.find("config.json") == std::string::npos || refused > 0) return answer;
    ++refused;
    return Answer{.status = 429, .headers = {{"Retry-After", "1"}}};
  };
  const auto start = std::chrono::steady_clock::now();
  expect_whole(download_model("org/model", "main", options_));
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(950));
  EXPECT_EQ(refused, 1);
}

TEST_F(Download, ButNotForHours) {
  server_.change = [&](const Asked&, const Answer&) {
    return Answer{.status = 429, .headers = {{"Retry-After", "7200"}}};
  };
  EXPECT_NE(error_of(ErrorCode::kIo).find("7200 s"), std::string::npos);
  server_.change = [&](const Asked&, const Answer&) {
    return Answer{.status = 429, .headers = {{"RateLimit", "\"api\";r=0;t=5000"}}};
  };
  EXPECT_NE(error_of(ErrorCode::kIo).find("5000 s"), std::string::npos);
}

TEST_F(Download, PassingFailuresAreTriedAgain) {
  std::map<std::string, int> seen;
  server_.change = [&](const Asked& asked, const Answer& answer) {
    const int statuses[] = {500, 502, 503, 504, 408};
    const int times = seen[asked.path]++;
    return times == 0 ? Answer{.status = statuses[seen.size() % 5]} : answer;
  };
  expect_whole(download_model("org/model", "main", options_));
  server_.change = [&](const Asked&, const Answer&) { return Answer{.status = 503}; };
  server_.forget();
  EXPECT_NE(error_of(ErrorCode::kIo).find("503"), std::string::npos);
  EXPECT_EQ(server_.asked().size(), static_cast<size_t>(options_.retries) + 1);
}

TEST_F(Download, AStaleSignatureIsAskedForAnew) {
  bool first = true;
  server_.change = [&](const Asked& asked, const Answer& answer) {
    return asked.cdn && std::exchange(first, false) ? Answer{.status = 403} : answer;
  };
  expect_whole(download_model("org/model", "main", options_));
}

TEST_F(Download, StalledConnectionsAreGivenUp) {
  options_.stall_seconds = 1;
  bool first = true;
  server_.change = [&](const Asked& asked, Answer answer) {
    if (asked.cdn && std::exchange(first, false)) answer.hang = 1000;
    return answer;
  };
  expect_whole(download_model("org/model", "main", options_));
  options_.retries = 0;
  fs::remove_all(cache());
  server_.change = [&](const Asked&, Answer answer) {
    answer.hang = 0;
    return answer;
  };
  error_of(ErrorCode::kIo);
}

TEST_F(Download, NoAccessSaysWhatToDo) {
  const auto error_with = [&](int status, const std::string& code, const std::string& said) {
    server_.change = [=](const Asked&, const Answer&) {
      return Answer{.status = status, .headers = {{"X-Error-Code", code}, {"X-Error-Message", said}}};
    };
    return error_of(ErrorCode::kUsage);
  };
  const auto expect = [](const std::string& error, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) EXPECT_NE(error.find(part), std::string::npos) << part << ": " << error;
  };
  const std::string page = server_.endpoint() + "/org/model";
  expect(error_with(401, "GatedRepo", "Access to model is restricted"), {"licence", page, "HF_TOKEN", "is restricted"});
  expect(error_with(401, "RepoNotFound", ""), {"no such repository, or a private one", "HF_TOKEN"});
  expect(error_with(404, "RepoNotFound", ""), {"no such repository", page});
  expect(error_with(404, "RevisionNotFound", "Invalid rev id"), {"no such branch"});
  options_.token = "hf_secret";
  expect(error_with(401, "", "Invalid credentials in Authorization header"), {"refuses the token", "/settings/tokens"});
  expect(error_with(403, "GatedRepo", ""), {"licence", page, "account"});
  const std::string error = error_with(403, "", "bad\x1b[31m");
  expect(error, {"403", "HF_TOKEN", "\\x1B"});
  EXPECT_EQ(error.find("hf_secret"), std::string::npos);
}

TEST_F(Download, NamesThatLeadElsewhereAreRefused) {
  const std::string names[] = {
      "../evil", "a/../../evil",       "/etc/evil", "a//b", "./x", "a/", "", "..", "a\nb", std::string("a\0b", 3),
      "a\\b",    std::string(300, 'n')};
  for (const std::string& name : names) {
    server_.change = [&](const Asked& asked, Answer answer) {
      if (asked.path.find("/tree/") == std::string::npos) return answer;
      Json entries = Json::parse(answer.body);
      entries.push_back({{"type", "file"}, {"path", name}, {"size", 1}, {"oid", std::string(40, 'a')}});
      answer.body = entries.dump();
      answer.headers.erase("Content-Length");
      return answer;
    };
    EXPECT_NE(error_of(ErrorCode::kBadInput).find("nothing was taken"), std::string::npos) << name;
    EXPECT_EQ(server_.count("/resolve/"), 0u);
  }
}

TEST_F(Download, ListingsThatAreNoneAreRefused) {
  const auto error_with = [&](const std::string& part, const std::string& body, const std::string& type = "") {
    server_.change = [=](const Asked& asked, const Answer& answer) {
      if (asked.path.find(part) == std::string::npos) return answer;
      return Answer{.headers = {{"Content-Type", type}}, .body = body};
    };
    return error_of(ErrorCode::kBadInput);
  };
  EXPECT_NE(error_with("/revision/", "<html>", "text/html; charset=utf-8").find("web page"), std::string::npos);
  for (const char* body : {"<html>", "[]", "{}", "{\"sha\": 1}", "{\"sha\": \"../../x\"}", ""})
    EXPECT_NE(error_with("/revision/", body).find("HF_ENDPOINT"), std::string::npos) << body;
  const std::string oid = "\"oid\":\"" + std::string(40, 'a') + "\"";
  for (const std::string& body :
       {std::string("{}"), std::string("[1]"), "[{\"type\":\"file\",\"path\":\"a\",\"size\":-1," + oid + "}]",
        "[{\"type\":\"file\",\"path\":\"a\",\"size\":1e99," + oid + "}]",
        "[{\"type\":\"file\",\"path\":\"a\",\"size\":9007199254740993000," + oid + "}]",
        std::string(R"([{"type":"file","path":"a","size":1,"oid":"../x"}])"),
        "[{\"type\":\"file\",\"path\":\"a\",\"size\":1," + oid + ",\"lfs\":{\"oid\":\"x\",\"size\":1}}]"})
    error_with("/tree/", body);
  EXPECT_NE(error_with("/tree/", std::string(33 << 20, ' ')).find("more than"), std::string::npos);
  EXPECT_NE(error_with("/resolve/", "<html>", "text/html").find("web page"), std::string::npos);
}

TEST_F(Download, AListingThatNeverEndsIsRefused) {
  server_.change = [&](const Asked& asked, Answer answer) {
    if (asked.path.find("/tree/") == std::string::npos) return answer;
    return Answer{.headers = {{"Link", "<" + asked.path + ">; rel=\"next\""}}, .body = "[]"};
  };
  EXPECT_NE(error_of(ErrorCode::kBadInput).find("does not end"), std::string::npos);
}

TEST_F(Download, RedirectsEnd) {
  server_.change = [&](const Asked& asked, Answer) {
    return Answer{.status = 302, .headers = {{"Location", asked.path}}};
  };
  EXPECT_NE(error_of(ErrorCode::kBadInput).find("circles"), std::string::npos);
  for (const char* to : {"file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:1/x", "http://", ""}) {
    server_.change = [&](const Asked&, Answer) { return Answer{.status = 302, .headers = {{"Location", to}}}; };
    error_of(ErrorCode::kBadInput);
  }
}

TEST_F(Download, AModelThatIsNotWholeIsRefused) {
  auto files = server_.files;
  server_.files.erase("model-00002-of-00002.safetensors");
  EXPECT_NE(error_of(ErrorCode::kBadInput).find("model-00002-of-00002.safetensors"), std::string::npos);
  expect_refused();
  server_.files = files;
  server_.files.erase("config.json");
  EXPECT_NE(error_of(ErrorCode::kBadInput).find("config.json"), std::string::npos);
  server_.files = {{"config.json", {"{}"}}, {"pytorch_model.bin", {"x", true}}};
  const std::string error = error_of(ErrorCode::kBadInput);
  EXPECT_NE(error.find("only pickled ones (pytorch_model.bin)"), std::string::npos) << error;
  EXPECT_EQ(server_.count("pytorch_model.bin"), 0u);
}

TEST_F(Download, SizesThatDisagreeAreRefused) {
  server_.change = [&](const Asked& asked, Answer answer) {
    if (asked.cdn) answer.body += "more";
    return answer;
  };
  EXPECT_NE(error_of(ErrorCode::kBadInput).find("the hub lists"), std::string::npos);
  server_.change = [&](const Asked& asked, Answer answer) {
    if (asked.cdn) answer.body += "more", answer.headers["Content-Length"] = "";
    return answer;
  };
  EXPECT_NE(error_of(ErrorCode::kBadInput).find("sends more than"), std::string::npos);
}

TEST_F(Download, NoServerNoNameAndNoTlsAreSaid) {
  options_.retries = 1;
  const auto error_at = [&](const std::string& endpoint) {
    options_.endpoint = endpoint;
    return error_of(ErrorCode::kIo);
  };
  EXPECT_NE(error_at("http://127.0.0.1:1").find("127.0.0.1"), std::string::npos);
  const std::string name(64, 'a');  // too long for any name: nobody needs to be asked
  EXPECT_NE(error_at("http://" + name + ".invalid").find(name), std::string::npos);
  const std::string tls = error_at("https://127.0.0.1" + server_.endpoint().substr(server_.endpoint().rfind(':')));
  EXPECT_EQ(tls.find("in a row"), std::string::npos) << "not tried again: " << tls;
  options_.endpoint = "nonsense://x";
  error_of(ErrorCode::kUsage);
}

TEST_F(Download, ADiskTooSmallIsFoundBefore) {
  server_.change = [&](const Asked& asked, Answer answer) {
    if (asked.path.find("/tree/") == std::string::npos) return answer;
    Json entries = Json::parse(answer.body);
    for (Json& entry : entries)
      if (entry.contains("lfs")) entry["lfs"]["size"] = int64_t{1} << 49;
    answer.body = entries.dump();
    return answer;
  };
  EXPECT_NE(error_of(ErrorCode::kIo).find("too little space"), std::string::npos);
  EXPECT_EQ(server_.count("/resolve/"), 0u);
}

TEST_F(Download, RevisionsStayInTheirFolder) {
  for (const char* revision : {"", "../x", "/x", "a//b", "a/../../b", ".hidden"})
    EXPECT_THROW(download_model("org/model", revision, options_), Error) << revision;
  EXPECT_TRUE(server_.asked().empty());
  const fs::path snapshot = download_model("org/model", server_.commit, options_);
  EXPECT_FALSE(fs::exists(cache() / "models--org--model/refs")) << "a commit needs no name";
  EXPECT_EQ(resolve_model("org/model"), snapshot) << "the only one";
}

TEST_F(Download, FillsUpWhatAnotherToolLeft) {
  const fs::path entry = cache() / "models--org--model", snapshot = entry / "snapshots" / server_.commit;
  test::write_file(entry / "refs/main", server_.commit);
  const std::string hash = test::hash_of(server_.files["config.json"].content, false);
  test::write_file(entry / "blobs" / hash, server_.files["config.json"].content);
  fs::create_directories(snapshot);
  fs::create_symlink("../../blobs/" + hash, snapshot / "config.json");
  fs::create_symlink("../../blobs/gone", snapshot / "tokenizer.json");
  expect_refused();
  EXPECT_EQ(fetch_model("org/model", options_), snapshot);
  expect_whole(snapshot);
  EXPECT_EQ(server_.count("config.json"), 0u) << "it was there";
}

}  // namespace
}  // namespace liger
