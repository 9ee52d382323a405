// What lm-evaluation-harness's definitions leave to Python: the functions that its tasks of these names use.

#include <array>
#include <utility>

#include "eval/python_case.h"
#include "eval/python_value.h"
#include "eval/row.h"
#include "eval/task_fields.h"
#include "liger/error.h"

namespace liger::eval {
namespace {

// ---- HellaSwag: rows written for people, out of WikiHow and ActivityNet -----------------------------------------

// Everything from "[" to the next "]" on the same line goes.
std::string without_brackets(std::string_view text) {
  std::string out;
  for (size_t open; (open = text.find('[')) != std::string_view::npos;) {
    const size_t close = text.find_first_of("]\n", open + 1);
    const bool closed = close != std::string_view::npos && text[close] == ']';
    out += text.substr(0, closed ? open : open + 1);
    text.remove_prefix(closed ? close + 1 : open + 1);
  }
  return out.append(text);
}

std::string hellaswag_text(const std::string& text) {
  return replaced(without_brackets(replaced(stripped(text), " [title]", ". ")), "  ", " ");
}

void hellaswag(OrderedJson& row) {
  const std::string query = text_field(row, "activity_label") + ": " + text_field(row, "ctx_a") + " " +
                            python_capitalize(text_field(row, "ctx_b"));
  std::vector<std::string> choices;
  for (const std::string& ending : text_list(row, "endings")) choices.push_back(hellaswag_text(ending));
  const OrderedJson& label = field(row, "label");
  const std::string digits(stripped(python_str(label)));
  const bool is_number = digits.size() == 1 && digits[0] >= '0' && digits[0] <= '9';
  LIGER_CHECK(is_number, "column 'label': expected the index of an ending, got ", label.dump());
  row["query"] = hellaswag_text(query);
  row["choices"] = choices;
  row["gold"] = digits[0] - '0';
}

// ---- WinoGrande: "... the _ ..." with one of two options in the gap ------------------------------------------------

std::pair<std::string, std::string> around_the_gap(const OrderedJson& row) {
  const std::string sentence = text_field(row, "sentence");
  const size_t gap = sentence.find('_');
  LIGER_CHECK(gap != std::string::npos, "column 'sentence': expected a gap, '_', in '", sentence.substr(0, 80), "'");
  return {sentence.substr(0, gap), sentence.substr(gap + 1)};
}

OrderedJson winogrande_text(const OrderedJson& row) {
  const std::string answer = text_field(row, "answer");
  LIGER_CHECK(answer == "1" || answer == "2", "column 'answer': expected \"1\" or \"2\", got \"", answer, "\"");
  return answer == "1" ? 0 : 1;
}
OrderedJson winogrande_target(const OrderedJson& row) { return stripped(around_the_gap(row).second); }
OrderedJson winogrande_choices(const OrderedJson& row) {
  const std::string before = around_the_gap(row).first;
  return {before + text_field(row, "option1"), before + text_field(row, "option2")};
}

// ---- WikiText: tokenised text back to plain text ------------------------------------------------------------------

// White space inside of `open` ... `close`, at both ends, goes; what is open at the end of the text stays.
std::string tightened(std::string_view text, char open, char close) {
  std::string out;
  for (size_t begin; (begin = text.find(open)) != std::string_view::npos;) {
    const size_t end = text.find(close, begin + 1);
    if (end == std::string_view::npos) break;
    out += text.substr(0, begin + 1);
    out += stripped(text.substr(begin + 1, end - begin - 1));
    out += close;
    text.remove_prefix(end + 1);
  }
  return out.append(text);
}

// lm-evaluation-harness means to join "' 5" here and, by the slashes in its pattern, only does so between slashes.
std::string joined_quotes(std::string_view text) {
  constexpr std::string_view kBegin = "/' ";
  std::string out;
  for (size_t found; (found = text.find(kBegin)) != std::string_view::npos;) {
    const size_t digit = found + kBegin.size();
    const bool fits = digit + 1 < text.size() && text[digit] >= '0' && text[digit] <= '9' && text[digit + 1] == '/';
    out += text.substr(0, fits ? found : found + 1);
    if (fits) out += "/'[0-9]/";
    text.remove_prefix(fits ? digit + 2 : found + 1);
  }
  return out.append(text);
}

OrderedJson wikitext_target(const OrderedJson& row) {
  using Pair = std::pair<std::string_view, std::string_view>;
  std::string text = joined_quotes(replaced(text_field(row, "page"), "s '", "s'"));
  constexpr std::array<Pair, 9> kMarks = {{{" @-@ ", "-"},
                                           {" @,@ ", ","},
                                           {" @.@ ", "."},
                                           {" : ", ": "},
                                           {" ; ", "; "},
                                           {" . ", ". "},
                                           {" ! ", "! "},
                                           {" ? ", "? "},
                                           {" , ", ", "}}};
  for (const auto& [from, to] : kMarks) text = replaced(text, from, to);
  constexpr std::array<std::pair<char, char>, 5> kBrackets = {
      {{'(', ')'}, {'[', ']'}, {'{', '}'}, {'"', '"'}, {'\'', '\''}}};
  for (const auto& [open, close] : kBrackets) text = tightened(text, open, close);
  constexpr std::array<Pair, 8> kRest = {{{"= = = =", "===="},
                                          {"= = =", "==="},
                                          {"= =", "=="},
                                          {" \u00b0 ", "\u00b0"},
                                          {" \n", "\n"},
                                          {"\n ", "\n"},
                                          {" N ", " 1 "},
                                          {" 's", "'s"}}};
  for (const auto& [from, to] : kRest) text = replaced(text, from, to);
  return text;
}

OrderedJson wikitext_counted(const OrderedJson& row) { return field(row, "page"); }

// -------------------------------------------------------------------------------------------------------------------

template <typename Function, size_t N>
Function find(const std::array<std::pair<const char*, Function>, N>& all, const std::string& name) {
  std::string known;
  for (const auto& [own, function] : all) {
    if (name == own) return function;
    known += cat(known.empty() ? "" : ", ", own);
  }
  fail(ErrorCode::kUsage, "'!function ", name.substr(0, 80), "': functions in Python are not run; this program has ",
       known, ", and templates can say much of what others do");
}

}  // namespace

void (*find_process_docs(const std::string& name))(OrderedJson&) {
  using Function = void (*)(OrderedJson&);
  return find<Function, 1>({{{"hellaswag.process_docs", hellaswag}}}, name);
}

OrderedJson (*find_field_function(const std::string& name))(const OrderedJson&) {
  using Function = OrderedJson (*)(const OrderedJson&);
  return find<Function, 4>({{{"winogrande.doc_to_text", winogrande_text},
                             {"winogrande.doc_to_target", winogrande_target},
                             {"winogrande.doc_to_choice", winogrande_choices},
                             {"wikitext.detokenizer", wikitext_target}}},
                           name);
}

OrderedJson (*find_counted(const std::string& name))(const OrderedJson&) {
  using Function = OrderedJson (*)(const OrderedJson&);
  return find<Function, 1>({{{"wikitext.process_results", wikitext_counted}}}, name);
}

}  // namespace liger::eval
