#include "common/base/names.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

#define FIRST_SLOTS 64

static uint64_t hash_of(const char *text, size_t length)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)text[i]) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

void sp_names_deinit(struct sp_names *names)
{
    for (uint32_t i = 0; i < names->count; i++)
        free(names->texts[i]);
    free(names->texts);
    free(names->slots);
    *names = (struct sp_names){0};
}

/* Its slot, or the free one where it belongs. */
static uint32_t *slot_of(const struct sp_names *names, const char *text, size_t length)
{
    uint32_t mask = names->slot_count - 1;
    for (uint32_t i = (uint32_t)hash_of(text, length) & mask;; i = (i + 1) & mask) {
        uint32_t number = names->slots[i];
        if (number == 0)
            return &names->slots[i];
        const char *known = names->texts[number - 1];
        if (strncmp(known, text, length) == 0 && known[length] == '\0')
            return &names->slots[i];
    }
}

uint32_t sp_names_find(const struct sp_names *names, const char *text, size_t length)
{
    return names->count > 0 ? *slot_of(names, text, length) : 0;
}

static void grow(struct sp_names *names)
{
    names->slot_count = names->slot_count ? 2 * names->slot_count : FIRST_SLOTS;
    free(names->slots);
    names->slots = sp_xarray(names->slot_count, sizeof(*names->slots));
    names->texts = sp_xgrow(names->texts, names->slot_count / 2, sizeof(*names->texts));
    for (uint32_t i = 0; i < names->count; i++)
        *slot_of(names, names->texts[i], strlen(names->texts[i])) = i + 1;
}

uint32_t sp_names_add(struct sp_names *names, const char *text)
{
    size_t length = strlen(text);
    if (2 * names->count >= names->slot_count) /* at least half of the slots are free */
        grow(names);
    uint32_t *slot = slot_of(names, text, length);
    if (*slot == 0) {
        names->texts[names->count++] = sp_xstrndup(text, length);
        *slot = names->count;
    }
    return *slot;
}
