/* dataset: a streaming reader of training data, one row at a time.
 *
 * Files are what common/text/rows.h reads. The format is recognized by the fields of the first row,
 * or named, or made by naming the fields; every row must then be of it. One thread; blocks on the
 * file. */
#ifndef SPIN_TEXT_DATASET_H
#define SPIN_TEXT_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/text/chat.h"

/* name, fields. A prompt or an answer is a string; `messages`, `real`, `generated` and, if not
 * strings, `chosen` and `rejected` are lists of {"role", "content"}. */
#define TOK_FORMAT_LIST(X)                                                                         \
    X(AUTO, "auto", "recognized by the first row")                                                 \
    X(PROMPT_RESPONSE, "prompt_response", "prompt, response")                                      \
    X(MESSAGES, "messages", "messages: the last assistant message is the response")                \
    X(INSTRUCTION, "instruction", "instruction, output, and input where there is one")             \
    X(QUESTION_ANSWER, "question_answer", "question, answer")                                      \
    X(UCLAML, "uclaml", "real, generated: the same prompt with two answers")                       \
    X(PREFERENCE, "preference", "chosen, rejected, and prompt, question or instruction")           \
    X(MAPPED, "mapped", "the fields that [data] prompt, response, rejected and system name")

#define TOK_FORMAT_ENUM(id, name, what) TOK_FORMAT_##id,
enum tok_format { TOK_FORMAT_LIST(TOK_FORMAT_ENUM) TOK_FORMAT_COUNT };
#undef TOK_FORMAT_ENUM

const char *tok_format_name(enum tok_format format); /* static */
/* SP_EINVAL with the list of names. */
enum sp_err tok_format_parse(const char *name, enum tok_format *ret,
                             struct sp_error *err) SP_MUST_USE;

/* Names of fields, for data whose own names say nothing: "question", "best answer". A name that is
 * no field is a path into objects and lists: "conversation.0.value". NULL or "": the prompt is
 * "prompt", the response "response", and there is no rejected answer or system message. The prompt
 * may be a list of messages (the last one the user's) where the others must be strings. */
struct tok_fields {
    const char *prompt, *response, *rejected, *system;
};
bool tok_fields_given(const struct tok_fields *fields); /* any of them */

/* A row; everything is borrowed until the next call for the same dataset. */
struct tok_row {
    uint64_t index;                /* from 0 */
    uint64_t line;                 /* of the file, from 1, where the row starts */
    const struct chat_turn *turns; /* the prompt; the last turn is the user's */
    size_t turn_count;             /* >= 1 */
    const char *response;          /* the good answer, not empty */
    const char *rejected;          /* the other answer (uclaml's generated); NULL: none */
    bool conversation; /* messages: turns goes on with the response itself, as turns[turn_count] */
};

struct tok_dataset;

/* `what` names the file in messages; NULL: its path. Reads up to the first row to recognize the
 * format; a file without rows is SP_EFORMAT. */
enum sp_err tok_dataset_open(const char *path, const char *what, enum tok_format format,
                             struct tok_dataset **ret, struct sp_error *err) SP_MUST_USE;
/* The same with the names of the fields, which then decide (NULL: none). */
enum sp_err tok_dataset_open_fields(const char *path, const char *what, enum tok_format format,
                                    const struct tok_fields *fields, struct tok_dataset **ret,
                                    struct sp_error *err) SP_MUST_USE;
/* The same from memory, which is borrowed until close. */
enum sp_err tok_dataset_open_memory(const void *data, size_t length, const char *what,
                                    enum tok_format format, struct tok_dataset **ret,
                                    struct sp_error *err) SP_MUST_USE;
/* The next row in *ret and *ret_more = true, or *ret_more = false at the end. A bad row is
 * SP_EFORMAT "FILE:LINE: field …"; the dataset can't be read on after an error. */
enum sp_err tok_dataset_next(struct tok_dataset *dataset, struct tok_row *ret, bool *ret_more,
                             struct sp_error *err) SP_MUST_USE;
enum tok_format tok_dataset_format(const struct tok_dataset *dataset); /* never AUTO */
/* For progress: bytes of the file, as it lies there, that were read, and that there are (0:
 * unknown). */
uint64_t tok_dataset_bytes_read(const struct tok_dataset *dataset);
uint64_t tok_dataset_bytes_total(const struct tok_dataset *dataset);
void tok_dataset_close(struct tok_dataset *dataset); /* NULL is fine */

#endif
