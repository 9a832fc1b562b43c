/* Every way in which a tokenizer.json can be bad gets a message that names the file and the field.
 */
#include <string.h>

#include "common/base/fs.h"
#include "common/text/tokenizer.h"
#include "tests/unit/check_main.h"

#define VOCAB "\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"<s>\": 3}"
#define MODEL "\"model\": {\"type\": \"BPE\", " VOCAB ", \"merges\": [\"a b\"]}"

static const struct {
    const char *json;
    enum sp_err code;
    const char *field; /* must be in the message */
} cases[] = {
    {"", SP_EFORMAT, "not valid JSON"},
    {"{", SP_EFORMAT, "not valid JSON"},
    {"[1]", SP_EFORMAT, "expected a JSON object"},
    {"{}", SP_EFORMAT, "field \"model\": missing"},
    {"{\"model\": 3}", SP_EFORMAT, "field \"model\": expected an object"},
    {"{\"model\": {\"type\": 1}}", SP_EFORMAT, "field \"model.type\""},
    {"{\"model\": {\"type\": \"WordPiece\"}}", SP_EUNSUPPORTED,
     "field \"model.type\": WordPiece models"},
    {"{\"model\": {\"type\": \"BPE\"}}", SP_EFORMAT, "field \"model.vocab\": missing"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": []}}", SP_EFORMAT,
     "field \"model.vocab\": expected an object"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}}", SP_EFORMAT,
     "field \"model.vocab\": there are no tokens"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": \"0\"}}}", SP_EFORMAT,
     "field \"model.vocab\": the id of \"a\""},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -1}}}", SP_EFORMAT,
     "field \"model.vocab\": the id of \"a\""},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 99999999}}}", SP_EFORMAT,
     "field \"model.vocab\": the id of \"a\""},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}}}", SP_EFORMAT,
     "has id 0, as another token has"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"a\": 1}}}", SP_EFORMAT,
     "duplicate object key"},
    {"{\"model\": {\"type\": \"BPE\", " VOCAB "}}", SP_EFORMAT, "field \"model.merges\": missing"},
    {"{\"model\": {\"type\": \"BPE\", " VOCAB ", \"merges\": {}}}", SP_EFORMAT,
     "field \"model.merges\": expected an array"},
    {"{\"model\": {\"type\": \"BPE\", " VOCAB ", \"merges\": [\"ab\"]}}", SP_EFORMAT,
     "field \"model.merges[0]\": expected two tokens"},
    {"{\"model\": {\"type\": \"BPE\", " VOCAB ", \"merges\": [\"a b\", \"a b c\"]}}", SP_EFORMAT,
     "field \"model.merges[1]\": expected two tokens"},
    {"{\"model\": {\"type\": \"BPE\", " VOCAB ", \"merges\": [[\"a\"]]}}", SP_EFORMAT,
     "field \"model.merges[0]\": expected two tokens"},
    {"{\"model\": {\"type\": \"BPE\", " VOCAB ", \"merges\": [[\"a\", 1]]}}", SP_EFORMAT,
     "field \"model.merges[0]\": expected two tokens"},
    {"{\"model\": {\"type\": \"BPE\", " VOCAB ", \"merges\": [\"a c\"]}}", SP_EFORMAT,
     "field \"model.merges[0]\": \"c\" is not in model.vocab"},
    {"{\"model\": {\"type\": \"BPE\", " VOCAB ", \"merges\": [\"b a\"]}}", SP_EFORMAT,
     "field \"model.merges[0]\": the result \"ba\" is not in model.vocab"},
    {"{\"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", " VOCAB ", \"merges\": []}}",
     SP_EFORMAT, "field \"model.unk_token\": \"<unk>\" is not in model.vocab"},
    {"{\"model\": {\"type\": \"BPE\", \"dropout\": 0.1, " VOCAB ", \"merges\": []}}",
     SP_EUNSUPPORTED, "field \"model.dropout\""},
    {"{\"model\": {\"type\": \"BPE\", \"byte_fallback\": 1, " VOCAB ", \"merges\": []}}",
     SP_EFORMAT, "field \"byte_fallback\""},
    {"{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}", SP_EFORMAT, "field \"model.vocab\""},
    {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\"]]}}", SP_EFORMAT,
     "field \"model.vocab[0]\""},
    {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0], [\"a\", 1]]}}", SP_EFORMAT,
     "field \"model.vocab[1]\": \"a\" is there twice"},
    {"{\"model\": {\"type\": \"Unigram\", \"unk_id\": 7, \"vocab\": [[\"a\", 0]]}}", SP_EFORMAT,
     "field \"unk_id\""},
    {"{" MODEL ", \"added_tokens\": {}}", SP_EFORMAT, "field \"added_tokens\": expected an array"},
    {"{" MODEL ", \"added_tokens\": [3]}", SP_EFORMAT, "added_tokens[0]"},
    {"{" MODEL ", \"added_tokens\": [{\"id\": 4}]}", SP_EFORMAT,
     "added_tokens[0]: field \"content\" is missing"},
    {"{" MODEL ", \"added_tokens\": [{\"content\": \"x\"}]}", SP_EFORMAT,
     "added_tokens[0]: field \"id\" is missing"},
    {"{" MODEL ", \"added_tokens\": [{\"id\": -4, \"content\": \"x\"}]}", SP_EFORMAT,
     "added_tokens[0]: field \"id\""},
    {"{" MODEL ", \"added_tokens\": [{\"id\": 4, \"content\": \"x\", \"lstrip\": \"no\"}]}",
     SP_EFORMAT, "added_tokens[0]: field \"lstrip\""},
    {"{" MODEL ", \"added_tokens\": [{\"id\": 7, \"content\": \"x\"}]}", SP_EFORMAT,
     "field \"added_tokens[0]\": \"x\" has id 7 here, but is token 4 for the library"},
    {"{" MODEL ", \"added_tokens\": [{\"id\": 4, \"content\": \"x\"}, {\"id\": 3, \"content\": "
     "\"<s>\"}, {\"id\": 6, \"content\": \"y\"}]}",
     SP_EFORMAT, "field \"added_tokens[2]\": \"y\" has id 6 here, but is token 5 for the library"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 2}, \"merges\": []}, "
     "\"added_tokens\": [{\"id\": 2, \"content\": \"x\"}]}",
     SP_EFORMAT, "field \"added_tokens[0]\": \"x\" has the id 2 of \"b\""},
    {"{\"version\": \"2.0\", " MODEL "}", SP_EUNSUPPORTED, "field \"version\": \"2.0\"; known is"},
    {"{" MODEL ", \"added_tokens\": [{\"id\": 4, \"content\": \"<s>\"}]}", SP_EFORMAT,
     "field \"added_tokens[0]\": \"<s>\" has id 4 here and 3 in model.vocab"},
    {"{" MODEL ", \"added_tokens\": [{\"id\": 4, \"content\": \"x\"}, {\"id\": 5, \"content\": "
     "\"x\"}]}",
     SP_EFORMAT, "field \"added_tokens[1]\": \"x\" is there twice"},
    {"{" MODEL ", \"normalizer\": 1}", SP_EFORMAT, "field \"normalizer\": expected an object"},
    {"{" MODEL ", \"normalizer\": {\"type\": \"Precompiled\"}}", SP_EUNSUPPORTED,
     "field \"normalizer\": the normalizer Precompiled"},
    {"{" MODEL ", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, "
     "{\"type\": \"Nmt\"}]}}",
     SP_EUNSUPPORTED, "field \"normalizer.normalizers[1]\": the normalizer Nmt"},
    {"{" MODEL ", \"normalizer\": {\"type\": \"Sequence\"}}", SP_EFORMAT,
     "field \"normalizer.normalizers\": expected an array"},
    {"{" MODEL ", \"normalizer\": {\"type\": \"Prepend\"}}", SP_EFORMAT,
     "field \"normalizer.prepend\": expected a string"},
    {"{" MODEL ", \"normalizer\": {\"type\": \"Replace\", \"content\": \"x\"}}", SP_EFORMAT,
     "field \"normalizer.pattern\": expected"},
    {"{" MODEL ", \"normalizer\": {\"type\": \"Replace\", \"content\": \"x\", \"pattern\": "
     "{\"Regex\": \"(\"}}}",
     SP_EFORMAT, "field \"normalizer.pattern\": the expression (: missing closing parenthesis"},
    {"{" MODEL ", \"normalizer\": {\"type\": \"Strip\", \"strip_left\": 1}}", SP_EFORMAT,
     "field \"normalizer.strip_left\": expected true or false"},
    {"{" MODEL ", \"pre_tokenizer\": {\"type\": \"UnicodeScripts\"}}", SP_EUNSUPPORTED,
     "field \"pre_tokenizer\": the pre-tokenizer UnicodeScripts"},
    {"{" MODEL ", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": "
     "\"[a-z&&[^b]]\"}, \"behavior\": \"Isolated\"}}",
     SP_EUNSUPPORTED, "field \"pre_tokenizer.pattern\": an intersection of classes"},
    {"{" MODEL ", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"x\"}}}",
     SP_EFORMAT, "field \"pre_tokenizer.behavior\": expected a string"},
    {"{" MODEL ", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"x\"}, "
     "\"behavior\": \"Dropped\"}}",
     SP_EUNSUPPORTED, "field \"pre_tokenizer.behavior\": \"Dropped\""},
    {"{" MODEL ", \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"ab\"}}",
     SP_EFORMAT, "field \"pre_tokenizer\": replacement is not one character"},
    {"{" MODEL ", \"pre_tokenizer\": {\"type\": \"Metaspace\", \"prepend_scheme\": \"last\"}}",
     SP_EUNSUPPORTED, "prepend_scheme \"last\""},
    {"{" MODEL ", \"pre_tokenizer\": {\"type\": \"CharDelimiterSplit\"}}", SP_EFORMAT,
     "field \"pre_tokenizer.delimiter\""},
    {"{" MODEL ", \"decoder\": {\"type\": \"WordPiece\"}}", SP_EUNSUPPORTED,
     "field \"decoder\": the decoder WordPiece"},
    {"{" MODEL ", \"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"CTC\"}]}}",
     SP_EUNSUPPORTED, "field \"decoder.decoders[0]\": the decoder CTC"},
    {"{" MODEL ", \"decoder\": {\"type\": \"Strip\", \"content\": \"ab\"}}", SP_EFORMAT,
     "field \"decoder\": \"content\" is not one character"},
    {"{" MODEL ", \"post_processor\": {\"type\": \"Unknown\"}}", SP_EUNSUPPORTED,
     "field \"post_processor\": the post-processor Unknown"},
    {"{" MODEL ", \"post_processor\": {\"type\": \"TemplateProcessing\"}}", SP_EFORMAT,
     "field \"post_processor\": \"single\" is not an array"},
    {"{" MODEL ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
     "[{\"SpecialToken\": {\"id\": \"<s>\"}}, {\"Sequence\": {\"id\": \"A\"}}]}}",
     SP_EFORMAT, "field \"post_processor\": \"<s>\" has no list of ids"},
    {"{" MODEL ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
     "[{\"SpecialToken\": {\"id\": \"<s>\"}}], \"special_tokens\": {\"<s>\": {\"ids\": [99]}}}}",
     SP_EFORMAT, "field \"post_processor\": expected a token id from 0 to 3"},
    {"{" MODEL ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": []}}",
     SP_EUNSUPPORTED, "field \"post_processor\": \"single\" leaves the text out"},
    {"{" MODEL ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
     "[{\"Sequence\": {\"id\": \"A\"}}, {\"Sequence\": {\"id\": \"A\"}}]}}",
     SP_EUNSUPPORTED, "field \"post_processor\": \"single\" is more than"},
    {"{" MODEL ", \"post_processor\": {\"type\": \"BertProcessing\"}}", SP_EFORMAT,
     "field \"post_processor\": expected a token id"},
};

