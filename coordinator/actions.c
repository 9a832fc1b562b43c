#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/utf8.h"
#include "coordinator/core_internal.h"

void coord_actions_clear(struct coord_actions *actions)
{
    for (size_t i = 0; i < actions->count; i++) {
        struct coord_action *action = &actions->items[i];
        free(action->text);
        free(action->name);
        free(action->key);
        free(action->ids);
        free(action->positions);
        free(action->roots);
    }
    actions->count = 0;
}

void coord_actions_deinit(struct coord_actions *actions)
{
    coord_actions_clear(actions);
    free(actions->items);
    *actions = (struct coord_actions){0};
}

struct coord_action *core_action(struct coord_core *core, enum coord_action_kind kind)
{
    struct coord_actions *out = core->out;
    if (out->count == out->capacity) {
        out->capacity = out->capacity ? out->capacity * 2 : 16;
        out->items = sp_xgrow(out->items, out->capacity, sizeof(*out->items));
    }
    struct coord_action *action = &out->items[out->count++];
    *action = (struct coord_action){.kind = kind};
    return action;
}

struct coord_action *core_reply(struct coord_core *core, uint64_t handle, enum proto_type type)
{
    struct coord_action *action = core_action(core, COORD_DO_REPLY);
    action->handle = handle;
    action->type = type;
    return action;
}

char *core_clip(const char *text, size_t bytes)
{
    size_t length = strlen(text), end = 0;
    while (end < length) {
        size_t width = sp_utf8_char(text + end, length - end);
        if (width == 0 || end + width > bytes)
            break;
        end += width;
    }
    return sp_xstrndup(text, end);
}

static char *format_text(const char *format, va_list args)
{
    char text[SP_ERROR_TEXT_BYTES];
    vsnprintf(text, sizeof(text), format, args);
    return core_clip(text, sizeof(text) - 1);
}

void core_reply_error(struct coord_core *core, uint64_t handle, enum sp_err status,
                      uint32_t retry_after_ms, const char *format, ...)
{
    struct coord_action *action = core_action(core, COORD_DO_REPLY_ERROR);
    action->handle = handle;
    action->status = status;
    action->retry_after_ms = retry_after_ms;
    va_list args;
    va_start(args, format);
    action->text = format_text(format, args);
    va_end(args);
}

void core_reply_busy(struct coord_core *core, uint64_t handle)
{
    core_reply_error(core, handle, SP_EUNAVAIL, (uint32_t)core->options.times.busy_ms,
                     "a change of the iteration's state is being written");
}

void core_reply_json(struct coord_core *core, uint64_t handle, json_t *object)
{
    struct coord_action *action = core_reply(core, handle, PROTO_ADMIN_REPLY);
    action->text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(17));
    SP_ASSERT(action->text);
    action->body.admin.json = action->text;
    json_decref(object);
}

void core_log(struct coord_core *core, enum sp_log_level level, const char *format, ...)
{
    struct coord_action *action = core_action(core, COORD_DO_LOG);
    action->level = level;
    va_list args;
    va_start(args, format);
    action->text = format_text(format, args);
    va_end(args);
}

struct coord_write *core_write(enum coord_write_kind kind, const struct coord_run *run)
{
    struct coord_write *write = sp_xalloc(sizeof(*write));
    write->kind = kind;
    write->run = run ? run->info.name : NULL;
    if (run && run->iteration)
        write->iteration = run->iteration->number;
    return write;
}

void core_write_event(struct coord_write *write, const char *actor, const char *kind,
                      const char *format, ...)
{
    va_list args;
    va_start(args, format);
    free(write->event_text);
    free(write->actor);
    write->event_text = format_text(format, args);
    va_end(args);
    write->actor = sp_xstrdup(actor);
    write->event_kind = kind;
}

void core_send(struct coord_core *core, struct coord_write *write)
{
    write->id = ++core->next_write;
    coord_map_put(&core->write_by_id, write->id, write);
    core_action(core, COORD_DO_WRITE)->write = write;
}
