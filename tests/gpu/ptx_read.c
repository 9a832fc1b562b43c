/* Reads what nvcc writes: a statement a line, declarations and instructions; lines of the source by
 * .loc. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "tests/gpu/ptx_impl.h"

enum { MAX_TEXT = 512, MAX_SYMBOLS = 256, MAX_BANKS = 16, MAX_FILES = 64 };

struct bank { /* of registers: %r<112> */
    char name[16];
    enum ptx_width width;
    uint32_t first, count;
};

struct symbol {
    char name[256];
    uint64_t at;
};

struct label {
    char name[64];
    uint32_t op;
};

struct reader {
    const char *path;
    int line;
    struct ptx *ptx;
    struct ptx_kernel *kernel; /* that is read; NULL: none */
    struct bank banks[MAX_BANKS];
    int n_banks;
    struct symbol symbols[MAX_SYMBOLS]; /* parameter, variables in shared and local memory */
    int n_symbols, n_outside;           /* those from outside of kernels come first */
    struct label *labels;
    size_t n_labels;
    char (*targets)[64]; /* of the branches, by instruction */
    char files[MAX_FILES][PTX_NAME];
    const char *source;
};

static _Noreturn void refuse(const struct reader *r, const char *what, const char *text)
{
    fprintf(stderr, "%s:%d: %s: %s\n", r->path, r->line, what, text);
    exit(2);
}

/* --- what instructions there are --- */

struct form {
    const char *text, *widths;
    enum ptx_code code;
};

#define BY_SIZES(result, type, both, to_8, to_4, neither)                                          \
    (sizeof(result) == 8 ? sizeof(type) == 8 ? both : to_8 : sizeof(type) == 8 ? to_4 : neither)
