// The part of Jinja that definitions of tasks use. Expected values are those of jinja2 3.1.

#include "eval/template.h"

#include <gtest/gtest.h>

#include "liger/error.h"

namespace liger::eval {
namespace {

const OrderedJson kRow = {{"text", "one two three"},
                          {"n", 3},
                          {"x", 0.5},
                          {"list", {"a", "b", "c"}},
                          {"empty", OrderedJson::array()},
                          {"flag", true},
                          {"none", nullptr},
                          {"choices", {{"text", {"left", "right"}}, {"label", {"A", "B"}}}},
                          {"word", "naïve 🙂 Σ"}};

std::string render(const std::string& text) { return Template(text).render(kRow); }

std::string problem(const std::string& text) {
  try {
    return "no error: " + render(text);
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(Template, PlainTextStaysAsItIs) {
  EXPECT_EQ(render(""), "");
  EXPECT_EQ(render("a { b } %} }}\n\n"), "a { b } %} }}\n\n");
}

TEST(Template, Values) {
  EXPECT_EQ(render("{{text}}|{{ n }}|{{x}}|{{flag}}|{{none}}|{{list}}|{{choices.label}}"),
            "one two three|3|0.5|True|None|['a', 'b', 'c']|['A', 'B']");
  EXPECT_EQ(render("{{choices['text'][1]}} {{choices.text[-2]}} {{ word[2] }} {{word[-1]}}"), "right left ï Σ");
  EXPECT_EQ(render("{{ 'a' 'b' }}{{ \"it's\\t\\u00e9\\x41\" }}{{ {'k': [1, 2,],}['k'][1] }}"), "abit's\téA2");
}

TEST(Template, Slices) {
  EXPECT_EQ(render("{{list[1:]}}{{list[:-1]}}{{list[::-1]}}{{word[:5]}}{{word[6:7]}}{{text[::4]}}{{list[5:]}}"),
            "['b', 'c']['a', 'b']['c', 'b', 'a']naïve🙂otte[]");
  EXPECT_EQ(render("{{text.split(' ')[:-1]|join(' ')}}{{' '+text.split(' ')[-1]}}"), "one two three");
}

TEST(Template, Operators) {
  EXPECT_EQ(render("{{ 1 + 2 * 3 - 4 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 'a' ~ 1 ~ none }}"),
            "3 3 -4 2 3.5 a1None");
  EXPECT_EQ(render("{{ 1 < 2 and not 2 < 1 }} {{ 'a' in list }} {{ 'z' not in list }} {{ n == 3.0 }} {{ 0 or 'x' }}"),
            "True True True True x");
  EXPECT_EQ(render("{{ 'many' if n > 2 else 'few' }} {{ missing is defined }} {{ none is none }} {{ n is not none }}"),
            "many False True True");
  EXPECT_EQ(render("{{ (1 + 2) * 3 }} {{ list + ['d'] }}"), "9 ['a', 'b', 'c', 'd']");
}

TEST(Template, MethodsAndFilters) {
  EXPECT_EQ(
      render("{{ ' a b '.strip() }}|{{ 'xay'.strip('xy') }}|{{ 'a-b-c'.replace('-', '+', 1) }}|{{ word.upper() }}"),
      "a b|a|a+b-c|NAÏVE 🙂 Σ");
  EXPECT_EQ(render("{{ list.index('b') }} {{ word.find('🙂') }} {{ 'aXbX'.count('X') }} {{ ','.join(list) }}"),
            "1 6 2 a,b,c");
  EXPECT_EQ(
      render(
          "{{ list|length }} {{ word|length }} {{ list|first }}{{ list|last }} {{ '7'|int + 1 }} {{ n|string ~ '!' }}"),
      "3 9 ac 8 3!");
  EXPECT_EQ(render("{{ missing|default('none there') }} {{ text|replace('one', '1')|upper }} {{ ' a '|trim }}."),
            "none there 1 TWO THREE a.");
  EXPECT_EQ(render("{{ choices.get('text')|join('/') }} {{ choices.keys()|join }} {{ choices.get('no', 5) }}"),
            "left/right textlabel 5");
}

TEST(Template, Blocks) {
  EXPECT_EQ(render("{% if n == 2 %}two{% elif n == 3 %}three{% else %}many{% endif %}."), "three.");
  EXPECT_EQ(render("{% for item in list %}{{ loop.index }}{{ item }}{% if not loop.last %}, {% endif %}{% endfor %}"),
            "1a, 2b, 3c");
  EXPECT_EQ(render("{% for item in empty %}x{% endfor %}{# said #}{% set y = n * 2 %}{{ y }}"), "6");
  EXPECT_EQ(render("a  {%- if flag -%}  b  {%- endif %}  c {{- 'd' -}} \n e {#- gone -#} f"), "ab  cdef");
}

TEST(Template, LiteralsBecomeValues) {
  EXPECT_EQ(Template("{{choices.text}}").value(kRow), (OrderedJson{"left", "right"}));
  EXPECT_EQ(Template("['{{list[0]}}', \"it's\", 'a\\nb']").value(kRow), (OrderedJson{"a", "it's", "a\nb"}));
  EXPECT_EQ(Template("{{ choices.label.index('B') }}").value(kRow), OrderedJson(1));
  EXPECT_THROW(Template("{{text}}").value(kRow), Error);
}

TEST(Template, WhatIsWrongIsSaid) {
  EXPECT_EQ(problem("{{ missing }}"), "column 'missing' is missing");
  EXPECT_EQ(problem("{{ choices.no }}"), "there is no '.no' in an object of 2");
  EXPECT_EQ(problem("{{ list[3] }}"), "index 3 is outside of a list of 3 with 3");
  EXPECT_EQ(problem("{{ list.index('z') }}"), "'z' is not in ['a', 'b', 'c']");
  EXPECT_EQ(problem("{{ 1 + 'a' }}"), "'+': expected numbers, strings or lists, got the number 1 and a string");
  EXPECT_EQ(problem("{{ 1 // 0 }}"), "'//': a division by 0");
  EXPECT_NE(problem("{{ 9223372036854775807 + 1 }}").find("more than 64 bits"), std::string::npos);
  EXPECT_EQ(problem("{{ text"), "'{{ text': column 8: expected '}}'");
  EXPECT_EQ(problem("{% if n %}"), "'{% if n %}': column 11: expected {% endif %}");
  EXPECT_EQ(problem("{% endfor %}"), "'{% endfor %}': column 13: expected no 'endfor' without its beginning");
  EXPECT_NE(problem("{{ text|shout }}").find("expected one of the filters that are known, capitalize"),
            std::string::npos);
  EXPECT_NE(problem("{{ text.shout() }}").find("there is no method 'shout()'"), std::string::npos);
  EXPECT_NE(problem("{% include 'x' %}").find("expected if, for or set, got 'include'"), std::string::npos);
  EXPECT_NE(problem("{{ 'open }}").find("expected the closing '"), std::string::npos);
}

TEST(Template, LimitsHold) {
  std::string deep(200, '('), doubled = "{% set a = 'xxxxxxxxxxxxxxxx' %}";
  EXPECT_NE(problem("{{ " + deep + "1 }}").find("less than 64"), std::string::npos);
  for (int i = 0; i < 40; ++i) doubled += "{% set a = a + a %}";
  EXPECT_NE(problem(doubled + "{{ a }}").find("a text beyond"), std::string::npos);
  std::string nested;
  for (int i = 0; i < 40; ++i) nested += "{% if flag %}";
  EXPECT_NE(problem(nested).find("less than 16"), std::string::npos);
}

}  // namespace
}  // namespace liger::eval
