/* setting_rows: short names for the rows of a table of settings (config.h). The file that includes
 * this defines AT(field) as the offset in its struct; only such a file includes it. */
#ifndef SPIN_BASE_SETTING_ROWS_H
#define SPIN_BASE_SETTING_ROWS_H

#include "common/base/config.h"

#define I64(section, name, field, def, min, max, units, help)                                      \
    {                                                                                              \
        section, name, SP_SET_I64, AT(field), def, min, max, units, "", help                       \
    }
#define F64(section, name, field, def, min, max, units, help)                                      \
    {                                                                                              \
        section, name, SP_SET_F64, AT(field), def, min, max, units, "", help                       \
    }
#define LIST(section, name, field, def, min, max, units, help)                                     \
    {                                                                                              \
        section, name, SP_SET_LIST, AT(field), def, min, max, units, "", help                      \
    }
#define STR(section, name, field, def, help)                                                       \
    {                                                                                              \
        section, name, SP_SET_STR, AT(field), def, 0, 0, "", "", help                              \
    }
#define ENUM(section, name, field, def, choices, help)                                             \
    {                                                                                              \
        section, name, SP_SET_ENUM, AT(field), def, 0, 0, "", choices, help                        \
    }
#define BOOL(section, name, field, def, help)                                                      \
    {                                                                                              \
        section, name, SP_SET_BOOL, AT(field), def, 0, 1, "", "", help                             \
    }
#define BYTES(section, name, field, def, min, max, help)                                           \
    {                                                                                              \
        section, name, SP_SET_BYTES, AT(field), def, min, max, "bytes", "", help                   \
    }

#endif
