/* json: typed access to jansson documents, with messages that name the file and the field.
 * Any thread. json_t references are counted by jansson; "borrowed" means: do not decref. */
#ifndef SPIN_BASE_JSON_H
#define SPIN_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

/* Parses with duplicate keys, bad UTF-8, NUL in strings and trailing text refused. `what` names the
 * source in messages ("config.json"). New reference in *ret. */
enum sp_err sp_json_parse(const char *text, size_t length, const char *what, json_t **ret,
                          struct sp_error *err) SP_MUST_USE;
enum sp_err sp_json_load(const char *path, size_t max_bytes, json_t **ret, struct sp_error *err)
    SP_MUST_USE;

/* Field `key` of an object. A missing or null field is SP_ENOTFOUND, a wrong type or range
 * SP_EFORMAT; `what` prefixes the message: `config.json: field "hidden_size": …`. */
enum sp_err sp_json_i64(const json_t *object, const char *key, int64_t min, int64_t max,
                        const char *what, int64_t *ret, struct sp_error *err) SP_MUST_USE;
enum sp_err sp_json_f64(const json_t *object, const char *key, const char *what, double *ret,
                        struct sp_error *err) SP_MUST_USE; /* integers are accepted */
enum sp_err sp_json_bool(const json_t *object, const char *key, const char *what, bool *ret,
                         struct sp_error *err) SP_MUST_USE;
enum sp_err sp_json_str(const json_t *object, const char *key, const char *what,
                        const char **ret_borrowed, struct sp_error *err) SP_MUST_USE;
/* The same, where absence (or null) leaves *ret as it is and succeeds. */
enum sp_err sp_json_opt_i64(const json_t *object, const char *key, int64_t min, int64_t max,
                            const char *what, int64_t *ret, struct sp_error *err) SP_MUST_USE;
enum sp_err sp_json_opt_f64(const json_t *object, const char *key, const char *what, double *ret,
                            struct sp_error *err) SP_MUST_USE;
enum sp_err sp_json_opt_bool(const json_t *object, const char *key, const char *what, bool *ret,
                             struct sp_error *err) SP_MUST_USE;
enum sp_err sp_json_opt_str(const json_t *object, const char *key, const char *what,
                            const char **ret_borrowed, struct sp_error *err) SP_MUST_USE;

/* Compact text with sorted keys; malloc'd (free). Same document → same bytes. 17 digits. */
char *sp_json_canonical(const json_t *value);

#endif