START_TEST(malformed)
{
    struct tok_tokenizer *t = NULL;
    struct sp_error err = {0};
    enum sp_err rc =
        tok_load_memory(cases[_i].json, strlen(cases[_i].json), "my/tokenizer.json", &t, &err);
    ck_assert_msg(rc == cases[_i].code, "%s: %s instead of %s: %s", cases[_i].json, sp_err_name(rc),
                  sp_err_name(cases[_i].code), err.text);
    ck_assert_ptr_null(t);
    ck_assert_msg(strstr(err.text, "my/tokenizer.json") != NULL &&
                      strstr(err.text, cases[_i].field) != NULL,
                  "\"%s\" is not in \"%s\"", cases[_i].field, err.text);
}
END_TEST

START_TEST(good_frame)
{
    const char *json = "{" MODEL "}";
    struct tok_tokenizer *t = NULL;
    struct sp_error err = {0};
    ck_assert_msg(tok_load_memory(json, strlen(json), "x", &t, &err) == SP_OK, "%s", err.text);
    tok_free(t);
}
END_TEST

START_TEST(files)
{
    struct tok_tokenizer *t = NULL;
    struct sp_error err = {0};
    ck_assert_int_eq(tok_load("/no/such/dir", &t, &err), SP_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.text, "/no/such/dir"));
    char dir[] = "/tmp/spin-text-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(tok_load(dir, &t, &err), SP_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.text, "tokenizer.json"));
    char *path = sp_path_join(dir, "tokenizer.json");
    const char *json = "{" MODEL "}";
    ck_assert_int_eq(sp_write_file_durable(path, json, strlen(json), 0600, &err), SP_OK);
    ck_assert_msg(tok_load(dir, &t, &err) == SP_OK, "%s", err.text);
    tok_free(t);
    ck_assert_int_eq(tok_load(path, &t, &err), SP_OK);
    tok_free(t);
    ck_assert_int_eq(sp_write_file_durable(path, "\xff", 1, 0600, &err), SP_OK);
    t = NULL;
    ck_assert_int_eq(tok_load(dir, &t, &err), SP_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, path));
    free(path);
    ck_assert_int_eq(sp_remove_tree(dir, &err), SP_OK);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("tokenizer_malformed");
    TCase *c = tcase_create("malformed");
    tcase_add_loop_test(c, malformed, 0, sizeof(cases) / sizeof(cases[0]));
    tcase_add_test(c, good_frame);
    tcase_add_test(c, files);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
