#pragma once

#include <filesystem>
#include <string>

namespace liger {

/// Where and how a model is fetched. What is empty follows the environment, as Hugging Face's own tools do.
struct DownloadOptions {
  std::string endpoint = {};         ///< HF_ENDPOINT, else https://huggingface.co
  std::string token = {};            ///< HF_TOKEN, else the file HF_TOKEN_PATH, else `token` in HF_HOME
  std::filesystem::path cache = {};  ///< as resolve_model() looks for it
  int connections = 4;               ///< files at once
  int retries = 5;                   ///< tries in a row that may bring nothing
  double connect_seconds = 20;
  double stall_seconds = 30;  ///< a connection that brings nothing for so long is given up
  double retry_seconds = 1;   ///< before the second try; doubled each time
  double longest_wait = 120;  ///< a server that asks for more is not waited for
};

/// Fetches a model from the Hugging Face hub into the local cache and returns its snapshot folder.
///   name      a short name ("llama3.2-1b") or a repository ("org/name")
///   revision  a branch, a tag or a commit
/// Fetched are configuration, tokenizer, chat templates, card, licences and the weights as safetensors; never pickled
/// weights, GGUF or `original/`. The cache is laid out as huggingface_hub does: blobs named by their hash, snapshots of
/// links to them, the commit under refs; what either has fetched, the other finds.
///
/// Every file is checked against its hash (sha256, or git's sha1 of small files) before it gets its name, the snapshot
/// appears at once when all of them are there, and the ref after it: a later run finds a whole model or none. What came
/// of a file before an error, a signal or a kill stays as blobs/HASH.incomplete, and the next call goes on from there.
/// Another process that fetches the same model is waited for.
///
/// The token is sent to the endpoint alone, not to the servers it redirects to. Sockets are opened here only: nothing
/// else in this library does, and this refuses if HF_HUB_OFFLINE is set.
/// Throws Error: kUsage for a name that is not known, offline mode, no access (401, 403), or what is not there (404);
/// kIo for the network, the disk, or a server that gives up; kBadInput for files that are not what the hub's listing
/// says, or a repository without safetensors; kInterrupted after a signal if a part of the model is kept, else
/// kCancelled.
std::filesystem::path download_model(const std::string& name, const std::string& revision = "main",
                                     const DownloadOptions& options = {});

/// A folder as it is; a model that is whole in the local cache from there, without a look at the network; otherwise
/// download_model().
std::filesystem::path fetch_model(const std::string& name_or_dir, const DownloadOptions& options = {});

}  // namespace liger
