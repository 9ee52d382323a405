#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "eval/jinja_expression.h"

namespace liger::eval {

/// A text with places for a row's values, in the part of Jinja that definitions of tasks use: {{ expression }},
/// {% if %} {% elif %} {% else %} {% endif %}, {% for name in list %} {% endfor %}, {% set name = expression %}, {# #},
/// and "-" at either end of a tag to take white space away. Trailing new lines stay.
class Template {
 public:
  struct Block;

  /// Throws Error(kUsage) "'...': column N: expected ...".
  explicit Template(std::string source);
  Template(const Template&) = default;

  /// Throws Error(kBadInput) on what the row does not have, and on a result beyond 16 MiB.
  std::string render(const OrderedJson& row) const;
  /// What Python's literal_eval makes of render(): a list, a number, a text in quotes. Throws Error(kBadInput) if
  /// that is none.
  OrderedJson value(const OrderedJson& row) const;
  const std::string& source() const { return source_; }

 private:
  std::string source_;
  std::shared_ptr<const Block> root_;
};

}  // namespace liger::eval
