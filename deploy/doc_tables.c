/* doc-tables: prints what the tables in the code know, for documents, man pages and example files.
 * Used while building; not installed.
 *
 *     doc-tables example|markdown coordinator|generator|trainer|run
 *     doc-tables man coordinator|generator|trainer|run PAGE.in   (its line @SETTINGS@ is replaced)
 *     doc-tables limits                                         (Markdown table of every limit)
 *     doc-tables metrics                                        (Markdown table of every metric)
 *     doc-tables messages                                       (Markdown, every message) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/metrics.h"
#include "coordinator/settings.h"
#include "generator/settings.h"
#include "proto/messages.h"
#include "proto/run_settings.h"
#include "trainer/settings.h"

#define MARK "@SETTINGS@\n"
#define PAGE_BYTES (1 << 20)

static const struct sp_config_spec *find_spec(const char *name)
{
    if (strcmp(name, "coordinator") == 0)
        return &coord_settings_spec;
    if (strcmp(name, "generator") == 0)
        return &gen_settings_spec;
    if (strcmp(name, "trainer") == 0)
        return &train_settings_spec;
    return strcmp(name, "run") == 0 ? &run_settings_spec : NULL;
}

static int man_page(const struct sp_config_spec *spec, const char *path)
{
    struct sp_error err = {0};
    struct sp_buf table = SP_BUF_INIT;
    char *page = NULL;
    size_t length = 0;
    if (sp_read_file(path, PAGE_BYTES, &page, &length, &err) != SP_OK) {
        fprintf(stderr, "doc-tables: %s\n", err.text);
        return 1;
    }
    char *mark = strstr(page, MARK);
    if (!mark) {
        fprintf(stderr, "doc-tables: %s: no line " MARK, path);
        free(page);
        return 1;
    }
    sp_config_man(spec, &table);
    fwrite(page, 1, (size_t)(mark - page), stdout);
    fputs(table.data ? table.data : "", stdout);
    fputs(mark + strlen(MARK), stdout);
    sp_buf_deinit(&table);
    free(page);
    return 0;
}

static void limits(void)
{
    printf("| limit | value | bounds |\n| --- | ---: | --- |\n");
#define ROW(name, value, what) printf("| `%s` | %lld | %s |\n", #name, (long long)(value), what);
    SP_LIMIT_LIST(ROW)
#undef ROW
}

#define FIELD(kind, name, help) printf("| `%s` | %s | %s |\n", #name, #kind, help);
#define LIST(item, name, help) printf("| `%s` | list of %s | %s |\n", #name, #item, help);
#define TABLE(name, NAME)                                                                          \
    printf("\n### %s\n\n| field | kind | |\n| --- | --- | --- |\n", #name);                        \
    PROTO_##NAME##_FIELDS(FIELD, LIST)
#define MESSAGE_TABLE(name, NAME, number)                                                          \
    printf("\n### %d: %s\n\n| field | kind | |\n| --- | --- | --- |\n", number, #name);            \
    PROTO_##NAME##_FIELDS(FIELD, LIST)

static void messages(void)
{
    printf("## Messages\n");
    PROTO_MESSAGES(MESSAGE_TABLE)
    printf("\n## Items of lists\n");
    PROTO_ITEMS(TABLE)
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "limits") == 0) {
        limits();
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "messages") == 0) {
        messages();
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "metrics") == 0) {
        struct sp_buf table = SP_BUF_INIT;
        coord_metrics_markdown(&table);
        fputs(table.data, stdout);
        sp_buf_deinit(&table);
        return 0;
    }
    const struct sp_config_spec *spec = argc >= 3 ? find_spec(argv[2]) : NULL;
    if (!spec) {
        fprintf(stderr, "usage: doc-tables example|markdown|man PROGRAM [PAGE.in]\n");
        return 2;
    }
    if (strcmp(argv[1], "man") == 0 && argc == 4)
        return man_page(spec, argv[3]);
    struct sp_buf text = SP_BUF_INIT;
    if (strcmp(argv[1], "example") == 0)
        sp_config_example(spec, &text);
    else
        sp_config_markdown(spec, &text);
    fputs(text.data ? text.data : "", stdout);
    sp_buf_deinit(&text);
    return 0;
}
