/* golden_lines: what lm-evaluation-harness asked and made of the answers, a JSON object a line;
 * made by tests/golden/task/make_fixture.py. */
#ifndef SPIN_TESTS_TASK_GOLDEN_LINES_H
#define SPIN_TESTS_TASK_GOLDEN_LINES_H

#include <check.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"

/* An array; the caller's. */
static json_t *golden_lines(void)
{
    char *text = NULL;
    size_t length = 0;
    struct sp_error err = {0};
    json_t *lines = json_array();
    ck_assert(sp_read_file(SPIN_SOURCE_ROOT "/tests/golden/task/harness.jsonl", 1 << 20, &text,
                           &length, &err) == SP_OK);
    for (char *at = strtok(text, "\n"); at != NULL; at = strtok(NULL, "\n"))
        json_array_append_new(lines, json_loads(at, 0, NULL));
    free(text);
    return lines;
}

#endif
