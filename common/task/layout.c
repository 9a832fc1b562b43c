/* Other layouts of known datasets: LLM-Adapters' instructions, AI2's own ARC files. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/task/internal.h"

/* {"question": {"stem", "choices": [{"text", "label"}]}, "answerKey"} → {"question", "choices":
 * {"text": […], "label": […]}, "answerKey"} */
static json_t *from_ai2(json_t *row)
{
    json_t *question = json_object_get(row, "question");
    json_t *texts = task_field(question, "choices.text");
    json_t *labels = task_field(question, "choices.label");
    json_t *stem = json_object_get(question, "stem");
    if (json_is_string(stem) && json_is_array(texts) && json_is_array(labels)) {
        json_object_set_new(row, "choices", json_pack("{s:O,s:O}", "text", texts, "label", labels));
        json_object_set(row, "question", stem);
    }
    json_decref(texts);
    json_decref(labels);
    return row;
}

/* "Answer1: … Answer2: … Answer format: …": the word before the number. */
static const char *marker_word(const char *text, const char **ret_start)
{
    static const char *const words[] = {"Answer", "Option", "Solution", "Ending"};
    for (size_t i = 0; i < SP_COUNT(words); i++) {
        char marker[32];
        snprintf(marker, sizeof(marker), "\n\n%s1: ", words[i]);
        const char *hit = strstr(text, marker);
        if (hit != NULL) {
            *ret_start = hit;
            return words[i];
        }
    }
    return NULL;
}

/* The end of choice n, where the next marker or the format begins. */
static const char *end_of_choice(const char *at, const char *word, int n)
{
    char next[32], format[32];
    snprintf(next, sizeof(next), " %s%d: ", word, n + 1);
    snprintf(format, sizeof(format), "%s format: ", word);
    const char *end = strstr(at, next);
    if (end == NULL && (end = strstr(at, format)) == NULL &&
        (end = strstr(at, "Answer format: ")) == NULL)
        end = at + strlen(at);
    return end;
}

static json_t *stripped(const char *from, const char *to)
{
    size_t length = (size_t)(to - from);
    tok_strip(&from, &length);
    return json_stringn(from, length);
}

static json_t *adapters_choices(const char *at, const char *word)
{
    json_t *texts = json_array();
    for (int n = 1; n <= TASK_MAX_CHOICES; n++) {
        char marker[32];
        snprintf(marker, sizeof(marker), "%s%d: ", word, n);
        const char *hit = strstr(at, marker);
        if (hit == NULL)
            break;
        hit += strlen(marker);
        const char *end = end_of_choice(hit, word, n);
        json_array_append_new(texts, stripped(hit, end));
        at = end;
    }
    return texts;
}

/* {"instruction": "Please choose …: QUESTION\n\nAnswer1: …", "answer": "answer3"} */
static json_t *from_adapters(json_t *row, const char *instruction, const char *answer)
{
    const char *start = NULL;
    const char *word = marker_word(instruction, &start);
    const char *colon = strstr(instruction, ": ");
    const char *digits = answer + strcspn(answer, "0123456789");
    if (word == NULL || colon == NULL || colon > start || !isdigit((unsigned char)*digits))
        return row;
    json_t *texts = adapters_choices(start, word);
    json_t *question = stripped(colon + 2, start);
    json_t *labels = json_array(), *result = json_object();
    for (size_t i = 0; i < json_array_size(texts); i++) {
        char name[32];
        snprintf(name, sizeof(name), "%zu", i + 1);
        json_array_append_new(labels, json_string(name));
        snprintf(name, sizeof(name), "option%zu", i + 1);
        json_object_set(result, name, json_array_get(texts, i));
    }
    json_object_set(result, "question", question);
    json_object_set(result, "sentence", question);
    json_object_set_new(result, "answerKey", json_string(digits));
    json_object_set_new(result, "answer", json_string(digits));
    json_object_set_new(result, "choices", json_pack("{s:o,s:o}", "text", texts, "label", labels));
    json_decref(question);
    json_decref(row);
    return result;
}

json_t *task_row_published(json_t *row)
{
    const char *instruction = json_string_value(json_object_get(row, "instruction"));
    const char *answer = json_string_value(json_object_get(row, "answer"));
    if (instruction != NULL && answer != NULL && strncmp(instruction, "Please choose", 13) == 0)
        return from_adapters(row, instruction, answer);
    if (json_is_object(json_object_get(row, "question")))
        return from_ai2(row);
    return row;
}
