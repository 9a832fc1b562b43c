/* How byte-level tokenizers cut words, by the names that llama.cpp gives (llm_tokenizer_bpe in
 * llama-vocab.cpp). The expressions are those of the original tokenizer.json files, of which
 * llama.cpp's are adaptations. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/checkpoint/gguf_vocab_internal.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3 CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" TAIL
#define QWEN2 CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" TAIL
#define LETTERS "\\p{Lm}\\p{Lo}\\p{M}"
#define TEKKEN                                                                                     \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}" LETTERS "]*[\\p{Ll}" LETTERS "]+"                      \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}" LETTERS "]+[\\p{Ll}" LETTERS "]*"                     \
    "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define DIGIT "\\p{N}"

/* Where rows cut alike, the first with the same ignore_merges is written. */
static const struct gguf_pre rows[] = {
    {.name = "gpt-2", .words = true},
    {.name = "phi-2", .words = true},
    {.name = "smollm", .splits = {DIGIT}, .words = true},
    {.name = "starcoder", .splits = {DIGIT}, .words = true},
    {.name = "refact", .splits = {DIGIT}, .words = true},
    {.name = "command-r", .splits = {DIGIT}, .words = true, .nfc = true},
    {.name = "llama-bpe", .splits = {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {.name = "llama3", .splits = {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {.name = "llama-v3", .splits = {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {.name = "falcon3", .splits = {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {.name = "pixtral", .splits = {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {.name = "dbrx", .splits = {LLAMA3}},
    {.name = "smaug-bpe", .splits = {LLAMA3}},
    {.name = "qwen2", .splits = {QWEN2}, .nfc = true},
    {.name = "deepseek-r1-qwen", .splits = {QWEN2}},
    {.name = "tekken", .splits = {TEKKEN}, .ignore_merges = true, .add_bos = true},
    {.name = "deepseek-coder",
     .splits = {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", DIGIT}},
};

const struct gguf_pre *gguf_pre_find(struct ckpt_gguf_text name)
{
    for (size_t i = 0; i < SP_COUNT(rows); i++)
        if (strlen(rows[i].name) == name.length &&
            memcmp(rows[i].name, name.data, name.length) == 0)
            return &rows[i];
    return NULL;
}

static json_t *split_json(const char *expression)
{
    if (strcmp(expression, DIGIT) == 0)
        return json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1);
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", expression,
                     "behavior", "Isolated", "invert", 0);
}

json_t *gguf_pre_json(const struct gguf_pre *pre)
{
    json_t *bytes = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                              "trim_offsets", 1, "use_regex", pre->words);
    if (pre->splits[0] == NULL)
        return bytes;
    json_t *list = json_array();
    for (int i = 0; i < GGUF_PRE_SPLITS && pre->splits[i] != NULL; i++)
        json_array_append_new(list, split_json(pre->splits[i]));
    json_array_append_new(list, bytes);
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

/* ---- recognizing ---- */

/* The ways in which the same expression is written. */
static char *canonical(const char *expression)
{
    static const char *const spelled[] = {
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        "'(?i:[sdmt]|ll|ve|re)"};
    struct sp_buf out = SP_BUF_INIT;
    for (const char *p = expression; *p != 0;) {
        size_t length = 0;
        for (size_t i = 0; i < SP_COUNT(spelled) && length == 0; i++)
            if (strncmp(p, spelled[i], strlen(spelled[i])) == 0)
                length = strlen(spelled[i]);
        if (length > 0)
            sp_buf_puts(&out, CONTRACTIONS);
        else
            sp_buf_putc(&out, *p);
        p += length > 0 ? length : 1;
    }
    return sp_buf_detach(&out);
}

/* One cut before the byte level, as an expression; NULL where it is none of ours. */
static char *cut_of(const json_t *item)
{
    const char *type = json_string_value(json_object_get(item, "type"));
    if (type == NULL)
        return NULL;
    if (strcmp(type, "Digits") == 0)
        return json_is_true(json_object_get(item, "individual_digits")) ? sp_xstrdup(DIGIT) : NULL;
    const char *behavior = json_string_value(json_object_get(item, "behavior"));
    const char *regex =
        json_string_value(json_object_get(json_object_get(item, "pattern"), "Regex"));
    if (strcmp(type, "Split") != 0 || behavior == NULL || strcmp(behavior, "Isolated") != 0 ||
        regex == NULL || json_is_true(json_object_get(item, "invert")))
        return NULL;
    return canonical(regex);
}

/* The last step; false where it is no byte level, or one that puts a space before the text. */
static bool byte_level(const json_t *item, bool *ret_words)
{
    const char *type = json_string_value(json_object_get(item, "type"));
    if (type == NULL || strcmp(type, "ByteLevel") != 0 ||
        !json_is_false(json_object_get(item, "add_prefix_space")))
        return false;
    *ret_words = !json_is_false(json_object_get(item, "use_regex"));
    return true;
}

static bool same_cuts(const struct gguf_pre *row, char *const *cuts, size_t count, bool words)
{
    size_t have = 0;
    while (have < GGUF_PRE_SPLITS && row->splits[have] != NULL)
        have++;
    if (have != count || row->words != words)
        return false;
    for (size_t i = 0; i < count; i++) {
        char *text = canonical(row->splits[i]);
        bool same = strcmp(text, cuts[i]) == 0;
        free(text);
        if (!same)
            return false;
    }
    return true;
}

const struct gguf_pre *gguf_pre_match(const json_t *pre_tokenizer, bool ignore_merges)
{
    const json_t *list = json_object_get(pre_tokenizer, "pretokenizers");
    size_t count = json_is_array(list) ? json_array_size(list) : 1, cut = 0;
    char *cuts[GGUF_PRE_SPLITS] = {0};
    bool words = false, good = count >= 1 && count <= GGUF_PRE_SPLITS + 1;
    for (size_t i = 0; good && i + 1 < count; i++) {
        cuts[cut] = cut_of(json_array_get(list, i));
        good = cuts[cut] != NULL;
        cut += good;
    }
    good = good && byte_level(json_is_array(list) ? json_array_get(list, count - 1) : pre_tokenizer,
                              &words);
    const struct gguf_pre *found = NULL;
    for (size_t i = 0; good && found == NULL && i < SP_COUNT(rows); i++)
        if (rows[i].ignore_merges == ignore_merges && same_cuts(&rows[i], cuts, cut, words))
            found = &rows[i];
    for (size_t i = 0; i < cut; i++)
        free(cuts[i]);
    return found;
}
