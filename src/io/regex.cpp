#include "io/regex.h"

#include <string>
#include <utility>

#include "io/regex_parser.h"
#include "io/text.h"
#include "liger/error.h"

namespace liger::detail {
namespace {

using Instruction = Regex::Instruction;
using Kind = Instruction::Kind;

constexpr size_t kMostStates = 4096;

/// Turns a parsed expression into the automaton's instructions.
class Compiler {
 public:
  explicit Compiler(std::string_view pattern) : pattern_(pattern) {}

  std::vector<Instruction> compile() {
    emit(parse_regex(pattern_));
    add({.kind = Kind::kMatch});
    return std::move(program_);
  }

 private:
  size_t add(const Instruction& instruction) {
    LIGER_CHECK(program_.size() < kMostStates, "regular expression '", printable(pattern_, 60), "': has more than ",
                kMostStates, " states; write fewer or smaller repeats");
    program_.push_back(instruction);
    return program_.size() - 1;
  }

  void emit(const RegexNode& node) {
    switch (node.kind) {
      case RegexNode::Kind::kSet: add({.kind = Kind::kSet, .set = node.set}); return;
      case RegexNode::Kind::kAssert: add({.kind = Kind::kAssert, .assertion = node.assertion}); return;
      case RegexNode::Kind::kSequence:
        for (const RegexNode& child : node.children) emit(child);
        return;
      case RegexNode::Kind::kChoice: return emit_choice(node.children);
      case RegexNode::Kind::kRepeat: return emit_repeat(node);
    }
  }

  void emit_choice(const std::vector<RegexNode>& branches) {
    std::vector<size_t> exits;
    for (size_t i = 0; i < branches.size(); ++i) {
      if (i + 1 == branches.size()) {
        emit(branches[i]);
        break;
      }
      const size_t split = add({.kind = Kind::kSplit});
      program_[split].first = program_.size();
      emit(branches[i]);
      exits.push_back(add({.kind = Kind::kJump}));
      program_[split].second = program_.size();
    }
    for (const size_t exit : exits) program_[exit].first = program_.size();
  }

  void emit_repeat(const RegexNode& node) {
    const RegexNode& element = node.children.front();
    for (int i = 0; i < node.min; ++i) {
      const size_t before = program_.size();
      emit(element);
      if (program_.size() == before) break;  // the empty text: repeating it would take time and add nothing
    }
    if (node.max == RegexNode::kUnbounded) {
      const size_t split = add({.kind = Kind::kSplit});
      program_[split].first = program_.size();
      emit(element);
      add({.kind = Kind::kJump, .first = split});
      program_[split].second = program_.size();
      return;
    }
    std::vector<size_t> splits;
    for (int i = node.min; i < node.max; ++i) {
      splits.push_back(add({.kind = Kind::kSplit}));
      program_[splits.back()].first = program_.size();
      emit(element);
    }
    for (const size_t split : splits) program_[split].second = program_.size();
  }

  std::string_view pattern_;
  std::vector<Instruction> program_;
};

bool holds(Regex::Assertion assertion, std::string_view text, size_t at) {
  const bool before = at > 0 && is_word(static_cast<unsigned char>(text[at - 1]));
  const bool after = at < text.size() && is_word(static_cast<unsigned char>(text[at]));
  switch (assertion) {
    case Regex::Assertion::kBegin: return at == 0;
    case Regex::Assertion::kEnd: return at == text.size();
    case Regex::Assertion::kWordBoundary: return before != after;
    case Regex::Assertion::kNoWordBoundary: return before == after;
  }
  return false;
}

/// The states the automaton is in at one place of the text.
class States {
 public:
  explicit States(const std::vector<Instruction>& program) : program_(&program), seen_(program.size()) {}

  /// Adds a state and all that are reached from it without reading a character.
  void add(size_t state, std::string_view text, size_t at) {
    pending_.push_back(state);
    while (!pending_.empty()) {
      const size_t next = pending_.back();
      pending_.pop_back();
      if (seen_[next]) continue;
      seen_[next] = true;
      const Instruction& i = (*program_)[next];
      if (i.kind == Kind::kSplit) pending_.push_back(i.second);
      if (i.kind == Kind::kSplit || i.kind == Kind::kJump) pending_.push_back(i.first);
      if (i.kind == Kind::kAssert && holds(i.assertion, text, at)) pending_.push_back(next + 1);
      if (i.kind == Kind::kSet || i.kind == Kind::kMatch) list_.push_back(next);
    }
  }
  void clear() {
    list_.clear();
    seen_.assign(seen_.size(), false);
  }
  const std::vector<size_t>& list() const { return list_; }

 private:
  const std::vector<Instruction>* program_;
  std::vector<bool> seen_;
  std::vector<size_t> list_, pending_;
};

}  // namespace

Regex::Regex(std::string_view pattern) : program_(Compiler(pattern).compile()) {}

bool Regex::matches(std::string_view text) const {
  States now(program_), next(program_);
  now.add(0, text, 0);
  for (size_t at = 0; at < text.size(); ++at) {
    next.clear();
    for (const size_t state : now.list()) {
      const Instruction& i = program_[state];
      if (i.kind == Kind::kSet && i.set[static_cast<unsigned char>(text[at])]) next.add(state + 1, text, at + 1);
    }
    std::swap(now, next);
  }
  for (const size_t state : now.list()) {
    if (program_[state].kind == Kind::kMatch) return true;
  }
  return false;
}

}  // namespace liger::detail
