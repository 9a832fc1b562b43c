/* config_value: one setting's text and value. Inside common/base only. */
#ifndef SPIN_BASE_CONFIG_VALUE_H
#define SPIN_BASE_CONFIG_VALUE_H

#include <stdbool.h>

#include "common/base/config.h"

/* Parses text into values + setting->offset (a string there is freed first). The message says what
 * is wrong and what is expected; the caller puts the place before it. */
enum sp_err sp_setting_parse(const struct sp_setting *setting, const char *text, void *values,
                             struct sp_error *err) SP_MUST_USE;
/* Text that sp_setting_parse reads back to the same value. */
void sp_setting_format(const struct sp_setting *setting, const void *values, struct sp_buf *out);
/* The range check alone, for numbers that come from JSON. */
enum sp_err sp_setting_check(const struct sp_setting *setting, double value,
                             struct sp_error *err) SP_MUST_USE;
/* "1 to 64 tokens", "one of spin, sft, dpo", "at least 0"; empty when anything goes. */
void sp_setting_describe_range(const struct sp_setting *setting, struct sp_buf *out);
/* Shortest decimal that reads back to the same double. */
void sp_format_double(double value, struct sp_buf *out);

#endif