#define UNARY(text, name, result, type, expr)                                                      \
    {text, BY_SIZES(result, type, "88", "84", "48", "44"), PTX_##name},
#define BINARY(text, name, result, type, expr)                                                     \
    {text, BY_SIZES(result, type, "888", "844", "488", "444"), PTX_##name},
#define TERNARY(text, name, result, type, expr)                                                    \
    {text, sizeof(type) == 8 ? "8888" : "4444", PTX_##name},
#define SHIFT(text, name, type, expr) {text, "884", PTX_##name},
#define COMPARE(text, name, type, expr) {text, sizeof(type) == 8 ? "p88" : "p44", PTX_##name},
#define SELECT(text, name, type) {text, sizeof(type) == 8 ? "888p" : "444p", PTX_##name},
#define PREDICATE(text, name, expr)                                                                \
    {text, PTX_##name == PTX_NOT_PRED || PTX_##name == PTX_MOV_PRED ? "pp" : "ppp", PTX_##name},
#define OTHER(text, name, widths) {text, widths, PTX_##name},
static const struct form forms[] = {
    PTX_UNARY(UNARY) PTX_BINARY(BINARY) PTX_TERNARY(TERNARY) PTX_SHIFT(SHIFT) PTX_COMPARE(COMPARE)
        PTX_SELECT(SELECT) PTX_PREDICATE(PREDICATE) PTX_OTHER(OTHER){"bra", "", PTX_BRA},
    {"bra.uni", "", PTX_BRA},
};

static const struct form *form_of(const struct reader *r, const char *text)
{
    for (size_t i = 0; i < SP_COUNT(forms); i++)
        if (strcmp(forms[i].text, text) == 0)
            return &forms[i];
    refuse(r, "an instruction that the machine doesn't know (ptx_ops.h)", text);
}

/* --- places --- */

/* From one place to the next: multiples of 64. */
static uint32_t bytes_of(enum ptx_width width)
{
    return width == PTX_PRED ? 64 : width == PTX_4 ? 4 * PTX_LANES : 8 * PTX_LANES;
}

static struct ptx_place constant(struct ptx_kernel *k, enum ptx_width width, int kind,
                                 uint64_t number)
{
    for (size_t i = 0; i < k->n_constants; i++) {
        const struct ptx_constant *c = &k->constants[i];
        if (c->place.width == width && (int)c->kind == kind && c->number == number)
            return c->place;
    }
    k->constants = sp_xgrow(k->constants, k->n_constants + 1, sizeof(*k->constants));
    struct ptx_constant *c = &k->constants[k->n_constants++];
    *c = (struct ptx_constant){.place = {k->file_bytes, width}, .number = number};
    c->kind = kind;
    k->file_bytes += bytes_of(width);
    return c->place;
}

static bool symbol_of(const struct reader *r, const char *name, uint64_t *ret)
{
    for (int i = r->n_symbols; i-- > 0;)
        if (strcmp(r->symbols[i].name, name) == 0) {
            *ret = r->symbols[i].at;
            return true;
        }
    return false;
}

static bool register_of(const struct reader *r, const char *text, struct ptx_place *ret)
{
    for (int i = 0; i < r->n_banks; i++) {
        const struct bank *bank = &r->banks[i];
        size_t n = strlen(bank->name);
        if (strncmp(text, bank->name, n) != 0 || (text[n] && !isdigit((unsigned char)text[n])))
            continue;
        uint32_t number = (uint32_t)strtoul(text + n, NULL, 10);
        if (number >= bank->count)
            refuse(r, "a register that was not declared", text);
        *ret = (struct ptx_place){bank->first + number * bytes_of(bank->width), bank->width};
        return true;
    }
    return false;
}

static const char *const specials[] = {
    [PTX_TID_X] = "%tid.x",       [PTX_TID_Y] = "%tid.y",       [PTX_NTID_X] = "%ntid.x",
    [PTX_NTID_Y] = "%ntid.y",     [PTX_CTAID_X] = "%ctaid.x",   [PTX_CTAID_Y] = "%ctaid.y",
    [PTX_NCTAID_X] = "%nctaid.x", [PTX_NCTAID_Y] = "%nctaid.y", [PTX_LANEID] = "%laneid",
};

/* width: 4, 8, p; r: a register's own */
static struct ptx_place operand(struct reader *r, const char *text, char width)
{
    struct ptx_place place;
    enum ptx_width wanted = width == '8' ? PTX_8 : width == 'p' ? PTX_PRED : PTX_4;
    if (register_of(r, text, &place)) {
        if (width != 'r' && place.width != wanted)
            refuse(r, "a register of another width", text);
        return place;
    }
    for (size_t i = PTX_TID_X; i < SP_COUNT(specials); i++)
        if (strcmp(text, specials[i]) == 0)
            return constant(r->kernel, PTX_4, (int)i, 0);
    uint64_t number;
    char *end;
    if (width == 'r')
        wanted = PTX_8;
    if (text[0] == '0' && (text[1] == 'f' || text[1] == 'd'))
        number = strtoull(text + 2, &end, 16);
    else if (text[0] == '-' || isdigit((unsigned char)text[0]))
        number = (uint64_t)strtoll(text, &end, 0);
    else if (symbol_of(r, text, &number))
        end = "";
    else
        refuse(r, "an operand that is not known", text);
    if (*end)
        refuse(r, "not a number", text);
    return constant(r->kernel, wanted, PTX_NUMBER, wanted == PTX_8 ? number : (uint32_t)number);
}

/* --- instructions --- */

static struct ptx_op *op_new(struct reader *r, enum ptx_code code)
{
    struct ptx_kernel *k = r->kernel;
    k->ops = sp_xgrow(k->ops, k->n_ops + 1, sizeof(*k->ops));
    r->targets = sp_xgrow(r->targets, k->n_ops + 1, sizeof(*r->targets));
    r->targets[k->n_ops][0] = '\0';
    struct ptx_op *op = &k->ops[k->n_ops++];
    *op = (struct ptx_op){.code = code, .guard = -1, .source = r->source};
    return op;
}

/* [name], [name+8]: a register or a symbol, and bytes behind it. */
static struct ptx_place address(struct reader *r, char *text, int64_t *ret_offset)
{
    char *plus = strchr(text, '+');
    *ret_offset = plus ? strtoll(plus + 1, NULL, 10) : 0;
    if (plus)
        *plus = '\0';
    return operand(r, text, 'r');
}

/* ld and st: .space(.v2).type */
static bool read_access(struct reader *r, const char *name, char *part[], int n)
{
    static const char *const spaces[] = {"param", "global", "shared", "local"};
    bool load = strncmp(name, "ld.", 3) == 0;
    if (!load && strncmp(name, "st.", 3) != 0)
        return false;
    char text[64], *save = NULL;
    snprintf(text, sizeof(text), "%s", name + 3);
    struct ptx_op op = {.vector = 1};
    int space = -1;
    for (char *word = strtok_r(text, ".", &save); word; word = strtok_r(NULL, ".", &save)) {
        bool known = false;
        for (int i = 0; i < 4; i++)
            if (strcmp(word, spaces[i]) == 0) {
                space = i;
                known = true;
            }
        if (word[0] == 'v' && !word[2]) {
            op.vector = (uint8_t)(word[1] - '0');
            known = true;
        } else if (strchr("usfb", word[0]) && isdigit((unsigned char)word[1])) {
            op.bytes = (uint8_t)(atoi(word + 1) / 8);
            op.is_signed = word[0] == 's';
            known = true;
        }
        if (!known)
            refuse(r, "a form of access that the machine doesn't know", name);
    }
    if (space < 0 || op.bytes == 0 || n != op.vector + 1 || (!load && space == PTX_PARAM))
        refuse(r, "a form of access that the machine doesn't know", name);
    struct ptx_op *to = op_new(r, load ? PTX_LD : PTX_ST);
    to->space = (enum ptx_space)space;
    to->bytes = op.bytes;
    to->vector = op.vector;
    to->is_signed = op.is_signed;
    to->n = (uint8_t)n;
    to->operand[0] = address(r, part[load ? n - 1 : 0], &to->offset);
    for (int i = 0; i < op.vector; i++)
        to->operand[1 + i] = operand(r, part[load ? i : 1 + i],
                                     part[load ? i : 1 + i][0] == '%' ? 'r'
                                     : op.bytes == 8                  ? '8'
                                                                      : '4');
    return true;
}

/* mov of two halves: into braces, or out of them */
static bool read_parts(struct reader *r, const char *name, const char *text, char *part[], int n)
{
    bool wide = strcmp(name, "mov.b64") == 0;
    if ((!wide && strcmp(name, "mov.b32") != 0) || !strchr(text, '{'))
        return false;
    bool unpack = *text == '{';
    if (n != 3)
        refuse(r, "a move that the machine doesn't know", text);
    struct ptx_op *op = op_new(r, unpack ? wide ? PTX_UNPACK_B64 : PTX_UNPACK_B32
                                  : wide ? PTX_PACK_B64
                                         : PTX_PACK_B32);
    op->n = 3;
    for (int i = 0; i < 3; i++)
        op->operand[i] = operand(r, part[i], (unpack ? i == 2 : i == 0) && wide ? '8' : '4');
    return true;
}

static void read_plain(struct reader *r, const char *name, char *part[], int n)
{
    const struct form *form = form_of(r, name);
    struct ptx_op *op = op_new(r, form->code);
    if (form->code == PTX_BRA) {
        if (n != 1)
            refuse(r, "a branch with another number of operands", name);
        snprintf(r->targets[r->kernel->n_ops - 1], sizeof(*r->targets), "%s", part[0]);
        return;
    }
    if (n != (int)strlen(form->widths))
        refuse(r, "another number of operands", name);
    op->n = (uint8_t)n;
    if (strchr(form->widths, 'r')) /* ldmatrix, cp.async */
        op->space = PTX_SHARED;
    for (int i = 0; i < n; i++) {
        int64_t offset = 0;
        struct ptx_place place = form->widths[i] == 'r' ? address(r, part[i], &offset)
                                                        : operand(r, part[i], form->widths[i]);
        op->operand[i] = place;
        if (offset && form->code == PTX_CP_ASYNC)
            refuse(r, "a copy with an offset", name);
        op->offset += offset;
    }
}

static void read_op(struct reader *r, char *text)
{
    int32_t guard = -1;
    bool negated = false;
    if (*text == '@') {
        char *name = text + 1, *end = strchr(name, ' ');
        if (*name == '!') {
            negated = true;
            name++;
        }
        if (!end)
            refuse(r, "a guard without an instruction", text);
        *end = '\0';
        guard = (int32_t)operand(r, name, 'p').at;
        text = end + 1;
    }
    text += strspn(text, " ");
    char *rest = text + strcspn(text, " ");
    if (*rest)
        *rest++ = '\0';
    rest += strspn(rest, " ");
    char copy[MAX_TEXT], *part[PTX_OPERANDS + 1], *save = NULL;
    int n = 0;
    snprintf(copy, sizeof(copy), "%s", rest);
    for (char *word = strtok_r(copy, " ,{}[]|", &save); word;
         word = strtok_r(NULL, " ,{}[]|", &save)) {
        if (n == PTX_OPERANDS)
            refuse(r, "too many operands", text);
        part[n++] = word;
    }
    if (!read_access(r, text, part, n) && !read_parts(r, text, rest, part, n))
        read_plain(r, text, part, n);
    struct ptx_op *op = &r->kernel->ops[r->kernel->n_ops - 1];
    op->guard = guard;
    op->negated = negated;
}

/* --- declarations --- */

static void declare(struct reader *r, const char *name, uint64_t at)
{
    if (r->n_symbols == MAX_SYMBOLS)
        refuse(r, "too many symbols", name);
    snprintf(r->symbols[r->n_symbols].name, sizeof(r->symbols[0].name), "%s", name);
    r->symbols[r->n_symbols++].at = at;
}

static void read_registers(struct reader *r, const char *text)
{
    char type[16], name[16];
    unsigned count = 1;
    if (sscanf(text, ".reg .%15s %15[%A-Za-z]<%u>", type, name, &count) < 2)
        refuse(r, "a declaration of registers", text);
    if (r->n_banks == MAX_BANKS)
        refuse(r, "too many kinds of registers", text);
    struct bank *bank = &r->banks[r->n_banks++];
    snprintf(bank->name, sizeof(bank->name), "%s", name);
    bank->width = strcmp(type, "pred") == 0 ? PTX_PRED : strstr(type, "64") ? PTX_8 : PTX_4;
    bank->count = count;
    bank->first = r->kernel->file_bytes;
    r->kernel->file_bytes += count * bytes_of(bank->width);
}

/* .shared .align 4 .b8 name[1088];   .local …;   .shared .align 8 .f64 name; */
static void read_variable(struct reader *r, char *text, uint32_t *bytes)
{
    uint32_t align = 1, size = 0;
    char *save = NULL, *name = NULL;
    text[strcspn(text, ";")] = '\0';
    for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save))
        if (strcmp(word, ".align") == 0)
            align = (uint32_t)strtoul(strtok_r(NULL, " ", &save), NULL, 10);
        else if (*word == '.' && word[1] && isdigit((unsigned char)word[2]))
            size = (uint32_t)strtoul(word + 2, NULL, 10) / 8;
        else
            name = word;
    char *count = name ? strchr(name, '[') : NULL;
    if (!name || size == 0)
        refuse(r, "a variable", text);
    if (count) {
        size *= (uint32_t)strtoul(count + 1, NULL, 10);
        *count = '\0';
    }
    *bytes = (*bytes + align - 1) / align * align;
    declare(r, name, *bytes);
    *bytes += size;
}

/* Dynamic shared memory begins behind the kernel's own, at a multiple of its alignment. */
static void place_dynamic(struct reader *r)
{
    struct ptx_kernel *k = r->kernel;
    k->shared_bytes = (k->shared_bytes + 127) / 128 * 128;
    for (int i = 0; i < r->n_outside; i++)
        r->symbols[i].at = k->shared_bytes;
}

/* _Z17gpu_typed_product17…: the name in the source. */
static void begin_kernel(struct reader *r, const char *text)
{
    const char *at = strstr(text, "_Z");
    char *name;
    size_t length = at ? strtoul(at + 2, &name, 10) : 0;
    if (length == 0 || length >= PTX_NAME)
        refuse(r, "the name of a kernel", text);
    struct ptx *ptx = r->ptx;
    ptx->kernels = sp_xgrow(ptx->kernels, ptx->n_kernels + 1, sizeof(*ptx->kernels));
    r->kernel = &ptx->kernels[ptx->n_kernels++];
    *r->kernel = (struct ptx_kernel){0};
    memcpy(r->kernel->name, name, length);
    r->n_banks = 0;
    r->n_symbols = r->n_outside;
    r->n_labels = 0;
    place_dynamic(r);
}

static void end_kernel(struct reader *r)
{
    struct ptx_kernel *k = r->kernel;
    for (size_t i = 0; i < k->n_ops; i++) {
        if (k->ops[i].code != PTX_BRA)
            continue;
        size_t l = 0;
        while (l < r->n_labels && strcmp(r->labels[l].name, r->targets[i]) != 0)
            l++;
        if (l == r->n_labels)
            refuse(r, "a branch to nowhere", r->targets[i]);
        k->ops[i].target = r->labels[l].op;
    }
    op_new(r, PTX_RET);
    r->kernel = NULL;
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* .loc file line column(, function_name …, inlined_at file line column) */
static void read_source(struct reader *r, const char *text)
{
    unsigned a, b, c, d;
    const char *inlined = strstr(text, "inlined_at");
    char place[2 * PTX_NAME + 32];
    if (sscanf(text, ".loc %u %u", &a, &b) != 2 || a >= MAX_FILES)
        refuse(r, "a place in the source", text);
    int n = snprintf(place, sizeof(place), "%s:%u", r->files[a], b);
    if (inlined && sscanf(inlined, "inlined_at %u %u", &c, &d) == 2 && c < MAX_FILES)
        snprintf(place + n, sizeof(place) - (size_t)n, " in %s:%u", r->files[c], d);
    struct ptx *ptx = r->ptx;
    if (r->source && strcmp(r->source, place) == 0)
        return;
    ptx->sources = sp_xgrow(ptx->sources, ptx->n_sources + 1, sizeof(*ptx->sources));
    r->source = ptx->sources[ptx->n_sources++] = sp_xstrdup(place);
}

static void read_directive(struct reader *r, char *text)
{
    char name[256];
    unsigned a, b;
    if (strstr(text, ".entry ")) {
        begin_kernel(r, text);
    } else if (begins(text, ".extern .shared")) {
        if (sscanf(strstr(text, ".b8"), ".b8 %255[^[]", name) != 1)
            refuse(r, "a variable", text);
        declare(r, name, 0);
        r->n_outside = r->n_symbols;
    } else if (begins(text, ".param")) {
        if (!r->kernel || sscanf(text, ".param .align %u .b8 %255[^[][%u", &a, name, &b) != 3)
            refuse(r, "a parameter", text);
        r->kernel->param_bytes = b;
        declare(r, name, 0);
    } else if (begins(text, ".reg")) {
        read_registers(r, text);
    } else if (begins(text, ".shared")) {
        read_variable(r, text, &r->kernel->shared_bytes);
        place_dynamic(r);
    } else if (begins(text, ".local")) {
        read_variable(r, text, &r->kernel->local_bytes);
    } else if (begins(text, ".loc")) {
        read_source(r, text);
    } else if (begins(text, ".maxntid")) {
        sscanf(text, ".maxntid %u", &r->kernel->max_threads);
    } else if (!begins(text, ".version") && !begins(text, ".target") &&
               !begins(text, ".address_size") && !begins(text, ".minnctapersm") &&
               !begins(text, ".pragma") && !begins(text, ".file")) {
        refuse(r, "a declaration that the machine doesn't know", text);
    }
}

static void read_statement(struct reader *r, char *text)
{
    size_t n = strlen(text);
    text += strspn(text, " {");
    if (*text == '.') {
        read_directive(r, text);
    } else if (*text == ')' || *text == '\0') {
        return;
    } else if (*text == '$' && text[strcspn(text, " :")] == ':') {
        r->labels = sp_xgrow(r->labels, r->n_labels + 1, sizeof(*r->labels));
        struct label *label = &r->labels[r->n_labels++];
        text[strcspn(text, ":")] = '\0';
        snprintf(label->name, sizeof(label->name), "%s", text);
        label->op = (uint32_t)r->kernel->n_ops;
    } else if (r->kernel && n < MAX_TEXT) {
        read_op(r, text);
    } else {
        refuse(r, "a line that the machine doesn't know", text);
    }
}

/* A line: statements up to `;`, a label, or a directive; braces of their own begin and end a
 * kernel, or stand around lines of inline assembly. */
static void read_line(struct reader *r, char *line)
{
    char *comment = strstr(line, "//"), *save = NULL;
    if (comment)
        *comment = '\0';
    for (char *at = line; *at; at++)
        if (*at == '\t' || *at == '\n')
            *at = ' ';
    if (line[0] == '}') {
        if (r->kernel)
            end_kernel(r);
        return;
    }
    for (char *text = strtok_r(line, ";", &save); text; text = strtok_r(NULL, ";", &save))
        if (text[strspn(text, " }")])
            read_statement(r, text + strspn(text, " }"));
}

/* They stand at the end. */
static void read_file_names(struct reader *r, FILE *file)
{
    char *line = NULL, name[256];
    size_t room = 0;
    unsigned number;
    while (getline(&line, &room, file) > 0) {
        if (sscanf(line, " .file %u \"%255[^\"]", &number, name) != 2)
            continue;
        if (number >= MAX_FILES)
            refuse(r, "too many files of the source", name);
        const char *slash = strrchr(name, '/');
        snprintf(r->files[number], sizeof(*r->files), "%.79s", slash ? slash + 1 : name);
    }
    free(line);
    rewind(file);
}

void ptx_read_file(struct ptx *ptx, const char *path)
{
    struct reader *r = sp_xalloc(sizeof(*r));
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    r->path = path;
    r->source = "?";
    r->ptx = ptx;
    if (!file)
        refuse(r, "can't be read", strerror(errno));
    read_file_names(r, file);
    while (getline(&line, &room, file) > 0) {
        r->line++;
        if (strstr(line, ".section"))
            break; /* names for a debugger */
        read_line(r, line);
    }
    free(line);
    fclose(file);
    free(r->labels);
    free(r->targets);
    free(r);
}
