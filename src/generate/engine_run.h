#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "generate/depth_pass.h"
#include "liger/generate/engine.h"

namespace liger {

/// The depths of a model as loops over shared layers, between layers that run once a token.
struct LoopPlan {
  std::vector<int64_t> begins;         ///< first depth of each loop
  int64_t layers = 0;                  ///< of a loop
  std::optional<int64_t> first, last;  ///< depths of their own

  explicit LoopPlan(const ModelConfig& config);
  int64_t loops() const { return std::ssize(begins); }
};

/// One stream of requests from the first to the last answer (see Engine).
class EngineRun {
 public:
  using OnAnswer = std::function<void(size_t, const Answer&)>;
  EngineRun(CausalLM& model, const Engine& engine, const EngineOptions& options, EngineStats& stats,
            const std::vector<Request>& requests, const OnAnswer& on_answer);
  ~EngineRun();
  std::vector<Answer> run();

 private:
  struct Text;

  double now() const;
  void wait_for(double arrival) const;
  bool opens() const;
  void admit();
  std::unique_ptr<Text> begin(size_t request);
  void measure();
  void take(const std::vector<Text*>& texts);
  bool ended(const Text& text);
  std::vector<Text*> running() const;
  void pass();
  void leave(const std::vector<Text*>& texts, const std::vector<TextRows>& rows, const at::Tensor& x);
  void go_on();
  void choose(const std::vector<Text*>& texts, std::vector<ChoiceRow> rows, const at::Tensor& x);
  void give(Text& text, int64_t token);
  void skip_loops(const std::vector<Text*>& texts);
  at::Tensor own_layer(const std::vector<Text*>& texts, int64_t depth, const at::Tensor& x);
  void advance(const std::vector<Text*>& texts, const std::vector<TextRows>& rows, int64_t layers);

  CausalLM& model_;
  const Engine& engine_;
  const LoopPlan plan_;
  const EngineOptions& options_;
  EngineStats& stats_;
  const std::vector<Request>& requests_;
  const OnAnswer& on_answer_;
  std::vector<Answer> answers_;
  DepthPass layers_;
  std::deque<size_t> waiting_;  // by arrival
  std::vector<std::unique_ptr<Text>> texts_;
  int64_t memory_ = 0;
  bool between_tokens_ = true;  // of all texts
  std::chrono::steady_clock::time_point start_;
};

}  // namespace liger
