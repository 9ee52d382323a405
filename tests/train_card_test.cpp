// The model card of a run.

#include <gtest/gtest.h>

#include "liger/train/trainer.h"
#include "train_test_util.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

class CardTest : public testing::Test {
 protected:
  void SetUp() override {
    test::write_text_rows(folder_ / "rows.jsonl", 40);
    write_base(folder_ / "model", true);
  }
  static void write_base(const fs::path& dir, bool liger) {
    test::write_tiny_model(dir, liger);
    write_text_atomic(dir / "README.md", "---\nlicense: llama3\nlanguage: en\n---\nlicense: not this one\n");
  }
  std::string card(std::vector<std::string> settings) {
    settings.insert(settings.end(), {"train.max_steps=2", "save.overwrite=true", "save.resume=never"});
    const FinetuneResult result = Trainer(test::read_options(test::tiny_run(folder_.path()), settings)).run();
    return test::slurp(result.output / "README.md");
  }
  static void expect(const std::string& card, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) EXPECT_NE(card.find(part), std::string::npos) << part << "\n" << card;
  }

  test::TemporaryFolder folder_;
};

TEST_F(CardTest, OfAnAdapter) {
  const std::string base = (folder_ / "model").string();
  const std::string text = card({});
  EXPECT_TRUE(
      text.starts_with(cat("---\nbase_model: \"", base, "\"\nlicense: llama3\nlibrary_name: peft\n",
                           "pipeline_tag: text-generation\ntags:\n- \"base_model:adapter:", base,
                           "\"\n- liger\n- linear-attention\n- lora\n- transformers\n---\n\n# model, LoRA adapter\n")))
      << text;
  expect(text, {"A LoRA adapter (r 4, alpha 8, on `[\"k_proj\",\"q_proj\",\"v_proj\"]`)", "window 8, ",
                "- training 1280 of 33312 parameters (3.842%)\n", "| updates | 2 |",
                "| validation loss before, nats a token |", "| best validation loss, nats a token |",
                "| training loss at the end, nats a token |", cat("liger-generate --model '", base, "' --adapter DIR"),
                "PeftModel.from_pretrained(base, \"DIR\")",
                cat("| 36 | `rows.jsonl` | `", sha256_file(folder_ / "rows.jsonl"), "` |"),
                "| 4 | `rows.jsonl` | the first of the same file, for validation |", "\n  max_steps: 2  #", "- liger ",
                "- LibTorch "});
  EXPECT_EQ(text.find("not this one"), std::string::npos);
  EXPECT_EQ(text.find("liger-convert"), std::string::npos);
}

TEST_F(CardTest, OfAnAdapterOverLayersThatTheBaseDoesNotHave) {
  write_base(folder_ / "model", false);
  expect(card({"model.attention=liger_gla", "model.window=8"}), {"`liger-convert` makes a folder of the same weights"});
  const std::string softmax = card({});
  expect(softmax, {"with softmax attention."});
  EXPECT_EQ(softmax.find("linear-attention"), std::string::npos);
}

TEST_F(CardTest, OfAWholeModelFromTheCache) {
  const fs::path snapshot = folder_ / "hub" / "models--org--Base-1B" / "snapshots" / "0123abc";
  fs::create_directories(snapshot);
  write_base(snapshot, true);
  expect(card({"lora=null", "model.path=" + snapshot.string()}),
         {"base_model: \"org/Base-1B\"\nlicense: llama3\nlibrary_name: transformers\n",
          "- \"base_model:finetune:org/Base-1B\"\n", "# Base-1B, fine-tuned\n",
          "All parameters trained by liger-finetune from", "liger-generate --model DIR",
          "AutoModelForCausalLM.from_pretrained(\"DIR\")"});
}

}  // namespace
}  // namespace liger
